"""The latency at a rate that the server can keep, counted from when each request was due.

A closed loop hides a stall: while it lasts, only those who wait for it are counted, and nobody else sends.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product

from bench import report, targets, workloads
from bench.figures import Cell
from bench.plan import Plan
from bench.stage import Stage
from bench.targets import Turn
from bench.wire import Errand
from bench.workloads import CAR

_CLOSED, _OPEN = "closed loop", "open loop"
_OFFERED = "offered/s"
_MOST = (report.WHAT, report.CONNECTIONS, report.RATE, report.P50, report.P99, report.ERRORS)
_KEPT = (
    report.WHAT,
    report.note(_OFFERED, ",.0f"),
    report.figure("answered/s", "per_second", ",.0f"),
    report.P50,
    report.P99,
    report.P999,
    report.MAX,
    report.note(targets.LATE),
    report.ERRORS,
)


def cells(stage: Stage, plan: Plan) -> Iterator[Cell]:
    """What a target reaches in a closed loop, then an open loop at its share of that; in rounds."""
    workloads.set_up(stage, plan)
    sites = [targets.site(stage, name) for name in plan.targets]
    rounds = range(1, plan.rounds + 1)
    for round_number, connections, site in product(rounds, plan.connections, sites):
        closed, opened = (Errand("update", CAR, plan.keys, next(stage.first_values)) for _ in range(2))
        most = targets.of_site(stage, plan, Turn(_CLOSED, connections, round_number), site, closed)
        yield most
        rate = max(1.0, most.latencies.per_second * plan.share)
        turn = Turn(_OPEN, plan.open_connections, round_number)
        cell = targets.of_site(stage, plan, turn, site, opened, rate)
        yield replace(cell, notes=cell.notes | {_OFFERED: rate})


def tables(cells: Sequence[Cell]) -> Iterator[str]:
    """The report."""
    closed = [cell for cell in cells if cell.section == _CLOSED]
    opened = [cell for cell in cells if cell.section == _OPEN]
    yield from report.by_section(closed, _MOST)
    yield from report.by_section(opened, _KEPT, report.COST)
