"""Whether the service is ready: it is when it can write, and says so soon, however many ask."""

import asyncio
import re
import time

import asyncpg
import httpx
import pytest

from tests.support.harness import Cluster, Running, running
from upsert_svc import readiness


@pytest.fixture
async def own(cluster: Cluster) -> str:
    return await cluster.new_database()


async def ready(service: Running) -> httpx.Response:
    (answer,) = await ready_to_all(service, 1)
    return answer


async def ready_to_all(service: Running, count: int) -> list[httpx.Response]:
    """The answers to so many who ask at the same time."""
    async with httpx.AsyncClient(base_url=service.address, timeout=30, trust_env=False) as client:
        return await asyncio.gather(*(client.get("/readyz") for _ in range(count)))


def is_refused(response: httpx.Response, reason: str) -> bool:
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) > 0
    assert response.json()["error"] == "ServiceUnavailable"
    return re.search(reason, response.json()["description"]) is not None


async def test_a_look_writes_one_row_that_stays_in_its_page(own: str) -> None:
    async with running(own) as service, service.sql() as owner:
        for _ in range(300):
            await owner.execute("select write_readiness()")
        assert await owner.fetchval("select count(*) from readiness") == 1
        assert await owner.fetchval("select pg_relation_size('readiness')") == 8192
        assert await owner.fetchval("select pg_relation_size('readiness_pkey')") <= 2 * 8192
        before = await owner.fetchval("select checked_at from readiness")
        assert (await ready(service)).json() == {"status": "ok"}
        assert await owner.fetchval("select checked_at > $1 from readiness", before)


async def test_a_look_takes_room_on_the_disk_and_gives_it_back(own: str) -> None:
    async with running(own) as service, service.sql() as owner:
        files = "select temp_files, temp_bytes from pg_stat_database where datname = current_database()"
        await owner.execute("select write_readiness()")
        await owner.execute("select pg_stat_force_next_flush()")
        row = await owner.fetchrow(files)
        assert row["temp_files"] > 0
        assert row["temp_bytes"] >= 500_000
        assert await owner.fetchval("select count(*) from pg_ls_tmpdir()") == 0


async def test_all_who_ask_within_a_second_share_a_look(own: str) -> None:
    async with running(own) as service, service.sql() as owner:
        assert (await ready(service)).status_code == 200
        first = await owner.fetchval("select xmin::text from readiness")
        begun = time.monotonic()
        answers = await ready_to_all(service, 30)
        seconds = time.monotonic() - begun
        assert {answer.status_code for answer in answers} == {200}
        if seconds < readiness.INTERVAL_SECONDS / 2:
            assert await owner.fetchval("select xmin::text from readiness") in (first, str(int(first) + 1))


async def test_a_read_only_database_is_not_ready_and_says_so(own: str) -> None:
    name = re.findall(r"/(\w+)\?", own)[0]
    async with running(own) as service, service.sql() as owner:
        await owner.execute(f'alter database "{name}" set default_transaction_read_only = on')
        await owner.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and usename = 'upsert_svc'"
        )
        await until_refused(service, "read-only")
        await owner.execute("set default_transaction_read_only = off")
        await owner.execute(f'alter database "{name}" reset default_transaction_read_only')
        await owner.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and usename = 'upsert_svc'"
        )
        await until_ready(service)


async def until_refused(service: Running, reason: str) -> None:
    for _ in range(200):
        response = await ready(service)
        if response.status_code == 503 and is_refused(response, reason):
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it stayed ready")


async def until_ready(service: Running) -> None:
    for _ in range(200):
        if (await ready(service)).status_code == 200:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it did not become ready")


async def test_a_database_that_does_not_answer_is_not_waited_for_by_anybody(own: str) -> None:
    holder = await asyncpg.connect(own)
    async with running(own) as service:
        assert (await ready(service)).status_code == 200
        transaction = holder.transaction()
        await transaction.start()
        await holder.execute("update readiness set checked_at = now()")
        await asyncio.sleep(readiness.INTERVAL_SECONDS)
        begun = time.monotonic()
        answers = await ready_to_all(service, 50)
        assert time.monotonic() - begun < readiness.WAIT_SECONDS + 2
        assert all(is_refused(answer, "within 2 seconds") for answer in answers)
        begun = time.monotonic()
        assert is_refused(await ready(service), "within 2 seconds")
        assert time.monotonic() - begun < 1
        waiting = await holder.fetchval(
            "select count(*) from pg_stat_activity where datname = current_database()"
            " and wait_event_type = 'Lock'"
        )
        assert waiting == 1
        await transaction.rollback()
        await until_ready(service)
    await holder.close()
