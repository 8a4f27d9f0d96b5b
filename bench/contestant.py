"""The contestant: the service over HTTP, under load from a process of its own, and its books audited."""

import dataclasses
import json
import subprocess
import sys
from collections import Counter
from typing import Any

import httpx

from bench import cars, usage
from bench.figures import Cell, Latencies, Usage
from bench.load import MEASURING, Findings, Load
from bench.plan import Plan
from bench.stage import HOST, Stage

WHAT = "HTTP"
_PAGE = 100


def run(stage: Stage, plan: Plan, connections: int, round_number: int, first_value: int) -> Cell:
    """One cell of the contestant."""
    before = stage.owner.writes("records")
    findings, used = _loaded(_load(stage, plan, connections, first_value), stage)
    written = stage.owner.writes("records") - before
    with stage.client() as client:
        errors = Counter(findings.errors) + _audit(client, findings, written)
    used["client"] = Usage(findings.cpu_seconds, 0)
    return Cell(WHAT, connections, round_number, findings.latencies, used, dict(errors))


def _load(stage: Stage, plan: Plan, connections: int, first_value: int) -> Load:
    return Load(
        host=HOST,
        port=stage.port,
        authorization=stage.authorization,
        connections=connections,
        keys=plan.keys,
        first_value=first_value,
        warmup=plan.warmup,
        seconds=plan.seconds,
        sample=plan.sample,
    )


def _loaded(load: Load, stage: Stage) -> tuple[Findings, dict[str, Usage]]:
    """Runs the load in its process; what the servers used is taken while it measures."""
    command = [sys.executable, "-m", "bench.load"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps(dataclasses.asdict(load)))
        process.stdin.close()
        if process.stdout.readline().strip() != MEASURING:
            raise RuntimeError("The load generator ended before it measured")
        used = usage.over(load.seconds, {"service": stage.service, "postgresql": stage.postgresql})
        output = process.stdout.read()
    if process.returncode != 0:
        raise RuntimeError("The load generator failed")
    values: dict[str, Any] = json.loads(output)
    return Findings(**values | {"latencies": Latencies(**values["latencies"])}), used


def _audit(client: httpx.Client, findings: Findings, written: int) -> Counter[str]:
    """What is wrong with what stands: an upsert lost, repeated, or not the last one acknowledged."""
    outcomes = findings.outcomes
    acknowledged = outcomes.get("created", 0) + outcomes.get("updated", 0)
    failed = sum(findings.errors.values())
    return Counter(
        {
            "lost": max(0, acknowledged - written),
            "written more than once": max(0, written - acknowledged - failed),
            "changed nothing": sum(outcomes.values()) - acknowledged,
            "another value stands": _mismatches(client, findings.standing),
        }
    )


def _mismatches(client: httpx.Client, standing: dict[str, list[int]]) -> int:
    numbers = list(standing)
    found: dict[str, int] = {}
    for start in range(0, len(numbers), _PAGE):
        external_ids = ",".join(map(cars.external_id, numbers[start : start + _PAGE]))
        answer = client.get(
            f"/custom_objects/{cars.OBJECT_KEY}/records", params={"filter[external_ids]": external_ids}
        )
        for record in answer.raise_for_status().json()["custom_object_records"]:
            found[record["external_id"]] = record["custom_object_fields"]["mileage"]
    return sum(found.get(cars.external_id(number)) not in values for number, values in standing.items())
