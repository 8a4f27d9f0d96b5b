"""CPU time and memory of a process and its children."""

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import psutil

from bench.figures import Usage


@dataclass(frozen=True)
class Family:
    """A process and all that come from it."""

    head: psutil.Process

    @classmethod
    def of(cls, pid: int) -> "Family":
        return cls(psutil.Process(pid))

    def cpu_seconds(self) -> float:
        """The time used so far, that of children already gone included."""
        own = self.head.cpu_times()
        total = own.user + own.system + getattr(own, "children_user", 0) + getattr(own, "children_system", 0)
        for child in self.head.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = child.cpu_times()
                total += times.user + times.system
        return float(total)

    def memory_mb(self) -> float:
        """The resident memory; where the system tells, shared pages count once and not once a process."""
        total = 0
        for process in (self.head, *self.head.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += _resident(process)
        return total / 2**20


def _resident(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.AccessDenied):
        pss = getattr(process.memory_full_info(), "pss", 0)
        if pss:
            return int(pss)
    return int(process.memory_info().rss)


def over(seconds: float, families: Mapping[str, Family], every: float = 0) -> dict[str, Usage]:
    """What the families use in the next seconds; their memory again and again where `every` says when."""
    begun = time.monotonic()
    cpu_before = {name: family.cpu_seconds() for name, family in families.items()}
    series: dict[str, list[tuple[float, float]]] = {name: [] for name in families}
    for look in range(int(seconds / every) + 1 if every else 0):
        _sleep_until(begun + look * every)
        for name, family in families.items():
            series[name].append((time.monotonic() - begun, family.memory_mb()))
    _sleep_until(begun + seconds)
    cpu_after = {name: family.cpu_seconds() for name, family in families.items()}
    return {
        name: Usage(cpu_after[name] - cpu_before[name], family.memory_mb(), series[name])
        for name, family in families.items()
    }


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


def polled(ready: Callable[[], bool], seconds: float) -> None:
    """Waits until something is so. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.05)
