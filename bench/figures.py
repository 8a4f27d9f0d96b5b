"""The figures of a cell, and the little arithmetic on them."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Latencies:
    """Requests (or rows) a second and the latencies, of those that count as measured."""

    per_second: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float


@dataclass(frozen=True)
class Usage:
    """What some processes used while a cell was measured; `series` is their memory in MB by seconds."""

    cpu_seconds: float
    memory_mb: float
    series: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class Cell:
    """One target at one number of connections in one round of one section.

    `written` counts all writes that were acknowledged, those of the warm-up included. `notes` has what only
    some experiments tell, by its heading in their tables.
    """

    section: str
    what: str
    connections: int
    round: int
    latencies: Latencies
    usage: dict[str, Usage]
    errors: dict[str, int] = field(default_factory=dict)
    written: int = 0
    notes: dict[str, float] = field(default_factory=dict)


def summed_up(milliseconds: Sequence[float], seconds: float, rows: int = 1) -> Latencies:
    """The rate, of so many rows each, and the percentiles of latencies."""
    ordered = sorted(milliseconds)
    if not ordered:
        return Latencies(0, 0, 0, 0, 0)
    p50, p99, p999 = (percentile(ordered, per_mille) for per_mille in (500, 990, 999))
    return Latencies(len(ordered) * rows / seconds, p50, p99, p999, ordered[-1])


def percentile(ordered: Sequence[float], per_mille: int) -> float:
    """The nearest rank."""
    return ordered[max(0, -(-len(ordered) * per_mille // 1000) - 1)]


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The slope of the straight line that fits points best (least squares)."""
    x_mean = sum(x for x, _ in points) / len(points)
    y_mean = sum(y for _, y in points) / len(points)
    spread = sum((x - x_mean) ** 2 for x, _ in points)
    return sum((x - x_mean) * (y - y_mean) for x, y in points) / spread if spread else 0.0
