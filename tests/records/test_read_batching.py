"""Gathered reads: what is asked for together is read together, and each caller sees his own record."""

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from tests.support.batches import answered, of_another_account, until_blocked
from tests.support.harness import Api, Cluster, record_of, running
from upsert_svc.errors import ServiceUnavailable
from upsert_svc.records import read_batching


@pytest.fixture
async def reading(cluster: Cluster) -> AsyncIterator[Api]:
    async with running(await cluster.new_database()) as service:
        api = Api(service, await service.token())
        async with api.client:
            yield api


async def made(api: Api, key: str, count: int) -> list[dict[str, Any]]:
    return [record_of(await api.create(key, name=f"n{number}")) for number in range(count)]


def shown(api: Api, key: str, ids: Sequence[str]) -> list[asyncio.Task[httpx.Response]]:
    return [
        asyncio.create_task(api.client.get(f"/custom_objects/{key}/records/{record_id}")) for record_id in ids
    ]


@asynccontextmanager
async def stalled_reads(api: Api, key: str) -> AsyncIterator[tuple[asyncio.Task[httpx.Response], Any]]:
    """A read that waits for a table until the block ends, and who holds that."""
    async with api.running.sql() as stranger:
        lock = stranger.transaction()
        await lock.start()
        await stranger.execute("lock table records in access exclusive mode")
        (first,) = shown(api, key, ["0" * 26])
        await until_blocked(stranger)
        yield first, stranger
        await lock.rollback()


async def until_waiting(api: Api, count: int) -> None:
    reader = api.running.service.records._reader
    for _ in range(500):
        if len(reader._queue) == count:
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"{len(reader._queue)} reads wait, not {count}")


async def test_reads_that_wait_share_a_statement_and_each_has_its_own_record(
    reading: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, other = await reading.new_object(), await reading.new_object()
    records = await made(reading, key, 10)
    sizes: list[int] = []
    send = read_batching._send

    async def counted(connection: Any, batch: Sequence[Any]) -> None:
        sizes.append(len(batch))
        await send(connection, batch)

    monkeypatch.setattr(read_batching, "_send", counted)
    async with stalled_reads(reading, key):
        callers = shown(reading, key, [record["id"] for record in records])
        foreign = shown(reading, other, [records[0]["id"]])
        await until_waiting(reading, 11)
    assert [record_of(answer) for answer in await asyncio.gather(*callers)] == records
    assert await answered(foreign) == [404]
    assert sizes == [1, 11]


async def test_a_statement_reads_a_limited_number_of_records(
    reading: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_batching, "BATCH_LIMIT", 4)
    key = await reading.new_object()
    records = await made(reading, key, 10)
    async with stalled_reads(reading, key):
        callers = shown(reading, key, [record["id"] for record in records])
        await until_waiting(reading, 10)
    assert [record_of(answer) for answer in await asyncio.gather(*callers)] == records


async def test_a_lost_connection_is_a_503_to_those_it_read_for_and_no_loss_to_those_behind(
    reading: Api,
) -> None:
    key = await reading.new_object()
    records = await made(reading, key, 2)
    ids = [record["id"] for record in records]
    async with stalled_reads(reading, key) as (first, stranger):
        waiting = shown(reading, key, ids)
        await until_waiting(reading, 2)
        await stranger.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where cardinality(pg_blocking_pids(pid)) > 0"
        )
        assert await answered([first]) == [503]
    assert await answered(waiting) == [200, 200]


async def test_without_a_connection_all_who_wait_are_told_so_at_once(cluster: Cluster) -> None:
    chosen = {"pool_size": 1, "acquire_timeout_seconds": 0.2}
    async with running(await cluster.new_database(), **chosen) as service:
        api = Api(service, await service.token())
        async with api.client, service.service.database.main.connection():
            assert await answered(shown(api, "any", ["0" * 26] * 100), 10) == [503] * 100


async def test_a_reader_who_leaves_is_no_loss_to_the_others(reading: Api) -> None:
    key = await reading.new_object()
    ids = [record["id"] for record in await made(reading, key, 3)]
    reader = reading.running.service.records._reader
    async with stalled_reads(reading, key):
        rows = [asyncio.create_task(reader.show(1, key, record_id)) for record_id in ids]
        await until_waiting(reading, 3)
        rows[1].cancel()
        await asyncio.gather(rows[1], return_exceptions=True)
    left = [await rows[0], await rows[2]]
    assert [row and row["record_id"] for row in left] == [ids[0], ids[2]]


async def test_more_reads_than_may_wait_are_told_to_come_back(
    reading: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_batching, "_WAITING_LIMIT", 3)
    key = await reading.new_object()
    (record,) = await made(reading, key, 1)
    reader = reading.running.service.reader
    async with of_another_account(reading) as other:
        async with stalled_reads(reading, key):
            waiting = shown(reading, key, [record["id"]])
            await until_waiting(reading, 1)
            late = shown(reading, key, [record["id"]])  # of an account that has its half
            assert await answered(late) == [503]
            assert late[0].result().headers["Retry-After"] == "1"
            foreign = shown(other, key, [record["id"]])
            await until_waiting(reading, 2)
            third = asyncio.create_task(reader.show(99, key, record["id"]))
            await until_waiting(reading, 3)
            with pytest.raises(ServiceUnavailable):
                await reader.show(98, key, record["id"])
        assert await answered(waiting) == [200]
        assert await answered(foreign) == [404]
        assert await third is None


async def test_a_read_that_waits_for_too_long_is_told_to_come_back(cluster: Cluster) -> None:
    async with running(await cluster.new_database(), acquire_timeout_seconds=0.5) as service:
        api = Api(service, await service.token())
        async with api.client:
            key = await api.new_object()
            async with stalled_reads(api, key) as (first, _):
                waiting = shown(api, key, ["0" * 26] * 3)
                assert await answered(waiting, 3) == [503] * 3
                assert waiting[0].result().headers["Retry-After"] == "1"
                assert not first.done()
            assert await answered([first]) == [404]


async def test_accounts_take_turns_to_read() -> None:
    queue = read_batching._Queue()
    loop = asyncio.get_running_loop()
    for account_id in (*[1] * 200, 2):
        queue.put(read_batching._Waiting(account_id, "", "", loop.create_future(), math.inf))
    assert [item.account_id for item in queue.take(4)] == [1, 2, 1, 1]
    assert len(queue) == 197
