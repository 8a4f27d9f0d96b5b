"""The pool under pressure: bounded waiting, no slot lost, retries of what may be retried."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr

from tests.support.faults import lossy_address
from tests.support.harness import Cluster
from upsert_svc import errors
from upsert_svc.db.pools import Connection, Pool, connected
from upsert_svc.settings import Settings


@pytest.fixture
async def pool(cluster: Cluster) -> AsyncIterator[Pool]:
    """A pool of two connections that gives up waiting after a fifth of a second."""
    url = await cluster.new_database()
    settings = Settings(
        database_url=SecretStr(url),
        pool_size=2,
        pool_waiters=5,
        acquire_timeout_seconds=0.2,
        statement_timeout_seconds=2,
    )
    async with connected(settings, url) as database:
        assert isinstance(database.main, Pool)
        yield database.main


async def _free_slots(pool: Pool) -> int:
    """How many connections can be had at once."""
    taken = 0
    async with asyncio.TaskGroup() as group:
        gate = asyncio.Event()

        async def hold() -> None:
            nonlocal taken
            try:
                async with pool.connection():
                    taken += 1
                    await gate.wait()
            except errors.ServiceUnavailable:
                pass

        for _ in range(3):
            group.create_task(hold())
        await asyncio.sleep(0.4)
        gate.set()
    return taken


async def test_whoever_finds_no_connection_in_time_is_told_to_come_back(pool: Pool) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(_execute(pool, "select pg_sleep(0.6)"))
        await asyncio.sleep(0.05)
        with pytest.raises(errors.ServiceUnavailable) as refused:
            await _execute(pool, "select 1")
    assert refused.value.headers["Retry-After"].isdecimal()
    assert await _free_slots(pool) == 2


async def test_more_waiters_than_there_may_be_are_refused_at_once(pool: Pool) -> None:
    results = await asyncio.gather(
        *(_execute(pool, "select pg_sleep(0.1)") for _ in range(20)), return_exceptions=True
    )
    refused = [result for result in results if isinstance(result, errors.ServiceUnavailable)]
    assert any("Too many" in str(error) for error in refused)
    assert await _free_slots(pool) == 2


async def test_no_slot_is_lost_to_failed_commits(pool: Pool) -> None:
    for _ in range(5):
        with pytest.raises(asyncpg.PostgresError):
            await _fail_to_commit(pool)
    assert await _free_slots(pool) == 2


async def test_no_slot_is_lost_to_cancelled_callers(pool: Pool) -> None:
    chance = random.Random(7)

    async def work() -> None:
        async with pool.transaction() as connection:
            await connection.execute("select pg_sleep(0.002)")

    for _ in range(300):
        task = asyncio.create_task(work())
        await asyncio.sleep(chance.uniform(0, 0.006))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert await _free_slots(pool) == 2


async def test_a_statement_over_its_time_is_a_503(pool: Pool) -> None:
    with pytest.raises(errors.ServiceUnavailable):
        await _execute(pool, "select pg_sleep(5)")


async def test_a_lost_connection_is_a_503_and_the_pool_recovers(pool: Pool, cluster: Cluster) -> None:
    lost = asyncio.create_task(_execute(pool, "select pg_sleep(1.9) /* to be lost */"))
    await asyncio.sleep(0.1)
    await _terminate(cluster, "query like '%to be lost%' and state = 'active'")
    with pytest.raises(errors.ServiceUnavailable):
        await lost
    assert await _free_slots(pool) == 2


async def test_a_connection_that_the_database_is_about_to_close_is_a_503_once(cluster: Cluster) -> None:
    """The last words of a backend come some time before the end of its connection."""
    async with lossy_address(await cluster.new_database()) as line:
        line.keeps_what_ended = True
        settings = Settings(database_url=SecretStr(line.url), pool_size=1)
        async with connected(settings, line.url) as database:
            pool = database.main
            assert isinstance(pool, Pool)
            async with pool.connection() as connection:
                pid = await connection.fetchval("select pg_backend_pid()")
            await _terminate(cluster, f"pid = {pid}")
            await asyncio.sleep(0.2)
            with pytest.raises(errors.ServiceUnavailable):
                await _execute(pool, "select 1")
            await _execute(pool, "select 1")
            line.part()


async def test_a_database_that_is_read_only_for_a_while_is_a_503(pool: Pool) -> None:
    with pytest.raises(errors.ServiceUnavailable):
        await _execute(pool, "do $$ begin raise exception 'x' using errcode = '25006'; end $$")


async def _terminate(cluster: Cluster, which: str) -> None:
    administrator = await asyncpg.connect(cluster.url)
    await administrator.execute(
        f"select pg_terminate_backend(pid) from pg_stat_activity where {which} and pid <> pg_backend_pid()"
    )
    await administrator.close()


@pytest.mark.parametrize("sqlstate", ["23505", "40001", "40P01"])
async def test_a_peers_interference_is_tried_again(pool: Pool, sqlstate: str) -> None:
    tries = 0

    async def operation(connection: Connection) -> Any:
        nonlocal tries
        tries += 1
        if tries < 3:
            await connection.execute(f"do $$ begin raise exception 'x' using errcode = '{sqlstate}'; end $$")
        return await connection.fetchval("select 'done'")

    assert await pool.retrying(operation) == "done"
    assert tries == 3


async def test_what_is_no_interference_is_not_tried_again(pool: Pool) -> None:
    tries = 0

    async def operation(connection: Connection) -> Any:
        nonlocal tries
        tries += 1
        return await connection.fetchval("select 1 / 0")

    with pytest.raises(asyncpg.DivisionByZeroError):
        await pool.retrying(operation)
    assert tries == 1


async def _fail_to_commit(pool: Pool) -> None:
    async with pool.transaction() as connection:
        await connection.execute(
            "create temp table t (id integer unique deferrable initially deferred) on commit drop"
        )
        await connection.execute("insert into t values (1), (1)")


async def _execute(pool: Pool, statement: str) -> None:
    async with pool.connection() as connection:
        await connection.execute(statement)


@pytest.mark.parametrize(
    ("constraint", "attempts"),
    [("records_name_key_key", 4), ("fields_key_key", 1), ("objects_account_id_key_key", 1)],
)
async def test_what_is_taken_for_good_is_not_asked_for_again(
    pool: Pool, constraint: str, attempts: int
) -> None:
    tried = 0

    async def take(connection: Connection) -> None:
        nonlocal tried
        tried += 1
        await connection.execute(
            f"do $$ begin raise unique_violation using constraint = '{constraint}'; end $$"
        )

    with pytest.raises(errors.RecordInvalid):
        await pool.retrying(take)
    assert tried == attempts
