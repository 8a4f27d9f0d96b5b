"""Who goes next: accounts take what is scarce in turn, so that nobody waits for all that another asks for.

Within an account who came first goes first. Refuses with 503 when too many wait, of an account or in all.
"""

import asyncio
from collections import OrderedDict, deque
from contextvars import ContextVar
from typing import NamedTuple

from upsert_svc.errors import ServiceUnavailable

BACKGROUND = 0  # the account of work that no account asked for
# On whose behalf the task at hand works. Tasks that it makes inherit it; those that work for many must not.
CALLER: ContextVar[int] = ContextVar("account_id", default=BACKGROUND)


class _Waiting(NamedTuple):
    size: int
    granted: asyncio.Future[None]


class Turns:
    """An amount of slots or bytes, of which an account has `most` at most, and half while others wait.

    So an account that holds its part for long leaves some for others, whenever they come. It may also have
    half of those that may wait. Whoever is next is not overtaken, though less than it wants may be free:
    what is large would wait for ever.
    """

    def __init__(
        self,
        amount: int,
        *,
        most: int,
        waiting_limit: int,
        refusal: str = "Too many requests are waiting for the database",
    ) -> None:
        self.amount = amount
        self._free = amount
        self._most = most
        self._share = max(1, amount // 2)
        self._waiting_limit = waiting_limit
        self._refusal = refusal
        self._held: dict[int, int] = {}
        self._queues: OrderedDict[int, deque[_Waiting]] = OrderedDict()
        self._waiting = 0

    async def take(self, account_id: int, size: int = 1) -> None:
        """Takes so much, as soon as it is the account's turn. Raises ServiceUnavailable."""
        if not self.take_at_once(account_id, size):
            await self._wait(account_id, size)

    def take_at_once(self, account_id: int, size: int = 1) -> bool:
        """Takes so much where nobody has to wait for it; whether it did."""
        if size > self._free or self._held.get(account_id, 0) + size > self._most or self._next() is not None:
            return False
        self._grant(account_id, size)
        return True

    def give_back(self, account_id: int, size: int = 1) -> None:
        """Gives so much back, and so to the next in turn."""
        self._free += size
        self._held[account_id] -= size
        if not self._held[account_id]:
            del self._held[account_id]
        self._serve()

    def _serve(self) -> None:
        while self._free and (chosen := self._next()) is not None:
            if self._queues[chosen][0].size > self._free:
                return
            size, granted = self._pop(chosen)
            if not granted.done():  # else whoever waited is about to leave, and has not come to it yet
                self._grant(chosen, size)
                granted.set_result(None)

    def _grant(self, account_id: int, size: int) -> None:
        self._free -= size
        self._held[account_id] = self._held.get(account_id, 0) + size

    async def _wait(self, account_id: int, size: int) -> None:
        queue = self._queues.get(account_id)
        if self._waiting >= self._waiting_limit or len(queue or ()) >= max(1, self._waiting_limit // 2):
            raise ServiceUnavailable(self._refusal)
        if queue is None:
            queue = self._queues[account_id] = deque()
        waiting = _Waiting(size, asyncio.get_running_loop().create_future())
        queue.append(waiting)
        self._waiting += 1
        self._serve()  # it may be the first that wants no more than is free
        try:
            await waiting.granted
        except BaseException:
            if waiting.granted.cancelled():
                self._remove(account_id, waiting)
            else:  # it was granted at the moment of the cancellation
                self.give_back(account_id, size)
            raise

    def _next(self) -> int | None:
        """The next account in turn that has less than its share, else the next that may have more."""
        above_share = None
        for account_id in self._queues:  # of those that wait few hold their share, so this ends soon
            wanted = self._held.get(account_id, 0) + self._queues[account_id][0].size
            if wanted <= self._share:
                return account_id
            if above_share is None and wanted <= self._most:
                above_share = account_id
        return above_share

    def _pop(self, account_id: int) -> _Waiting:
        """Who came first of an account, which then is the last in turn."""
        queue = self._queues.pop(account_id)
        waiting = queue.popleft()
        self._waiting -= 1
        if queue:
            self._queues[account_id] = queue
        return waiting

    def _remove(self, account_id: int, waiting: _Waiting) -> None:
        """Takes out who leaves, unless that has been done in passing; who comes next may want less."""
        queue = self._queues.get(account_id, deque())
        if waiting in queue:
            queue.remove(waiting)
            self._waiting -= 1
            if not queue:
                del self._queues[account_id]
            self._serve()
