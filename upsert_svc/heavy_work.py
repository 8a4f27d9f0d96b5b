"""Turns of heavy work in the event loop: one piece at a time, the accounts one after another.

Between two pieces the loop turns, so that small requests wait for one of them and not for all.
"""

import asyncio
from collections import OrderedDict, deque

HEAVY_BYTES = 16 * 1024  # of a body that takes a turn before it is read


class HeavyWork:
    """Who waits for a turn, by account."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[int, deque[asyncio.Future[None]]] = OrderedDict()
        self._is_begun = False

    async def take(self, account_id: int) -> None:
        """Returns when it is the account's turn, which lasts until the caller waits for anything."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.setdefault(account_id, deque()).append(turn)
        if not self._is_begun:
            self._is_begun = True
            loop.call_soon(self._give)
        await turn

    def _give(self) -> None:
        """Gives the next turn. It is taken when the loop turns, and the one after that is given then."""
        while self._waiting:
            account_id, queue = self._waiting.popitem(last=False)
            turn = queue.popleft()
            if queue:
                self._waiting[account_id] = queue
            if not turn.done():  # whoever waited may have gone
                turn.set_result(None)
                asyncio.get_running_loop().call_soon(self._give)
                return
        self._is_begun = False
