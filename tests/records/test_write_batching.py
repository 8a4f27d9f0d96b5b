"""Gathered writes: what arrives together goes together, and nobody suffers for another."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from tests.support import batches
from tests.support.batches import batching_service, busy_connection, queued, sent, transactions, upserts
from tests.support.harness import PATCH, PUT_MERGE, Api, Cluster, record_of
from upsert_svc.errors import ServiceUnavailable
from upsert_svc.records import write_batching
from upsert_svc.records.values import WriteRow


@pytest.fixture(autouse=True, params=[PATCH, PUT_MERGE], ids=str)
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it holds for PUT as well; test_serial_orders.py has both in one batch."""
    monkeypatch.setattr(Api, "way", request.param)


@pytest.fixture
async def batching(cluster: Cluster) -> AsyncIterator[Api]:
    """A service with one batch connection, which waits for a lock as long as it takes."""
    async with batching_service(cluster) as api:
        yield api


async def test_what_arrives_while_a_statement_is_under_way_shares_the_next(batching: Api) -> None:
    key = await batching.new_object()
    async with busy_connection(batching):
        waiting = upserts(batching, key, 20)
        await queued(batching, 20)
    answers = await asyncio.gather(*waiting)
    assert [answer.headers["Upsert-Result"] for answer in answers] == ["created"] * 20
    assert [record_of(answer)["external_id"] for answer in answers] == [f"e{number}" for number in range(20)]
    assert await transactions(batching, [f"e{number}" for number in range(20)]) == 1


async def test_a_batch_has_a_limit(batching: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_batching, "BATCH_LIMIT", 8)
    key = await batching.new_object()
    async with busy_connection(batching):
        waiting = upserts(batching, key, 20)
        await queued(batching, 20)
    await asyncio.gather(*waiting)
    assert await transactions(batching, [f"e{number}" for number in range(20)]) == 3


async def test_a_refused_write_never_fails_its_neighbours(batching: Api) -> None:
    assert await batches.refused_rows(batching) == {
        "ok": 200,
        "taken": 422,
        "blank": 422,
        "nameless": 422,
        "twin": 422,
    }


async def test_a_statement_that_fails_as_a_whole_goes_on_in_pieces(batching: Api) -> None:
    neighbours, cursed = await batches.a_row_that_fails_the_statement(batching)
    assert (neighbours, cursed) == ([200] * 10, 500)


async def test_a_batch_that_a_peer_interferes_with_goes_on_in_pieces(batching: Api) -> None:
    statuses, numbers = await batches.a_peer_of_a_numbered_batch(batching)
    assert (statuses, numbers) == ([200, 200], ["1", "2"])


@pytest.mark.parametrize("victim", ["batch", "stranger"])
async def test_a_deadlock_with_a_stranger_costs_no_caller_his_write(batching: Api, victim: str) -> None:
    seen = await batches.a_deadlock_with_a_stranger(batching, victim=victim)
    assert seen.statuses == [200, 200, 200]
    assert seen.has_stranger_lost == (victim == "stranger")
    strangers = None if seen.has_stranger_lost else 1
    assert seen.fields == [{"a": 1, "b": None, "c": strangers}] * 2


async def test_a_lost_connection_is_a_503_to_its_callers_alone(batching: Api) -> None:
    assert await batches.a_connection_lost_under_way(batching) == (503, "1", 200)


async def test_what_may_have_been_written_is_not_written_again_on_anybodys_behalf(cluster: Cluster) -> None:
    seen = await batches.an_answer_lost_after_the_commit(cluster)
    assert (seen.statuses, seen.retry_after) == ([503, 503], ["1", "1"])
    assert (seen.transactions, seen.a) == (1, 2)
    assert seen.status_after == 200


async def test_a_locked_record_holds_up_its_own_caller_alone(cluster: Cluster) -> None:
    async with batching_service(cluster, batch_lock_timeout_seconds=0.05) as api:
        assert await batches.neighbours_of_a_locked_record(api) == ([200] * 10, True)


async def test_the_callers_of_a_locked_record_do_not_wait_for_each_other(cluster: Cluster) -> None:
    chosen = {"batch_lock_timeout_seconds": 0.05, "lock_timeout_seconds": 0.6}
    async with batching_service(cluster, **chosen) as api, busy_connection(api) as busy:
        started = time.monotonic()
        others = [api.upsert(busy.key, {"name": "held"}, external_id="held") for _ in range(8)]
        answers = await asyncio.gather(busy.first, *others)
        assert {answer.status_code for answer in answers} == {503}
        assert time.monotonic() - started < 4


async def test_a_caller_who_leaves_the_queue_is_not_written_and_no_loss_to_others(batching: Api) -> None:
    assert await batches.a_caller_who_leaves_the_queue(batching) == ("created", {"stays"})


