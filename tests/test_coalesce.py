"""Gathered writes: what arrives together goes together, and nobody suffers for another."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import httpx
import pytest
from harness import Api, Cluster, problems_of, record_of, running
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from upsert_svc import coalesce
from upsert_svc.errors import ServiceUnavailable

FIELDS = [{"key": key, "type": "integer"} for key in ("a", "b", "c")]


@pytest.fixture
async def gathering(cluster: Cluster) -> AsyncIterator[Api]:
    """A service with one lane, which waits for a lock as long as it takes."""
    async with _service(cluster, lane_lock_timeout_seconds=30) as api:
        yield api


@asynccontextmanager
async def _service(cluster: Cluster, **chosen: Any) -> AsyncIterator[Api]:
    async with running(await cluster.new_database(), lanes=1, **chosen) as service:
        api = Api(service, await service.token())
        async with api.client:
            yield api


@asynccontextmanager
async def _busy_lane(api: Api, key: str) -> AsyncIterator[asyncio.Task[httpx.Response]]:
    """Holds the lane in a statement that waits for one record's lock, until the block ends."""
    await api.upsert(key, {"name": "held"}, external_id="held")
    async with api.running.sql() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("select from records where external_id = 'held' for update")
        first = asyncio.create_task(api.upsert(key, {"name": "held too"}, external_id="held"))
        await _until_blocked(connection)
        yield first
        await transaction.rollback()


async def _until_blocked(connection: Any) -> None:
    blocked = (
        "select exists (select from pg_stat_activity where pg_backend_pid() = any (pg_blocking_pids(pid)))"
    )
    for _ in range(300):
        if await connection.fetchval(blocked):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the lane never came to wait")


def _upserts(api: Api, key: str, count: int) -> list[asyncio.Task[httpx.Response]]:
    return [
        asyncio.create_task(api.upsert(key, {"name": f"n{number}"}, external_id=f"e{number}"))
        for number in range(count)
    ]


async def _transactions(api: Api, external_ids: Sequence[str]) -> int:
    async with api.running.sql() as connection:
        count: int = await connection.fetchval(
            "select count(distinct xmin::text) from records where external_id = any ($1)", external_ids
        )
    return count


async def _sent(count: int) -> None:
    """Lets that many requests reach the queue."""
    await asyncio.sleep(0.2 + count / 200)


async def test_what_arrives_while_a_statement_is_under_way_shares_the_next(gathering: Api) -> None:
    key = await gathering.new_object()
    async with _busy_lane(gathering, key):
        waiting = _upserts(gathering, key, 20)
        await _sent(20)
    answers = await asyncio.gather(*waiting)
    assert [answer.headers["Upsert-Result"] for answer in answers] == ["created"] * 20
    assert [record_of(answer)["external_id"] for answer in answers] == [f"e{number}" for number in range(20)]
    assert await _transactions(gathering, [f"e{number}" for number in range(20)]) == 1


async def test_a_batch_has_a_limit(gathering: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coalesce, "BATCH_LIMIT", 8)
    key = await gathering.new_object()
    async with _busy_lane(gathering, key):
        waiting = _upserts(gathering, key, 20)
        await _sent(20)
    await asyncio.gather(*waiting)
    assert await _transactions(gathering, [f"e{number}" for number in range(20)]) == 3


async def test_a_refused_write_never_spoils_its_neighbours(gathering: Api) -> None:
    key = await gathering.new_object(
        {"key": "a", "type": "integer", "required": True}, naming={"is_unique": True}
    )
    good = {"custom_object_fields": {"a": 1}}
    await gathering.upsert(key, {"name": "taken", **good}, external_id="first")
    await gathering.upsert(key, {"name": "held", **good}, external_id="held")
    async with _busy_lane(gathering, key):
        ok = asyncio.create_task(gathering.upsert(key, {"name": "ok", **good}, external_id="e1"))
        taken = asyncio.create_task(gathering.upsert(key, {"name": "TAKEN", **good}, external_id="e2"))
        blank = asyncio.create_task(gathering.upsert(key, {"name": "blank"}, external_id="e3"))
        nameless = asyncio.create_task(gathering.upsert(key, good, external_id="e4"))
        twin = asyncio.create_task(gathering.upsert(key, {"name": "oK", **good}, external_id="e5"))
        await _sent(5)
    assert record_of(await ok)["name"] == "ok"
    assert list(problems_of(await taken)) == ["base"]
    assert list(problems_of(await blank)) == ["a"]
    assert list(problems_of(await nameless)) == ["name"]
    assert list(problems_of(await twin)) == ["base"]


