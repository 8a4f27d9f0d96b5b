"""What a run found: medians over its rounds, as tables in GitHub's markdown and as JSON."""

import dataclasses
import json
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import psutil

from bench import baseline
from bench.figures import Cell
from bench.plan import Plan


@dataclass(frozen=True)
class Line:
    """The cells of one contestant at one number of connections, over all rounds."""

    what: str
    connections: int
    cells: tuple[Cell, ...]
    ratio: float

    def median(self, figure: str) -> float:
        """The median of a figure of the latencies."""
        return float(median(getattr(cell.latencies, figure) for cell in self.cells))

    def cores(self, who: str) -> float | None:
        """How many cores somebody kept busy, while this was measured."""
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
    """The cells by contestant and connections, in the order in which they were first run."""
    base = {
        (cell.round, cell.connections): cell.latencies.per_second
        for cell in cells
        if cell.what == baseline.WHAT
    }
    groups: dict[tuple[str, int], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.what, cell.connections), []).append(cell)
    return [
        Line(what, connections, tuple(group), median(_ratio(cell, base) for cell in group))
        for (what, connections), group in groups.items()
    ]


def _ratio(cell: Cell, base: dict[tuple[int, int], float]) -> float:
    per_second = base[cell.round, cell.connections]
    return cell.latencies.per_second / per_second if per_second else 0


def markdown(plan: Plan, cells: Sequence[Cell], about: dict[str, Any]) -> str:
    """The tables, and the setting they were measured in."""
    found = lines(cells)
    told = ", ".join(f"{name} {value}" for name, value in about.items())
    return "\n".join(
        [
            f"{plan.rounds} rounds of {plan.seconds:g} s after {plan.warmup:g} s, {plan.keys} keys, "
            f"{plan.workers} worker(s); {told}",
            "",
            *_table(
                ("what", "connections", "requests/s", "p50 ms", "p99 ms", "ratio to pgbench", "errors"),
                (_speed(line) for line in found),
            ),
            "",
            *_table(
                ("CPU seconds and memory", "connections", "service", "PostgreSQL", "client",
                 "service MB", "PostgreSQL MB"),
                (_cost(line) for line in found),
            ),
        ]
    )  # fmt: skip


def _speed(line: Line) -> tuple[str, ...]:
    wrong = ", ".join(f"{count} {kind}" for kind, count in line.errors().items())
    return (
        line.what,
        str(line.connections),
        f"{line.median('per_second'):,.0f}",
        f"{line.median('p50_ms'):.2f}",
        f"{line.median('p99_ms'):.2f}",
        f"{line.ratio:.2f}",
        wrong or "0",
    )


def _cost(line: Line) -> tuple[str, ...]:
    return (
        line.what,
        str(line.connections),
        *(_shown(line.cores(who), ".2f") for who in ("service", "postgresql", "client")),
        *(_shown(line.memory(who), ".0f") for who in ("service", "postgresql")),
    )


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> Iterator[str]:
    alignment = ["---", *("---:" for _ in head[1:])]
    for row in (head, alignment, *rows):
        yield f"| {' | '.join(row)} |"


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
            "what": line.what,
            "connections": line.connections,
            **{name: line.median(name) for name in ("per_second", "p50_ms", "p99_ms")},
            "ratio": line.ratio,
            "errors": line.errors(),
        }
        for line in lines(cells)
    ]
    cells_told = [dataclasses.asdict(cell) for cell in cells]
    return json.dumps({"plan": settings, "about": about, "medians": medians, "cells": cells_told}, indent=2)
