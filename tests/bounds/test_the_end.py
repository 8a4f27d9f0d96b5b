"""SIGTERM under load: whoever was taken is answered, and nothing is answered as a bug."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.bounds.callers import CUT, ROUNDS, asking, counts, served, upsert
from tests.support.harness import Cluster

pytestmark = pytest.mark.bounds

LARGE = "x" * 27_000
SEED = 20261128
_numbers = itertools.count()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("round_", range(ROUNDS))
async def test_every_request_that_was_taken_is_answered_when_the_service_is_stopped_under_load(
    cluster: Cluster, workers: int, round_: int
) -> None:
    seconds = random.Random(SEED + round_).uniform(0.5, 1.0)
    found = await _stopped(
        cluster, workers, seconds, callers=64, keys=500, fields=lambda number: {"year": number}
    )
    assert not found[CUT]
    assert not found[500]
    assert found[200] > 100


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("round_", range(ROUNDS // 2))
async def test_every_request_that_was_taken_is_answered_when_the_service_is_stopped_with_a_deep_queue(
    cluster: Cluster, workers: int, round_: int
) -> None:
    seconds = 2 + round_ % 3 / 2
    found = await _stopped(
        cluster,
        workers,
        seconds,
        callers=900,
        keys=10**9,
        fields=lambda number: {"text": f"{number} {LARGE}"},
    )
    assert not found[CUT]
    assert not found[500]
    assert found[200] > 100


async def _stopped(
    cluster: Cluster,
    workers: int,
    seconds: float,
    *,
    callers: int,
    keys: int,
    fields: Callable[[int], dict[str, Any]],
) -> Counter[int | str]:
    """How many answers of each kind there were when a service was stopped after so many seconds of load."""
    async with served(await cluster.new_database(), "--workers", str(workers)) as service:

        def sent() -> bytes:
            number = next(_numbers)
            return upsert(service.token, f"v{number % keys}", fields(number))

        async with asking(service.port, sent, callers=callers) as answers:
            await asyncio.sleep(seconds)
            ended = await service.stop()
    found = counts(answers)
    print(f"\n{workers} workers, {callers} callers: {dict(found)}")
    assert ended == 0
    assert not [line for line in service.log if "Traceback" in line or "Error" in line], service.log[-20:]
    return found