async def test_a_statement_that_fails_as_a_whole_goes_on_in_pieces(gathering: Api) -> None:
    key = await gathering.new_object()
    async with gathering.running.sql() as connection:
        await connection.execute("alter table records add constraint cursed check (name <> 'cursed')")
    async with _busy_lane(gathering, key):
        waiting = _upserts(gathering, key, 10)
        cursed = asyncio.create_task(gathering.upsert(key, {"name": "cursed"}, external_id="cursed"))
        await _sent(11)
    assert {answer.status_code for answer in await asyncio.gather(*waiting)} == {200}
    assert (await cursed).status_code == 500


async def test_a_lost_connection_is_a_503_to_its_callers_alone(gathering: Api, cluster: Cluster) -> None:
    key = await gathering.new_object()
    async with _busy_lane(gathering, key) as first:
        administrator = await asyncpg.connect(cluster.url)
        await administrator.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where cardinality(pg_blocking_pids(pid)) > 0"
        )
        await administrator.close()
        lost = await first
        assert (lost.status_code, lost.headers["Retry-After"]) == (503, "1")
        after = await gathering.upsert(key, {"name": "x"}, external_id="after")
        assert after.headers["Upsert-Result"] == "created"


async def test_a_locked_record_holds_up_its_own_caller_alone(cluster: Cluster) -> None:
    async with _service(cluster, lane_lock_timeout_seconds=0.05) as api:
        key = await api.new_object()
        async with _busy_lane(api, key) as first:
            answers = await asyncio.wait_for(asyncio.gather(*_upserts(api, key, 10)), 5)
            assert {answer.status_code for answer in answers} == {200}
            assert not first.done()
        assert (await first).status_code == 200


async def test_the_callers_of_a_locked_record_do_not_wait_for_each_other(cluster: Cluster) -> None:
    async with _service(cluster, lane_lock_timeout_seconds=0.05, lock_timeout_seconds=0.6) as api:
        key = await api.new_object()
        async with _busy_lane(api, key) as first:
            started = time.monotonic()
            others = [api.upsert(key, {"name": "held"}, external_id="held") for _ in range(8)]
            answers = await asyncio.gather(first, *others)
            assert {answer.status_code for answer in answers} == {503}
            assert time.monotonic() - started < 4


async def test_a_caller_who_leaves_the_queue_is_not_written_and_no_loss_to_others(gathering: Api) -> None:
    key = await gathering.new_object()
    gatherer = gathering.running.service.gatherer
    object_type = await gathering.running.service.records._object_types.get(1, key)

    def write(external_id: str) -> coalesce.Write:
        return coalesce.Write(
            object_type.object_id,
            object_type.version,
            external_id,
            external_id.rjust(26, "0"),
            "n",
            None,
            "{}",
            1,
        )

    async with _busy_lane(gathering, key):
        stays, leaves = (
            asyncio.create_task(gatherer.write(1, "external_id", write(name))) for name in ("stays", "leaves")
        )
        await asyncio.sleep(0.05)
        leaves.cancel()
        await asyncio.gather(leaves, return_exceptions=True)
    assert (await stays)["outcome"] == "created"
    assert {record["external_id"] for record in await gathering.records(key)} == {"held", "stays"}


async def test_an_account_that_fills_its_share_of_the_queue_leaves_room_for_others(cluster: Cluster) -> None:
    async with _service(cluster, lane_lock_timeout_seconds=30, write_queue=10) as api:
        key = await api.new_object()
        other = Api(api.running, await api.running.token(account="other", email="o@example.com"))
        async with other.client:
            await other.new_object(key=key)
            async with _busy_lane(api, key):
                waiting = _upserts(api, key, 12)
                await _sent(12)
                others = _upserts(other, key, 2)
                await _sent(2)
            answers = await asyncio.gather(*waiting)
            assert [answer.status_code for answer in answers].count(503) == 12 - 5
            refused = next(answer for answer in answers if answer.status_code == 503)
            assert int(refused.headers["Retry-After"]) > 0
            assert {answer.status_code for answer in await asyncio.gather(*others)} == {200}


