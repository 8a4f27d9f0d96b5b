"""SIGTERM under load: whoever was taken is answered, and nothing is answered as a bug."""

import asyncio
import itertools
import random

import pytest

from tests.bounds.callers import CUT, asking, counts, served, upsert
from tests.support.harness import Cluster

pytestmark = pytest.mark.bounds

LARGE = "x" * 27_000
SEED = 20261128
_numbers = itertools.count()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("round_", range(5))
async def test_every_request_that_was_taken_is_answered_when_the_service_is_stopped_under_load(
    cluster: Cluster, workers: int, round_: int
) -> None:
    async with served(await cluster.new_database(), "--workers", str(workers)) as service:

        def sent() -> bytes:
            number = next(_numbers)
            return upsert(service.token, f"v{number % 500}", {"year": number})

        async with asking(service.port, sent, callers=64) as answers:
            await asyncio.sleep(random.Random(SEED + round_).uniform(0.5, 1.0))
            ended = await service.stop()
        _report(f"{workers} workers", counts(answers), ended, service.log)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("round_", range(3))
async def test_every_request_that_was_taken_is_answered_when_the_service_is_stopped_with_a_deep_queue(
    cluster: Cluster, workers: int, round_: int
) -> None:
    async with served(await cluster.new_database(), "--workers", str(workers)) as service:

        def sent() -> bytes:
            number = next(_numbers)
            return upsert(service.token, f"v{number}", {"text": f"{number} {LARGE}"})

        async with asking(service.port, sent, callers=900) as answers:
            await asyncio.sleep(2 + round_ / 2)
            ended = await service.stop()
        _report(f"{workers} workers, deep queue", counts(answers), ended, service.log)


def _report(what: str, found: "dict[int | str, int]", ended: int, log: list[str]) -> None:
    print(f"\n{what}: {dict(found)}")
    assert not found.get(CUT), found
    assert not found.get(500), found
    assert found[200] > 100
    assert ended == 0
    assert not [line for line in log if "Traceback" in line or "Error" in line], log[-20:]
