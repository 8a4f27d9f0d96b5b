"""The targets, a cell at a time: pgbench in plain SQL, and a server under load from another process."""

import dataclasses
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from bench import audit, pgbench, usage
from bench.figures import Cell, Latencies, Usage
from bench.load import MEASURING, Findings, Load
from bench.pgbench import Script
from bench.plan import PGBENCH, PGBENCH_32, Plan, workers_of
from bench.scripts import ROWS
from bench.sites import Site
from bench.stage import Stage
from bench.wire import Errand

Result = TypeVar("Result")
# By the names of the command line; the baseline is what the others are compared with.
BASELINE = "pgbench"
LATE = "late p99 ms"
PGBENCHES = {PGBENCH: BASELINE, PGBENCH_32: f"pgbench, {ROWS} rows"}


@dataclass(frozen=True)
class Turn:
    """The place of a cell in its run, and whether the totals of its table are audited before and after it."""

    section: str
    connections: int
    round: int
    audits_totals: bool = True


def site(stage: Stage, name: str) -> Site:
    """The server that a name of the command line asks for."""
    workers = workers_of(name)
    return stage.service(workers) if workers else stage.peer(name)


def of_pgbench(
    stage: Stage,
    plan: Plan,
    turn: Turn,
    script: Script,
    variables: Mapping[str, object],
    what: str = BASELINE,
) -> Cell:
    """One cell of the baseline."""
    is_audited = turn.audits_totals and script.table
    before = stage.owner.standing(script.table) if is_audited else None
    ran = pgbench.run(stage, plan, script, turn.connections, variables)
    errors: dict[str, int] = {}
    if before:
        wrong = abs(stage.owner.standing(script.table).writes - before.writes - ran.written)
        errors = {"lost or not changing": wrong} if wrong else {}
    written = ran.written if script.table else 0
    cell = Cell(turn.section, what, turn.connections, turn.round, ran.latencies, ran.usage, errors, written)
    return _told(cell)


def of_site(
    stage: Stage, plan: Plan, turn: Turn, on: Site, errand: Errand, rate: float = 0, every: float = 0
) -> Cell:
    """One cell of a server, in a closed loop or at a rate; audited, and its memory noted if asked."""
    load = Load(
        on.address, errand, turn.connections, plan.warmup, plan.seconds, plan.sample, rate, plan.arrivals
    )
    families = {"server": on.family, "postgresql": stage.postgresql}
    before = stage.owner.standing(on.table) if turn.audits_totals else None
    findings, used = _loaded(load, lambda: usage.over(load.seconds, families, every))
    errors = Counter(findings.errors) + audit.of_sample(stage.owner, on, errand, findings.standing)
    if before:
        errors += audit.of_totals(findings, before, stage.owner.standing(on.table))
    used["client"] = Usage(findings.cpu_seconds, 0)
    cell = Cell(turn.section, on.what, turn.connections, turn.round, findings.latencies, used, dict(errors),
                audit.acknowledged(findings.outcomes))  # fmt: skip
    return _told(dataclasses.replace(cell, notes={LATE: findings.late_p99_ms}) if rate else cell)


def _told(cell: Cell) -> Cell:
    """The cell, once its rate has been told on standard error."""
    place = f"round {cell.round}, {cell.section}: {cell.what} at {cell.connections}"
    wrong = f", ERRORS {cell.errors}" if cell.errors else ""
    print(f"{place}: {cell.latencies.per_second:,.0f}/s{wrong}", file=sys.stderr, flush=True)
    return cell


def _loaded(load: Load, meanwhile: Callable[[], Result]) -> tuple[Findings, Result]:
    """Runs a load in its process, and something else while it measures."""
    command = [sys.executable, "-m", "bench.load"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps(dataclasses.asdict(load)))
        process.stdin.close()
        if process.stdout.readline().strip() != MEASURING:
            raise RuntimeError("The load generator ended before it measured")
        result = meanwhile()
        output = process.stdout.read()
    if process.returncode != 0:
        raise RuntimeError("The load generator failed")
    values: dict[str, Any] = json.loads(output)
    values["latencies"] = Latencies(**values["latencies"])
    values["standing"] = {int(key): found for key, found in values["standing"].items()}
    return Findings(**values), result
