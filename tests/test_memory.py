import asyncio

import pytest

from upsert_svc import memory
from upsert_svc.errors import ServiceUnavailable
from upsert_svc.memory import Held, Lane

A, B, C, D = 1, 2, 3, 4


async def _waiting(lane: Lane, account_id: int, size: int) -> "asyncio.Task[Held]":
    task = asyncio.create_task(lane.take(account_id, size))
    await asyncio.sleep(0)
    return task


async def test_what_fits_is_had_at_once_and_what_does_not_waits_until_it_is_given_back() -> None:
    lane = Lane(100)
    first = await lane.take(A, 30)
    second = await _waiting(lane, A, 30)
    assert not second.done()
    first.release()
    assert (await second).size == 30


async def test_an_account_has_half_at_most_and_another_finds_the_rest_at_once() -> None:
    lane = Lane(100)
    held = await lane.take(A, 50)
    waiting = await _waiting(lane, A, 1)
    assert (await _waiting(lane, B, 50)).done()
    assert not waiting.done()
    held.release()
    assert (await waiting).size == 1


async def test_accounts_take_turns_whoever_came_first() -> None:
    lane = Lane(100)
    held = [await lane.take(account_id, 50) for account_id in (A, B)]
    of_a = [await _waiting(lane, A, 25) for _ in range(3)]
    of_c = await _waiting(lane, C, 25)
    for one in held:
        one.release()
    await asyncio.sleep(0)
    assert [task.done() for task in (*of_a, of_c)] == [True, True, False, True]


async def test_who_comes_later_does_not_overtake_what_is_large() -> None:
    lane = Lane(100)
    held = [await lane.take(account_id, 40) for account_id in (A, B)]
    large = await _waiting(lane, C, 50)
    small = await _waiting(lane, D, 10)
    assert not small.done()
    held[0].release()
    (await large).release()
    assert (await small).size == 10


async def test_more_than_there_is_for_an_account_counts_as_all_of_that() -> None:
    lane = Lane(100)
    held = await lane.take(A, 1000)
    assert held.size == 50
    held.keep(30)
    assert (await lane.take(A, 20)).size == 20


async def test_giving_back_twice_gives_back_once() -> None:
    lane = Lane(100)
    held = await lane.take(A, 40)
    held.release()
    held.release()
    await lane.take(A, 50)
    assert not (await _waiting(lane, A, 1)).done()


async def test_who_waits_too_long_is_refused_and_what_was_granted_meanwhile_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "WAIT_SECONDS", 0.01)
    lane = Lane(100)
    held = await lane.take(A, 50)
    with pytest.raises(ServiceUnavailable):
        await lane.take(A, 10)
    held.release()
    assert (await lane.take(A, 50)).size == 50


async def test_who_leaves_takes_nothing_along() -> None:
    lane = Lane(100)
    held = [await lane.take(account_id, 50) for account_id in (A, B)]
    waiting = [await _waiting(lane, account_id, 50) for account_id in (B, A)]
    waiting[0].cancel()
    for one in held:  # in the same moment
        one.release()
    await asyncio.wait(waiting)
    (await waiting[1]).release()
    assert (await lane.take(B, 50)).size == 50


async def test_too_many_that_wait_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "WAITING_LIMIT", 4)
    lane = Lane(100)
    for account_id in (A, B):
        await lane.take(account_id, 50)
    waiting = [await _waiting(lane, A, 1) for _ in range(2)]
    with pytest.raises(ServiceUnavailable):
        await lane.take(A, 1)
    assert not (await _waiting(lane, B, 1)).done()
    for task in waiting:
        task.cancel()
