"""The embedded server, killed under load again and again."""

import asyncio
import contextlib
import itertools
import os
import signal
import time
from pathlib import Path

import pytest

from tests.bounds.callers import RECORDS as PATH
from tests.bounds.callers import ROUNDS, Connection, Served, asking, counts, request, served, upsert

pytestmark = pytest.mark.bounds

WRITING_AGAIN_SECONDS = 5.0
_numbers = itertools.count()


def _postmaster(data_dir: Path) -> int:
    """Its process id; 0 while there is none."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        return int((data_dir / "cluster/data/postmaster.pid").read_text().split("\n", 1)[0])
    return 0


async def _killed_until_written(service: Served, data_dir: Path) -> float:
    """How long it takes until a write is taken by another server than the one that is killed."""
    killed, connection, began = _postmaster(data_dir), Connection(service.port), time.monotonic()
    os.kill(killed, signal.SIGKILL)
    while _postmaster(data_dir) in (0, killed):  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    while (await connection.ask(upsert(service.token, "again", {"year": next(_numbers)}))).status != 200:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    connection.close()
    return time.monotonic() - began


async def test_an_embedded_server_that_is_killed_is_soon_back_and_nothing_is_lost(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    async with served("", DATA_DIR=str(data_dir)) as service:
        sent_ids: list[str] = []

        def sent() -> bytes:
            sent_ids.append(f"v{next(_numbers)}")
            return upsert(service.token, sent_ids[-1], {"year": 1})

        took: list[float] = []
        async with asking(service.port, sent, callers=1) as answers:
            for _ in range(ROUNDS):
                await asyncio.sleep(1)
                took.append(await _killed_until_written(service, data_dir))
        print(f"\nwriting again after {[round(each, 2) for each in took]} s; {dict(counts(answers))}")
        assert max(took) < WRITING_AGAIN_SECONDS
        taken = [external_id for external_id, one in zip(sent_ids, answers, strict=True) if one.status == 200]
        connection = Connection(service.port)
        lost = []
        for external_id in taken:
            found = await connection.ask(
                request("GET", f"{PATH}?filter%5Bexternal_ids%5D={external_id}", service.token)
            )
            assert found.status == 200, found
            if external_id.encode() not in found.body:
                lost.append(external_id)
        connection.close()
        assert taken
        assert not lost
        assert not [one for one in answers if one.status == 500]