async def test_a_write_under_way_is_finished_though_its_caller_leaves(batching: Api) -> None:
    outcome, names = await batches.a_caller_who_leaves_under_way(batching)
    assert (outcome, names) == ("created", {"leaves": "n", "stays": "n"})


async def test_a_client_who_hangs_up_is_no_loss_to_others(batching: Api) -> None:
    key = await batching.new_object()
    async with busy_connection(batching) as busy:
        waiting = upserts(batching, key, 4)
        await queued(batching, 4)
        for client in (busy.first, *waiting[:2]):
            client.cancel()
        await asyncio.gather(busy.first, *waiting[:2], return_exceptions=True)
    assert await batches.answered(waiting[2:]) == [200, 200]
    assert await batches.answered(upserts(batching, key, 4)) == [200] * 4


async def test_a_batch_validated_before_a_field_was_removed_is_validated_again(batching: Api) -> None:
    statuses, stored = await batches.a_field_removed_while_the_batch_waits(batching)
    assert statuses == {"removed": 422, "neighbour": 200, "bystander": 200}
    assert stored == [{"stays": "x"}]


async def test_an_account_that_fills_its_share_of_the_queue_leaves_room_for_others(cluster: Cluster) -> None:
    seen = await batches.a_queue_filled_by_two_accounts(cluster)
    assert sorted(seen.first) == sorted(seen.second) == [200] * 5 + [503] * 2
    assert seen.third == [503]
    assert seen.retry_after == {"1"}


async def test_a_thousand_waiting_writes_do_not_hold_up_another_accounts_or_objects(batching: Api) -> None:
    seen = await batches.a_thousand_before_one(batching)
    assert seen.before_another_object <= write_batching.BATCH_LIMIT
    assert seen.before_another_account <= 2 * write_batching.BATCH_LIMIT


async def test_every_object_has_its_turn() -> None:
    queue = write_batching._Queue(limit=1000)
    loop = asyncio.get_running_loop()
    for number in range(200):
        item = write_batching._Waiting(_write_of(1, str(number)), loop.create_future())
        queue.put(1, "external_id", item)
    quiet = write_batching._Waiting(_write_of(2, "quiet"), loop.create_future())
    queue.put(1, "external_id", quiet)
    batch = await queue.next()
    assert quiet in batch.items
    assert len(batch.items) == write_batching.BATCH_LIMIT


async def test_what_takes_long_is_sent_in_small_batches() -> None:
    queue = write_batching._Queue(limit=1000)
    loop = asyncio.get_running_loop()
    for number in range(20):
        item = write_batching._Waiting(_write_of(1, str(number)), loop.create_future(), cost=60_000)
        queue.put(1, "external_id", item)
    queue.put(2, "external_id", write_batching._Waiting(_write_of(1, "quiet"), loop.create_future()))
    batches = [await queue.next() for _ in range(5)]
    assert [(batch.account_id, len(batch.items)) for batch in batches] == [
        (1, 3), (2, 1), (1, 3), (1, 3), (1, 3),
    ]  # fmt: skip


async def test_every_account_has_its_turn() -> None:
    queue = write_batching._Queue(limit=1000)
    loop = asyncio.get_running_loop()
    for number in range(200):
        queue.put(1, "external_id", write_batching._Waiting(_write_of(1, str(number)), loop.create_future()))
    queue.put(2, "external_id", write_batching._Waiting(_write_of(1, "quiet"), loop.create_future()))
    assert [(await queue.next()).account_id for _ in range(4)] == [1, 2, 1, 1]


async def test_a_write_that_waits_for_too_long_is_told_so_and_not_written(cluster: Cluster) -> None:
    async with batching_service(cluster, write_wait_seconds=0.5, lock_timeout_seconds=30) as api:
        key = await api.new_object()
        async with busy_connection(api) as busy:
            waiting = upserts(api, key, 5)
            assert await batches.answered(waiting, 3) == [503] * 5
            assert {caller.result().headers["Retry-After"] for caller in waiting} == {"1"}
            assert "was not written" in waiting[0].result().text
            assert not busy.first.done()  # which is under way, and gets its own answer
            assert api.running.service.write_batcher._queue.room.taken == 0
        assert await batches.answered([busy.first]) == [200]
        assert await api.records(key) == []
        assert await batches.answered(upserts(api, key, 2)) == [200, 200]


async def test_a_write_whose_time_is_over_is_not_sent() -> None:
    queue = write_batching._Queue(limit=1000)
    loop = asyncio.get_running_loop()
    late, early = [
        write_batching._Waiting(_write_of(1, "x"), loop.create_future(), loop.time() + seconds)
        for seconds in (-0.001, 5)
    ]
    queue.put(1, "external_id", late)
    queue.put(1, "external_id", early)
    assert list((await queue.next()).items) == [early]
    assert isinstance(late.row.exception(), ServiceUnavailable)


