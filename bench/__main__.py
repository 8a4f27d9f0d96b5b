"""The command: sets the stage, lets both sides run in turn, reports. Ends with 1 if anything went wrong."""

import sys
from collections.abc import Iterator

from bench import baseline, cars, contestant, plan, report, stage
from bench.figures import Cell
from bench.plan import Plan
from bench.stage import Stage

# More than a cell can send, so that no two cells send the same value.
_VALUES_A_CELL = 10**8


def _cells(ready: Stage, asked: Plan) -> Iterator[Cell]:
    """Every cell of every round; pgbench and HTTP at one number of connections stand side by side."""
    first_value = cars.FIRST_VALUE
    for round_number in range(1, asked.rounds + 1):
        for connections in asked.connections:
            yield baseline.run(ready, asked, connections, round_number)
            yield contestant.run(ready, asked, connections, round_number, first_value)
            first_value += _VALUES_A_CELL


def _measured(asked: Plan) -> tuple[list[Cell], dict[str, object]]:
    cells: list[Cell] = []
    with stage.prepared(asked) as ready:
        about = report.surroundings(ready.owner.row("show server_version")[0])
        for cell in _cells(ready, asked):
            cells.append(cell)
            progress = f"round {cell.round}: {cell.what} at {cell.connections}"
            print(f"{progress}: {cell.latencies.per_second:,.0f}/s", file=sys.stderr, flush=True)
    return cells, about


def main() -> None:
    asked = plan.read()
    cells, about = _measured(asked)
    print(report.markdown(asked, cells, about))
    if asked.json:
        asked.json.write_text(report.as_json(asked, cells, about) + "\n", encoding="utf-8")
    if any(cell.errors for cell in cells):
        sys.exit(1)


if __name__ == "__main__":
    main()
