"""The pool under pressure: bounded waiting, no slot lost, retries of what may be retried."""

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import pytest
from pydantic import SecretStr

from tests.support.batches import answered
from tests.support.faults import lossy_address
from tests.support.harness import Api, Cluster, record_of, running
from upsert_svc import errors
from upsert_svc.db.pools import Connection, Database, Pool, connected
from upsert_svc.settings import Settings
from upsert_svc.turns import CALLER


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


async def _holding(pool: Any, account_id: int, gate: asyncio.Event) -> None:
    """Holds a connection on behalf of an account until the gate opens."""
    CALLER.set(account_id)
    async with pool.connection() as connection:
        await connection.execute("select 1")
        await gate.wait()


@pytest.fixture
async def ten(cluster: Cluster) -> AsyncIterator[Database]:
    """The pools of a process as it is by default, but for the time that a request waits."""
    url = await cluster.new_database()
    settings = Settings(database_url=SecretStr(url), acquire_timeout_seconds=2)
    async with connected(settings, url) as database:
        yield database


async def test_connections_that_an_account_holds_for_long_leave_some_for_others(ten: Database) -> None:
    gate = asyncio.Event()
    callers = [asyncio.create_task(_holding(ten.main, 1, gate)) for _ in range(40)]
    await asyncio.sleep(0.1)
    for account_id in (2, 3):
        callers.append(asyncio.create_task(_as(account_id, ten.main)))
        await asyncio.wait_for(callers[-1], 1)
    gate.set()
    await asyncio.gather(*callers)


@pytest.mark.parametrize("share", ["searches", "scans", "changes"])
async def test_work_that_takes_long_leaves_connections_and_a_turn_of_its_own_kind(
    ten: Database, share: str
) -> None:
    gate = asyncio.Event()
    callers = [asyncio.create_task(_holding(getattr(ten, share), 1, gate)) for _ in range(40)]
    await asyncio.sleep(0.1)
    for account_id, pool in ((1, ten.main), (2, ten.main), (2, getattr(ten, share))):
        await asyncio.wait_for(asyncio.create_task(_as(account_id, pool)), 1)
    gate.set()
    await asyncio.gather(*callers)


async def test_a_read_that_finds_no_turn_of_its_kind_is_told_to_come_back(ten: Database) -> None:
    gate = asyncio.Event()
    holder = asyncio.create_task(_holding(ten.scans, 1, gate))
    await asyncio.sleep(0.1)
    with pytest.raises(errors.ServiceUnavailable) as refused:
        await asyncio.create_task(_as(1, ten.scans))
    assert refused.value.headers["Retry-After"].isdecimal()
    gate.set()
    await holder


async def _as(account_id: int, pool: Any) -> None:
    CALLER.set(account_id)
    async with pool.connection() as connection:
        await connection.execute("select 1")


async def test_a_database_that_hangs_is_given_up_soon_after_the_time_of_a_statement(
    cluster: Cluster,
) -> None:
    url = await cluster.new_database()
    settings = Settings(
        database_url=SecretStr(url), pool_size=2, acquire_timeout_seconds=0.2, statement_timeout_seconds=0.5
    )
    async with connected(settings, url) as database:
        pool = database.main
        assert isinstance(pool, Pool)
        async with asyncio.TaskGroup() as group:
            for how in (pool.connection, pool.transaction):
                group.create_task(_hang(how))
        assert await _free_slots(pool) == 2


async def _hang(how: Any) -> None:
    """A statement to a process of the database that stands still, and then the end of its connection."""
    pid, started = 0, 0.0
    try:
        with pytest.raises(errors.ServiceUnavailable):  # noqa: PT012
            async with how() as connection:
                pid = await connection.fetchval("select pg_backend_pid()")
                os.kill(pid, signal.SIGSTOP)
                started = time.monotonic()
                await connection.execute("select 1")
        assert 0.5 < time.monotonic() - started < 4
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_requests_are_told_in_time_that_the_database_hangs_and_served_when_it_goes_on(
    cluster: Cluster,
) -> None:
    chosen = {"acquire_timeout_seconds": 0.3, "statement_timeout_seconds": 0.5, "run_jobs": False}
    async with (
        lossy_address(await cluster.new_database()) as line,
        running(line.url, **chosen) as service,
    ):
        api = Api(service, await service.token())
        async with api.client:
            key = await api.new_object()
            record = f"/custom_objects/{key}/records/{record_of(await api.create(key, name='x'))['id']}"

            def asked() -> list[asyncio.Task[httpx.Response]]:
                requests = (
                    api.client.get(record),
                    api.upsert(key, {"name": "e"}, external_id="e"),
                    api.client.get(f"/custom_objects/{key}/records/count"),
                    api.client.patch(f"/custom_objects/{key}", json={"custom_object": {"title": "t"}}),
                    api.upsert(key, {"name": "k"}, external_id="k", headers={"Idempotency-Key": "k"}),
                )
                return [asyncio.create_task(request) for request in requests]

            line.hang()
            under_way = asked()
            await asyncio.sleep(1.2)  # the credential is looked up anew from here on
            late = asked()
            assert set(await answered(late, 1.5)) == {503}
            assert set(await answered(under_way, 0.5 + 2 + 1)) == {503}
            line.go_on()
            again = asked()
            assert set(await answered(again, 2)) <= {200, 201}


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
