"""The figures of a cell, and the little arithmetic on them."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Latencies:
    """Requests a second and their latencies, of those that ended inside the measured time."""

    per_second: float
    p50_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True)
class Usage:
    """What some processes used while a cell was measured."""

    cpu_seconds: float
    memory_mb: float


@dataclass(frozen=True)
class Cell:
    """One contestant at one number of connections in one round."""

    what: str
    connections: int
    round: int
    latencies: Latencies
    usage: dict[str, Usage]
    errors: dict[str, int] = field(default_factory=dict)


def summed_up(milliseconds: Sequence[float], seconds: float) -> Latencies:
    """The rate and the percentiles (nearest rank) of latencies."""
    ordered = sorted(milliseconds)
    if not ordered:
        return Latencies(0, 0, 0, 0)
    return Latencies(len(ordered) / seconds, _percentile(ordered, 50), _percentile(ordered, 99), ordered[-1])


def _percentile(ordered: Sequence[float], percent: int) -> float:
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]