async def test_a_retry_whose_time_is_over_is_not_sent(cluster: Cluster) -> None:
    async with batching_service(cluster, lock_timeout_seconds=30) as api:
        key = await api.new_object()
        await api.upsert(key, {"name": "old"}, external_id="held")
        write = await batches.direct(api, key, "held")
        batcher, loop = api.running.service.write_batcher, asyncio.get_running_loop()
        first, behind = [
            write_batching._Waiting(write, loop.create_future(), loop.time() + seconds)
            for seconds in (60, 0.2)
        ]
        async with batches.locked(api, key, "held") as stranger:
            batcher._send_individually(write_batching._Batch(1, "external_id", [first, behind]))
            await batches.until_blocked(stranger)
            assert batcher._queue.room.taken == 2
            await asyncio.sleep(0.3)
        assert (await asyncio.wait_for(first.row, 5))["outcome"] == "updated"
        with pytest.raises(ServiceUnavailable):
            await asyncio.wait_for(behind.row, 5)
        await asyncio.sleep(0)
        assert batcher._queue.room.taken == 0


def test_waiting_writes_have_room_by_their_length() -> None:
    room = write_batching._Room(1000, 1000)
    long = _write_of(1, "x")._replace(patch="x" * 300)
    for account_id in (1, 1):
        room.require(account_id)
        room.enter(account_id, long)
    with pytest.raises(ServiceUnavailable):
        room.require(1)
    for account_id in (2, 2):
        room.require(account_id)
        room.enter(account_id, long)
    with pytest.raises(ServiceUnavailable):
        room.require(3)
    room.leave(1, long)
    room.require(1)


async def test_a_body_that_there_is_no_room_for_is_not_looked_at(cluster: Cluster) -> None:
    async with batching_service(cluster, write_queue=2) as api:
        key = await api.new_object()
        async with busy_connection(api):
            waiting = upserts(api, key, 1)
            await queued(api, 1)
            path = f"/custom_objects/{key}/records"
            answer = await api.client.patch(path, params={"external_id": "e"}, content=b"no json")
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert await batches.answered(waiting) == [200]


def _write_of(object_id: int, external_id: str) -> WriteRow:
    return WriteRow(object_id, 1, external_id, "", None, None, "{}", 1)


async def test_a_batcher_that_stops_tells_who_waits_to_come_back(batching: Api) -> None:
    assert await batches.a_stop_with_waiting_callers(batching) == (503, [503] * 3)
    with pytest.raises(ServiceUnavailable):
        await batching.running.service.write_batcher.write(1, "external_id", _write_of(1, "x"))


async def test_a_batcher_that_stops_tells_who_is_retried_to_come_back(cluster: Cluster) -> None:
    async with batching_service(cluster, batch_lock_timeout_seconds=0.3) as api:
        assert await batches.a_stop_with_callers_retried_individually(api) == [503] * 3


async def test_a_batcher_that_stops_tells_who_is_retried_just_now(batching: Api) -> None:
    write_batcher = batching.running.service.write_batcher
    item = write_batching._Waiting(_write_of(1, "x"), asyncio.get_running_loop().create_future())
    write_batcher._send_individually(write_batching._Batch(1, "external_id", [item]))
    await write_batcher.stop()
    assert item.row.done()
    assert isinstance(item.row.exception(), ServiceUnavailable)


@pytest.mark.parametrize("stands", [False, True], ids=["new", "standing"])
async def test_writes_of_one_identifier_are_applied_in_their_order_of_arrival(
    batching: Api, stands: bool
) -> None:
    seen, last = await batches.opposite_edits_in_one_batch(batching, stands=stands)
    assert seen == batches.in_order()
    assert last == seen[-1]


async def test_updates_of_one_record_by_its_id_in_one_batch_all_find_it(batching: Api) -> None:
    assert await batches.updates_by_id_in_one_batch(batching) == ([200] * 3, {"a": 1, "b": 1, "c": 1})


async def test_writes_of_one_identifier_that_are_retried_individually_keep_their_order(batching: Api) -> None:
    seen, last = await batches.opposite_edits_retried_individually(batching)
    assert seen == batches.in_order()
    assert last == seen[-1]


async def test_writes_of_many_objects_share_a_statement(batching: Api) -> None:
    keys = [await batching.new_object() for _ in range(3)]
    async with busy_connection(batching):
        waiting = [
            caller
            for number, key in enumerate(keys)
            for caller in sent(batching, key, {f"o{number}": {"name": "n"}}).values()
        ]
        await queued(batching, 3)
    assert await batches.answered(waiting) == [200] * 3
    assert await transactions(batching, ["o0", "o1", "o2"]) == 1
