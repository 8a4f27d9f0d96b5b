"""The command: sets the stage, lets the targets run, reports. Ends with 1 if anything went wrong."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bench import endurance, growth, open_loop, plan, reads, report, search, stage, upserts
from bench.figures import Cell
from bench.plan import Plan
from bench.stage import Stage


@dataclass(frozen=True)
class Experiment:
    """What a subcommand runs, and how it tells of it. `check` looks whether it can run at all."""

    cells: Callable[[Stage, Plan], Iterator[Cell]]
    tables: Callable[[Sequence[Cell]], Iterator[str]]
    check: Callable[[Plan], None] = lambda asked: None


EXPERIMENTS = {
    plan.UPSERTS: Experiment(upserts.cells, upserts.tables),
    plan.OPEN_LOOP: Experiment(open_loop.cells, open_loop.tables),
    plan.READS: Experiment(reads.cells, reads.tables),
    plan.GROWTH: Experiment(growth.cells, growth.tables, growth.check),
    plan.ENDURANCE: Experiment(endurance.cells, endurance.tables),
    plan.SEARCH: Experiment(search.cells, search.tables),
}


def main() -> None:
    asked = plan.read(sys.argv[1:])
    experiment = EXPERIMENTS[asked.command]
    experiment.check(asked)
    with stage.prepared() as ready:
        about = report.surroundings(ready.owner.row("show server_version")[0])
        cells = list(experiment.cells(ready, asked))
    print("\n".join([report.setting(asked, about), "", *experiment.tables(cells)]).rstrip())
    if asked.json:
        asked.json.write_text(report.as_json(asked, cells, about) + "\n", encoding="utf-8")
    if any(cell.errors for cell in cells):
        sys.exit(1)


if __name__ == "__main__":
    main()
