"""Turns of heavy work: whose comes next, and that the loop turns in between."""

import asyncio
import contextlib
import itertools
import time

from upsert_svc.heavy_work import HeavyWork


async def pieces(turns: HeavyWork, account_id: int, count: int, done: list[int]) -> None:
    for _ in range(count):
        await turns.take(account_id)
        done.append(account_id)


async def test_accounts_take_turns_whatever_each_has_to_do() -> None:
    turns, done = HeavyWork(), list[int]()
    await asyncio.gather(
        *(pieces(turns, 1, 1, done) for _ in range(6)),
        *(pieces(turns, account_id, 1, done) for account_id in (2, 3)),
    )
    assert done == [1, 2, 3, 1, 1, 1, 1, 1]


async def test_the_loop_turns_between_two_pieces() -> None:
    turns, seen = HeavyWork(), list[int]()
    loop, passes = asyncio.get_running_loop(), itertools.count()
    is_over = False

    def turn() -> None:
        if not is_over:
            next(passes)
            loop.call_soon(turn)

    async def piece() -> None:
        await turns.take(1)
        seen.append(next(passes))

    turn()
    await asyncio.gather(*(piece() for _ in range(50)))
    is_over = True
    assert all(later - earlier > 1 for earlier, later in itertools.pairwise(seen))


async def test_who_no_longer_waits_holds_up_nobody() -> None:
    turns, done = HeavyWork(), list[int]()
    tasks = [asyncio.create_task(pieces(turns, account_id, 1, done)) for account_id in (1, 1, 2, 1)]
    await asyncio.sleep(0)
    for task in tasks[:2]:
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*tasks, return_exceptions=True)
    assert done == [2, 1]
    await asyncio.wait_for(pieces(turns, 1, 3, done), 5)


async def test_heavy_work_leaves_half_of_the_time_to_others() -> None:
    turns, piece_seconds, count = HeavyWork(), 0.02, 20

    async def piece() -> None:
        await turns.take(1)
        time.sleep(piece_seconds)  # noqa: ASYNC251  # which holds the loop, as heavy work does

    started = time.monotonic()
    await asyncio.gather(*(piece() for _ in range(count)))
    assert time.monotonic() - started > 2 * piece_seconds * (count - 2)
