"""What a run found: medians over its rounds, as tables in GitHub's markdown and as JSON."""

import dataclasses
import json
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import psutil

from bench.figures import Cell
from bench.plan import Plan
from bench.targets import BASELINE


@dataclass(frozen=True)
class Line:
    """The cells of one target at one number of connections in one section, over all rounds.

    `ratio` is None where there is no baseline beside it.
    """

    section: str
    what: str
    connections: int
    cells: tuple[Cell, ...]
    ratio: float | None

    def median(self, figure: str) -> float:
        """The median of a figure of the latencies."""
        return float(median(getattr(cell.latencies, figure) for cell in self.cells))

    def note(self, name: str) -> float | None:
        """The median of a note."""
        found = [cell.notes[name] for cell in self.cells if name in cell.notes]
        return float(median(found)) if found else None

    def cpu_seconds(self, who: str) -> float | None:
        """What somebody used while this was measured."""
        used = [cell.usage[who].cpu_seconds for cell in self.cells if who in cell.usage]
        return float(median(used)) if used else None

    def memory(self, who: str) -> float | None:
        """The most memory that somebody held, in MB."""
        return max((cell.usage[who].memory_mb for cell in self.cells if who in cell.usage), default=None)

    def errors(self) -> dict[str, int]:
        """All errors by kind."""
        kinds = sorted({kind for cell in self.cells for kind in cell.errors})
        return {kind: sum(cell.errors.get(kind, 0) for cell in self.cells) for kind in kinds}


def lines(cells: Sequence[Cell]) -> list[Line]:
    """The cells by section, target and connections, in the order in which they were first run."""
    base = {
        (cell.section, cell.round, cell.connections): cell.latencies.per_second
        for cell in cells
        if cell.what == BASELINE
    }
    groups: dict[tuple[str, str, int], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.section, cell.what, cell.connections), []).append(cell)
    return [Line(*place, tuple(group), _ratio(group, base)) for place, group in groups.items()]


def _ratio(group: Sequence[Cell], base: dict[tuple[str, int, int], float]) -> float | None:
    ratios = [
        cell.latencies.per_second / per_second
        for cell in group
        if (per_second := base.get((cell.section, cell.round, cell.connections)))
    ]
    return float(median(ratios)) if ratios else None


Column = tuple[str, Callable[[Line], str]]


def figure(heading: str, name: str, form: str = ",.2f") -> Column:
    """A column with the median of a figure."""
    return heading, lambda line: format(line.median(name), form)


def note(heading: str, form: str = ",.2f") -> Column:
    """A column with the median of a note."""
    return heading, lambda line: shown(line.note(heading), form)


def _used(heading: str, who: str) -> Column:
    return heading, lambda line: shown(line.cpu_seconds(who), ".2f")


def _held(heading: str, who: str) -> Column:
    return heading, lambda line: shown(line.memory(who), ".0f")


def _wrong(line: Line) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in line.errors().items()) or "0"


def shown(value: float | None, form: str) -> str:
    """A value that may be missing."""
    return "" if value is None else format(value, form)


WHAT: Column = ("what", lambda line: line.what)
CONNECTIONS: Column = ("connections", lambda line: str(line.connections))
RATIO: Column = ("ratio to pgbench", lambda line: shown(line.ratio, ".2f"))
ERRORS: Column = ("errors", _wrong)
RATE = figure("requests/s", "per_second", ",.0f")
P50, P99, P999 = figure("p50 ms", "p50_ms"), figure("p99 ms", "p99_ms"), figure("p99.9 ms", "p999_ms")
MAX = figure("max ms", "max_ms")
SPEED = (WHAT, CONNECTIONS, RATE, P50, P99, RATIO, ERRORS)
COST = (
    ("CPU seconds and memory", lambda line: line.what),
    CONNECTIONS,
    _used("server", "server"),
    _used("PostgreSQL", "postgresql"),
    _used("client", "client"),
    _held("server MB", "server"),
    _held("PostgreSQL MB", "postgresql"),
)


def by_section(cells: Sequence[Cell], *tables: Sequence[Column]) -> Iterator[str]:
    """The same tables for each section, under its name."""
    found = lines(cells)
    for section in dict.fromkeys(line.section for line in found):
        yield f"### {section}"
        yield ""
        for columns in tables:
            yield from table(columns, (line for line in found if line.section == section))
            yield ""


def table(columns: Sequence[Column], found: Iterable[Line]) -> Iterator[str]:
    """A table of lines."""
    cells = ([told(line) for _, told in columns] for line in found)
    return grid([heading for heading, _ in columns], cells)


def grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Any table; all columns but the first are numbers."""
    alignment = ["---", *("---:" for _ in head[1:])]
    for row in (head, alignment, *rows):
        yield f"| {' | '.join(row)} |"


def setting(plan: Plan, about: dict[str, Any]) -> str:
    """What was measured in what surroundings."""
    told = ", ".join(f"{name} {value}" for name, value in about.items())
    keys = f", {plan.keys:,} keys" if plan.keys else ""
    return f"{plan.rounds} round(s) of {plan.seconds:g} s after {plan.warmup:g} s{keys}; {told}"


def surroundings(server_version: str) -> dict[str, Any]:
    """What the figures depend on beside the code."""
    return {
        "cores": os.cpu_count(),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GB",
        "Python": platform.python_version(),
        "PostgreSQL": server_version,
    }


def as_json(plan: Plan, cells: Sequence[Cell], about: dict[str, Any]) -> str:
    """All figures of all cells, and the medians."""
    settings = {name: value for name, value in dataclasses.asdict(plan).items() if name != "json"}
    medians = [
        {
            "section": line.section,
            "what": line.what,
            "connections": line.connections,
            **{name: line.median(name) for name in ("per_second", "p50_ms", "p99_ms", "p999_ms")},
            "ratio": line.ratio,
            "errors": line.errors(),
        }
        for line in lines(cells)
    ]
    cells_told = [dataclasses.asdict(cell) for cell in cells]
    return json.dumps({"plan": settings, "about": about, "medians": medians, "cells": cells_told}, indent=2)
