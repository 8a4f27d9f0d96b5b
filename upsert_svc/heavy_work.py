"""Turns of heavy work in the event loop: one piece at a time, the accounts one after another.

After each piece the loop has as long for everything else. So small requests wait for a few pieces and not for
all, however many large bodies come at once.
"""

import asyncio
import time
from collections import OrderedDict, deque

HEAVY_BYTES = 16 * 1024  # of a body that takes a turn before it is read
_REST_SECONDS = 0.005  # the least rest: pieces that are shorter have one together
_MOST_REST_SECONDS = 0.1  # a piece takes less, where the machine has time for it


class HeavyWork:
    """Who waits for a turn, by account."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[int, deque[asyncio.Future[None]]] = OrderedDict()
        self._is_begun = False
        self._worked_seconds = 0.0  # since the last rest
        self._given_at = 0.0

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
        """Gives the next turn. It is taken when the loop turns, and after it comes the end of the turn."""
        while self._waiting:
            account_id, queue = self._waiting.popitem(last=False)
            turn = queue.popleft()
            if queue:
                self._waiting[account_id] = queue
            if not turn.done():  # whoever waited may have gone
                turn.set_result(None)
                self._given_at = time.monotonic()
                asyncio.get_running_loop().call_soon(self._end)
                return
        self._is_begun = False

    def _end(self) -> None:
        loop = asyncio.get_running_loop()
        self._worked_seconds += time.monotonic() - self._given_at
        if self._worked_seconds < _REST_SECONDS:
            loop.call_soon(self._give)
        else:
            loop.call_later(min(self._worked_seconds, _MOST_REST_SECONDS), self._give)
            self._worked_seconds = 0.0
