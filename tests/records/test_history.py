"""The incremental export misses no change, whatever the database's clock does."""

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from tests.support.harness import Api, Cluster, Running, owner_of, record_of, running
from upsert_svc.db import statements
from upsert_svc.payloads import RecordPatch
from upsert_svc.records.record_store import Records
from upsert_svc.records.values import NEW, WriteRequest
from upsert_svc.records.write_batching import Direct

HOUR = 3600
_SQL = statements.load("history")

# In front of PostgreSQL's own, which the writing functions ask for the time.
_CLOCK = """
create table clock_shift (seconds integer not null);
insert into clock_shift values (0);
grant select on clock_shift to public;
create function public.clock_timestamp() returns timestamptz language sql volatile as
    'select pg_catalog.clock_timestamp() + make_interval(secs => seconds) from clock_shift';
"""


class Clock:
    """The clock of a service's database, which a test sets."""

    def __init__(self, service: Running) -> None:
        self._service = service

    async def shift(self, seconds: int) -> None:
        """Sets it so many seconds ahead of the real one; of a negative number behind it."""
        async with self._service.sql() as connection:
            await connection.execute("update clock_shift set seconds = $1", seconds)


class Setup:
    """A service whose clock can be set, an object, and who follows its export."""

    def __init__(self, api: Api, clock: Clock, key: str) -> None:
        self.api, self.clock, self.key = api, clock, key
        self._written = 0

    async def write(self, count: int = 1) -> list[str]:
        """Makes so many records; answers their names."""
        names = [f"record {self._written + number}" for number in range(count)]
        for name in names:
            record_of(await self.api.upsert(self.key, {"name": name}, external_id=name))
        self._written += count
        return names

    async def export(self, **query: Any) -> tuple[list[str], str]:
        """The names of all pages from there on, and the last cursor."""
        url = f"/incremental/custom_objects/{self.key}/cursor"
        found: list[str] = []
        while True:
            response = await self.api.client.get(url, params=query)
            assert response.status_code == 200, response.text
            page = response.json()
            found += [record["name"] for record in page["custom_object_records"]]
            if page["end_of_stream"]:
                return found, page["after_cursor"]
            query = {"cursor": page["after_cursor"], "per_page": query.get("per_page", 1000)}


@pytest.fixture
async def setup(cluster: Cluster) -> AsyncIterator[Setup]:
    url = await cluster.new_database()
    async with contextlib.AsyncExitStack() as stack:
        service = await stack.enter_async_context(_with_clock(url))
        api = Api(service, await service.token())
        await stack.enter_async_context(api.client)
        key = await api.new_object({"key": "color", "type": "text"})
        yield Setup(api, Clock(service), key)


@contextlib.asynccontextmanager
async def _with_clock(url: str) -> AsyncIterator[Running]:
    async with owner_of(url) as connection:
        name = await connection.fetchval("select current_database()")
        await connection.execute(_CLOCK)
        await connection.execute(f'alter database "{name}" set search_path = public, pg_catalog')
    async with running(url) as service:
        yield service


def now() -> int:
    return int(time.time())


async def test_the_clock_of_these_tests_is_the_one_that_writes_are_dated_by(setup: Setup) -> None:
    await setup.clock.shift(-HOUR)
    await setup.write()
    async with setup.api.running.sql() as connection:
        age = await connection.fetchval("select pg_catalog.clock_timestamp() - changed_at from changes")
    assert HOUR <= age.total_seconds() < HOUR + 60


async def test_a_follower_sees_what_is_written_after_the_clock_went_back(setup: Setup) -> None:
    await setup.write()
    _, cursor = await setup.export(start_time=now() - 2)
    await setup.clock.shift(-30)
    written = await setup.write(5)
    found, cursor = await setup.export(cursor=cursor)
    assert found == written
    await setup.clock.shift(0)
    later = await setup.write()
    assert (await setup.export(cursor=cursor))[0] == later


@pytest.mark.parametrize("shift", [-30, -HOUR, -40 * 24 * HOUR])
async def test_a_new_export_shows_what_changed_around_a_step_of_the_clock(setup: Setup, shift: int) -> None:
    await setup.write(3)
    async with setup.api.running.sql() as connection:  # as if that were long ago
        await connection.execute("update changes set changed_at = changed_at - interval '90 days'")
        await connection.execute("update records set updated_at = updated_at - interval '90 days'")
        await connection.execute("update objects set last_change_at = last_change_at - interval '90 days'")
    start_time = now() - 2
    written = await setup.write(4)
    await setup.clock.shift(shift)
    written += await setup.write(5)
    assert (await setup.export(start_time=start_time))[0] == written
    await setup.clock.shift(0)
    written += await setup.write()
    assert (await setup.export(start_time=start_time, per_page=2))[0] == written
    assert (await setup.export(start_time=now() - 30 * HOUR))[0] == written


async def test_a_new_export_begins_with_what_was_written_while_the_clock_was_behind(setup: Setup) -> None:
    before = await setup.write(2)
    await setup.clock.shift(-HOUR)
    while_behind = await setup.write(2)
    await setup.clock.shift(5)
    after = await setup.write(2)
    # a moment that the clock showed before it went back: what is dated before it comes after it
    found = (await setup.export(start_time=now() - 1))[0]
    assert found[-4:] == while_behind + after
    assert (await setup.export(start_time=now() - 2 * HOUR))[0] == before + while_behind + after


