"""The memory of a server under full load, looked at again and again."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from statistics import mean

from bench import report, targets, workloads
from bench.figures import Cell, slope
from bench.plan import Plan
from bench.stage import Stage
from bench.targets import Turn
from bench.wire import Errand
from bench.workloads import CAR

_MINUTE = 60
_FIRST, _LAST, _SLOPE = "MB in the first minute", "MB in the last", "MB more an hour"
_HELD = (report.WHAT, report.CONNECTIONS, report.RATE, report.P50, report.P99, report.note(_FIRST, ".1f"),
         report.note(_LAST, ".1f"), report.note(_SLOPE, "+.1f"), report.ERRORS)  # fmt: skip


def cells(stage: Stage, plan: Plan) -> Iterator[Cell]:
    """One long cell each."""
    workloads.set_up(stage, plan)
    sites = [targets.site(stage, name) for name in plan.targets]
    for round_number, connections, site in product(range(1, plan.rounds + 1), plan.connections, sites):
        errand = Errand("update", CAR, plan.keys, next(stage.first_values))
        turn = Turn("endurance", connections, round_number)
        cell = targets.of_site(stage, plan, turn, site, errand, every=plan.every)
        yield replace(cell, notes=_notes(cell.usage["server"].series))


def _notes(series: Sequence[tuple[float, float]]) -> dict[str, float]:
    over = series[-1][0]
    return {
        _FIRST: mean(held for moment, held in series if moment <= _MINUTE),
        _LAST: mean(held for moment, held in series if moment >= over - _MINUTE),
        _SLOPE: slope(series) * 3600,
    }


def tables(cells: Sequence[Cell]) -> Iterator[str]:
    """The report: the figures, then each look at the memory, a minute in a row."""
    yield from report.by_section(cells, _HELD, report.COST)
    for cell in cells:
        yield f"MB of {cell.what} at {cell.connections} connections, round {cell.round}:"
        yield ""
        yield from report.grid(("minute", "MB, look by look"), _by_minute(cell.usage["server"].series))
        yield ""


def _by_minute(series: Sequence[tuple[float, float]]) -> Iterator[tuple[str, str]]:
    for minute in range(int(series[-1][0] // _MINUTE) + 1):
        held = [held for moment, held in series if moment // _MINUTE == minute]
        yield str(minute + 1), " ".join(f"{one:.1f}" for one in held)
