"""Slots that accounts take in turn."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from upsert_svc.errors import ServiceUnavailable
from upsert_svc.turns import Turns


class _Callers:
    """Who has taken a slot, in order, each by the name of its account."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.served: list[int] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def ask(self, *accounts: int) -> Sequence[asyncio.Task[None]]:
        """Callers who take a slot and keep it; each has come when the next one does."""
        for account_id in accounts:
            self.tasks.append(asyncio.create_task(self._take(account_id)))
            await asyncio.sleep(0)
        return self.tasks[-len(accounts) :]

    async def _take(self, account_id: int) -> None:
        await self.turns.take(account_id)
        self.served.append(account_id)

    async def give_back(self, account_id: int) -> None:
        self.turns.give_back(account_id)
        await asyncio.sleep(0)


Calling = Callable[[Turns], _Callers]


@pytest.fixture
async def calling() -> AsyncIterator[Calling]:
    """Makes callers, who go at the end of the test."""
    made: list[_Callers] = []

    def make(turns: Turns) -> _Callers:
        made.append(_Callers(turns))
        return made[-1]

    yield make
    tasks = [task for callers in made for task in callers.tasks]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_accounts_that_wait_take_turns(calling: Calling) -> None:
    callers = calling(Turns(1, most=1, waiting_limit=100))
    await callers.ask(1, 1, 1, 1, 2, 2, 3)
    for account_id in (1, 1, 2, 3, 1, 2):
        await callers.give_back(account_id)
    assert callers.served == [1, 1, 2, 3, 1, 2, 1]


async def test_an_account_holds_no_more_than_half_while_others_wait(calling: Calling) -> None:
    callers = calling(Turns(4, most=4, waiting_limit=100))
    await callers.ask(1, 1, 1, 1, 1, 1, 2, 2, 2)
    await callers.give_back(1)
    await callers.give_back(1)
    assert callers.served == [1, 1, 1, 1, 2, 2]
    await callers.give_back(1)
    assert callers.served[6:] == [1]


async def test_alone_an_account_may_have_all_but_what_is_reserved(calling: Calling) -> None:
    callers = calling(Turns(4, most=3, waiting_limit=100))
    await callers.ask(1, 1, 1, 1)
    assert callers.served == [1, 1, 1]
    await callers.ask(2)
    assert callers.served == [1, 1, 1, 2]


async def test_an_account_has_half_of_those_that_may_wait(calling: Calling) -> None:
    callers = calling(Turns(1, most=1, waiting_limit=4))
    tasks = await callers.ask(1, 1, 1, 1, 2, 2, 2, 3)
    refused = [task.done() and isinstance(task.exception(), ServiceUnavailable) for task in tasks]
    assert refused == [False, False, False, True, False, False, True, True]


async def test_who_leaves_is_passed_over_and_leaves_room(calling: Calling) -> None:
    turns = Turns(1, most=1, waiting_limit=2)
    callers = calling(turns)
    _, leaver, _ = await callers.ask(1, 1, 2)
    leaver.cancel()
    await asyncio.sleep(0)
    await callers.ask(3)
    await callers.give_back(1)
    await callers.give_back(2)
    assert callers.served == [1, 2, 3]


async def test_a_slot_granted_to_who_leaves_goes_to_the_next(calling: Calling) -> None:
    turns = Turns(1, most=1, waiting_limit=10)
    callers = calling(turns)
    _, leaver, _ = await callers.ask(1, 1, 2)
    turns.give_back(1)
    leaver.cancel()
    await asyncio.gather(leaver, return_exceptions=True)
    await asyncio.sleep(0)
    assert callers.served == [1, 2]
    turns.give_back(2)
    await asyncio.wait_for(turns.take(9), 1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(turns.take(9), 0.01)


async def test_a_slot_that_comes_free_as_somebody_leaves_goes_to_the_next(calling: Calling) -> None:
    turns = Turns(1, most=1, waiting_limit=10)
    callers = calling(turns)
    _, leaver, _ = await callers.ask(1, 1, 2)
    leaver.cancel()
    turns.give_back(1)
    await asyncio.gather(leaver, return_exceptions=True)
    await asyncio.sleep(0)
    assert callers.served == [1, 2]
    turns.give_back(2)
    await asyncio.wait_for(turns.take(9), 1)