async def test_a_clock_that_was_ahead_for_a_while_hides_nothing(setup: Setup) -> None:
    await setup.write()
    await setup.clock.shift(24 * HOUR)
    ahead = await setup.write(2)
    await setup.clock.shift(0)
    after = await setup.write(2)
    found = (await setup.export(start_time=now() - 1))[0]
    assert found[-4:] == ahead + after


async def test_a_change_is_shown_that_was_under_way_when_the_clock_went_back(setup: Setup) -> None:
    start_time = now() - 2
    service = setup.api.running.service
    principal = await service.authenticate(setup.api.client.headers["Authorization"].encode())
    async with setup.api.running.sql() as connection:
        transaction = connection.transaction()
        await transaction.start()
        lone_writes = service.write_batcher.lone_writes
        slow = Records(
            service.database.pinned(connection),
            service.definitions,
            Direct(connection, lone_writes),
            service.reader,
            lone_writes,
        )
        await slow.write(principal, setup.key, WriteRequest(NEW, RecordPatch(name="under way")))
        await setup.clock.shift(-HOUR)
        while_behind = await setup.write(5)
        await transaction.commit()
    while_behind += await setup.write(5)
    found, cursor = await setup.export(start_time=start_time)
    assert found == ["under way", *while_behind]
    assert (await setup.export(cursor=cursor))[0] == []


@pytest.mark.parametrize("act", ["update", "delete"])
async def test_an_update_and_a_deletion_are_shown_though_the_clock_is_behind(setup: Setup, act: str) -> None:
    (name,) = await setup.write()
    (record,) = await setup.api.records(setup.key)
    await setup.write(2)
    async with setup.api.running.sql() as connection:  # no time of the record itself holds the clock up
        await connection.execute("update records set updated_at = '2001-01-01'")
    start_time = now() - 2
    await setup.write(1)
    await setup.clock.shift(-HOUR)
    acts: dict[str, Callable[[], Awaitable[Any]]] = {
        "update": lambda: setup.api.upsert(
            setup.key, {"custom_object_fields": {"color": "red"}}, external_id=name
        ),
        "delete": lambda: setup.api.client.delete(f"/custom_objects/{setup.key}/records/{record['id']}"),
    }
    assert (await acts[act]()).is_success
    found = (await setup.export(start_time=start_time))[0]
    assert found[-1] == (name if act == "update" else "[DELETED]")


async def test_a_deletion_is_shown_once_the_clock_is_right_that_was_far_behind(setup: Setup) -> None:
    await setup.write(1)
    _, cursor = await setup.export(start_time=0)
    await setup.clock.shift(-400 * 24 * HOUR)
    async with setup.api.running.sql() as connection:  # no time of the record itself holds the clock up
        await connection.execute("update records set created_at = '2001-01-01', updated_at = '2001-01-01'")
    deleting = f"/custom_objects/{setup.key}/records?external_id=record 0"
    assert (await setup.api.client.delete(deleting)).is_success
    await setup.clock.shift(0)
    assert (await setup.export(cursor=cursor))[0] == ["[DELETED]"]


async def test_the_time_of_the_last_change_never_falls_and_is_noted_once_a_minute(setup: Setup) -> None:
    async def noted() -> Any:
        async with setup.api.running.sql() as connection:
            return await connection.fetchval("select last_change_at from objects where key = $1", setup.key)

    await setup.write()
    first = await noted()
    await setup.write(2)
    assert await noted() == first
    await setup.clock.shift(-HOUR)
    await setup.write()
    assert await noted() == first
    await setup.clock.shift(61)
    await setup.write()
    assert 61 <= (await noted() - first).total_seconds() < 120


async def test_a_writer_waits_for_nobody_who_notes_the_time(setup: Setup) -> None:
    async with setup.api.running.sql() as connection, connection.transaction():
        await connection.execute("select from objects where key = $1 for no key update", setup.key)
        await setup.write()
    assert (await setup.export(start_time=now() - 2))[0] == ["record 0"]


async def test_what_a_dump_brought_is_exported_by_its_times(setup: Setup) -> None:
    old, new = await setup.write(2), await setup.write(2)
    async with setup.api.running.sql() as connection:  # as migrate leaves them, all in one transaction
        await connection.execute("update changes set transaction_id = '3'")
        age = "update changes set changed_at = changed_at - interval '1 hour' where name = any ($1)"
        await connection.execute(age, old)
    assert sorted((await setup.export(start_time=now() - 60))[0]) == new
    assert sorted((await setup.export(start_time=0))[0]) == old + new


async def test_a_cursor_of_the_version_before_goes_on_and_sees_what_is_dated_back(setup: Setup) -> None:
    await setup.write(2)
    _, cursor = await setup.export(start_time=now() - 2)
    async with setup.api.running.sql() as connection:
        object_id = await connection.fetchval("select object_id from objects where key = $1", setup.key)
        timeline = await connection.fetchval(*_SQL.timeline())
    cursors, scope = setup.api.running.service.cursors, f"changes 1 {object_id} {timeline}"
    transaction_id, record_id, version, _ = cursors.position(scope, cursor)
    earlier = cursors.sign(scope, [transaction_id, record_id, version, now() - 2])  # as it was, by place
    await setup.clock.shift(-HOUR)
    written = await setup.write()
    assert (await setup.export(cursor=earlier))[0] == written
