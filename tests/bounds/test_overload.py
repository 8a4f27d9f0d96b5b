"""Ten times what can be done: how much of it is done all the same, and what others see."""

import asyncio
import itertools
import time
from collections.abc import Callable

import pytest

from tests.bounds.callers import (
    Answer,
    Connection,
    Served,
    asking,
    counts,
    neighbours,
    report,
    served,
    upsert,
)
from tests.support.harness import Cluster

pytestmark = pytest.mark.bounds

SECONDS = 10.0
CLOSED_SECONDS = 5.0
CONNECTIONS = 800
LARGE = "x" * 27_000
LEAST_SHARE = 0.8
_numbers = itertools.count()


async def _offered(service: Served, sent: Callable[[], bytes], a_second: float) -> list[Answer]:
    """So many requests a second whatever comes back, over as many connections as there are to use."""
    answers: list[Answer] = []
    idle: list[Connection] = [Connection(service.port) for _ in range(CONNECTIONS)]
    under_way: set[asyncio.Task[None]] = set()

    async def ask(connection: Connection) -> None:
        answers.append(await connection.ask(sent()))
        idle.append(connection)

    begun, due = time.monotonic(), 0
    while (gone := time.monotonic() - begun) < SECONDS:
        while due < gone * a_second:
            due += 1
            if idle:
                task = asyncio.create_task(ask(idle.pop()))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
        await asyncio.sleep(0.002)
    await asyncio.gather(*under_way)
    for connection in idle:
        connection.close()
    return answers


@pytest.mark.parametrize("kind", ["small", "large"])
async def test_ten_times_what_can_be_done_leaves_what_is_done(cluster: Cluster, kind: str) -> None:
    async with served(await cluster.new_database()) as service:

        def sent() -> bytes:
            number = next(_numbers)
            fields = {"year": number} if kind == "small" else {"text": f"{number} {LARGE}"}
            return upsert(service.token, f"v{number % 300}", fields)

        async with asking(service.port, sent, callers=32) as alone:
            await asyncio.sleep(CLOSED_SECONDS)
        closed = counts(alone)[200] / CLOSED_SECONDS
        service.peak_bytes = 0
        begun = time.monotonic()
        async with neighbours(service) as seen:
            answers = await _offered(service, sent, closed * 10)
        goodput = counts(answers)[200] / (time.monotonic() - begun)
        refused = [answer for answer in answers if answer.status in (429, 503)]
        print(f"\n{kind}: closed loop {closed:.0f}/s, ten times as much offered {goodput:.0f}/s")
        report(f"ten times the capacity, {kind}", service, seen, answers)
        assert all(b"retry-after" in answer.head.lower() for answer in refused)
        await asyncio.sleep(2)
        async with asking(service.port, sent, callers=8) as after:
            await asyncio.sleep(1)
        assert set(counts(after)) == {200}
        assert goodput > closed * LEAST_SHARE
