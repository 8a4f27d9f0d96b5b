import asyncio

import pytest

from upsert_svc import memory
from upsert_svc.errors import ServiceUnavailable
from upsert_svc.memory import Held, Lane

A, B = 1, 2


async def _waiting(lane: Lane, account_id: int, size: int) -> "asyncio.Task[Held]":
    task = asyncio.create_task(lane.take(account_id, size))
    await asyncio.sleep(0)
    return task


async def test_what_fits_is_had_at_once_and_what_does_not_waits_until_it_is_given_back() -> None:
    lane = Lane(100)
    first = await lane.take(A, 60)
    second = await _waiting(lane, A, 60)
    assert not second.done()
    first.release()
    assert (await second).size == 60


async def test_accounts_take_turns_whoever_came_first() -> None:
    lane = Lane(100)
    held = await lane.take(A, 100)
    of_a = [await _waiting(lane, A, 50) for _ in range(4)]
    of_b = await _waiting(lane, B, 50)
    held.release()
    await asyncio.sleep(0)
    assert [task.done() for task in (*of_a, of_b)] == [True, False, False, False, True]
    (await of_b).release()  # and who holds half goes on where nobody else waits
    await asyncio.sleep(0)
    assert of_a[1].done()


async def test_who_comes_later_does_not_overtake_what_is_large() -> None:
    lane = Lane(100)
    held = await lane.take(A, 40)
    large = await _waiting(lane, B, 100)
    small = await _waiting(lane, A, 10)
    assert not small.done()
    held.release()
    (await large).release()
    assert (await small).size == 10


async def test_more_than_there_is_counts_as_all_of_it() -> None:
    lane = Lane(100)
    held = await lane.take(A, 1000)
    assert held.size == 100
    held.keep(30)
    assert (await lane.take(B, 70)).size == 70


async def test_giving_back_twice_gives_back_once() -> None:
    lane = Lane(100)
    held = await lane.take(A, 60)
    held.release()
    held.release()
    await lane.take(A, 100)
    assert not (await _waiting(lane, A, 1)).done()


async def test_who_waits_too_long_is_refused_and_what_was_granted_meanwhile_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "WAIT_SECONDS", 0.01)
    lane = Lane(100)
    held = await lane.take(A, 100)
    with pytest.raises(ServiceUnavailable):
        await lane.take(B, 10)
    held.release()
    assert (await lane.take(B, 100)).size == 100


async def test_who_leaves_takes_nothing_along() -> None:
    lane = Lane(100)
    held = await lane.take(A, 100)
    waiting = [await _waiting(lane, account_id, 100) for account_id in (B, A)]
    waiting[0].cancel()
    held.release()  # in the same moment
    await asyncio.wait(waiting)
    (await waiting[1]).release()
    assert (await lane.take(B, 100)).size == 100


async def test_too_many_that_wait_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "WAITING_LIMIT", 4)
    lane = Lane(100)
    await lane.take(A, 100)
    waiting = [await _waiting(lane, A, 1) for _ in range(2)]
    with pytest.raises(ServiceUnavailable):
        await lane.take(A, 1)
    assert not (await _waiting(lane, B, 1)).done()
    for task in waiting:
        task.cancel()