async def test_every_object_has_its_turn(gathering: Api) -> None:
    queue = coalesce._Queue(limit=1000)
    loop = asyncio.get_running_loop()
    for number in range(200):
        item = coalesce._Waiting(_write_of(1, str(number)), loop.create_future())
        queue.put(1, "external_id", item)
    quiet = coalesce._Waiting(_write_of(2, "quiet"), loop.create_future())
    queue.put(1, "external_id", quiet)
    batch = await queue.next()
    assert quiet in batch.items
    assert len(batch.items) == coalesce.BATCH_LIMIT


async def test_every_account_has_its_turn(gathering: Api) -> None:
    queue = coalesce._Queue(limit=1000)
    loop = asyncio.get_running_loop()
    for number in range(200):
        queue.put(1, "external_id", coalesce._Waiting(_write_of(1, str(number)), loop.create_future()))
    queue.put(2, "external_id", coalesce._Waiting(_write_of(1, "quiet"), loop.create_future()))
    assert [(await queue.next()).account_id for _ in range(4)] == [1, 2, 1, 1]


def _write_of(object_id: int, external_id: str) -> coalesce.Write:
    return coalesce.Write(object_id, 1, external_id, "", None, None, "{}", 1)


async def test_a_gatherer_that_stops_tells_who_waits_to_come_back(cluster: Cluster) -> None:
    async with _service(cluster, lane_lock_timeout_seconds=30) as api:
        key = await api.new_object()
        async with _busy_lane(api, key) as first:
            waiting = _upserts(api, key, 3)
            await _sent(3)
            await api.running.service.gatherer.stop()
            answers = await asyncio.gather(first, *waiting)
        assert {answer.status_code for answer in answers} == {503}
        with pytest.raises(ServiceUnavailable):
            await api.running.service.gatherer.write(1, "external_id", _write_of(1, "x"))


async def test_writes_of_one_identifier_are_applied_in_their_order_of_arrival(gathering: Api) -> None:
    key = await gathering.new_object(*FIELDS)
    async with _busy_lane(gathering, key):
        tasks = []
        for value in range(12):
            body = {"name": "x", "custom_object_fields": {"a": value, "bc"[value % 2]: value}}
            tasks.append(asyncio.create_task(gathering.upsert(key, body, external_id="same")))
            await asyncio.sleep(0.02)
    answers = await asyncio.gather(*tasks)
    assert [answer.headers["Upsert-Result"] for answer in answers] == ["created", *["updated"] * 11]
    assert [record_of(answer)["custom_object_fields"]["a"] for answer in answers] == list(range(12))
    (record,) = [record for record in await gathering.records(key) if record["external_id"] == "same"]
    assert record["custom_object_fields"] == {"a": 11, "b": 10, "c": 11}


Patch = dict[str, int | None]
PATCHES = st.lists(
    st.dictionaries(st.sampled_from("abc"), st.none() | st.integers(0, 2), max_size=3), min_size=2, max_size=5
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(patches=PATCHES)
async def test_patches_at_one_moment_are_answered_as_in_some_order(api: Api, patches: list[Patch]) -> None:
    key = await api.new_object(*FIELDS)
    answers = await asyncio.gather(
        *(
            api.upsert(key, {"name": "x", "custom_object_fields": patch}, external_id="same")
            for patch in patches
        )
    )
    answered = [record_of(answer)["custom_object_fields"] for answer in answers]
    (record,) = await api.records(key)
    assert any(
        _runs(patches, answered, order) == record["custom_object_fields"]
        for order in itertools.permutations(range(len(patches)))
    )


def _runs(patches: list[Patch], answered: list[Patch], order: tuple[int, ...]) -> Patch | None:
    """The last state when the patches ran in that order; None when an answer belies it."""
    state: Patch = dict.fromkeys("abc")
    for place in order:
        state = state | patches[place]
        if answered[place] != state:
            return None
    return state
