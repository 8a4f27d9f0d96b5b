"""Who goes next: slots that accounts take in turn, so that nobody waits for all that another asks for.

Within an account who came first goes first. Refuses with 503 when too many wait, of an account or in all.
"""

import asyncio
from collections import OrderedDict, deque
from contextvars import ContextVar

from upsert_svc.errors import ServiceUnavailable

BACKGROUND = 0  # the account of work that no account asked for
# On whose behalf the task at hand works. Tasks that it makes inherit it; those that work for many must not.
CALLER: ContextVar[int] = ContextVar("account_id", default=BACKGROUND)


class Turns:
    """A number of slots, of which an account never holds more than `most`, and half while others wait.

    So an account that holds its slots for long leaves some for others, whenever they come. It may also have
    half of those that may wait.
    """

    def __init__(self, slots: int, *, most: int, waiting_limit: int) -> None:
        self._free = slots
        self._most = most
        self._share = max(1, slots // 2)
        self._waiting_limit = waiting_limit
        self._held: dict[int, int] = {}
        self._queues: OrderedDict[int, deque[asyncio.Future[None]]] = OrderedDict()
        self._waiting = 0

    async def take(self, account_id: int) -> None:
        """Takes a slot, as soon as it is the account's turn. Raises ServiceUnavailable."""
        if self._free and self._held.get(account_id, 0) < self._most:  # who waits has as many as it may have
            self._grant(account_id)
        else:
            await self._wait(account_id)

    def give_back(self, account_id: int) -> None:
        """Gives a slot back, and so to the next in turn."""
        self._free += 1
        self._held[account_id] -= 1
        if not self._held[account_id]:
            del self._held[account_id]
        while self._free and (chosen := self._next()) is not None:
            slot = self._pop(chosen)
            if not slot.done():  # else whoever waited is about to leave, and has not come to it yet
                self._grant(chosen)
                slot.set_result(None)

    def _grant(self, account_id: int) -> None:
        self._free -= 1
        self._held[account_id] = self._held.get(account_id, 0) + 1

    async def _wait(self, account_id: int) -> None:
        queue = self._queues.get(account_id)
        if self._waiting >= self._waiting_limit or len(queue or ()) >= max(1, self._waiting_limit // 2):
            raise ServiceUnavailable("Too many requests are waiting for the database")
        if queue is None:
            queue = self._queues[account_id] = deque()
        slot = asyncio.get_running_loop().create_future()
        queue.append(slot)
        self._waiting += 1
        try:
            await slot
        except BaseException:
            if slot.cancelled():
                self._remove(account_id, slot)
            else:  # it was granted at the moment of the cancellation
                self.give_back(account_id)
            raise

    def _next(self) -> int | None:
        """The next account in turn that has less than its share, else the next that may have more."""
        above_share = None
        for account_id in self._queues:  # of those that wait few hold their share, so this ends soon
            held = self._held.get(account_id, 0)
            if held < self._share:
                return account_id
            if above_share is None and held < self._most:
                above_share = account_id
        return above_share

    def _pop(self, account_id: int) -> asyncio.Future[None]:
        """Who came first of an account, which then is the last in turn."""
        queue = self._queues.pop(account_id)
        slot = queue.popleft()
        self._waiting -= 1
        if queue:
            self._queues[account_id] = queue
        return slot

    def _remove(self, account_id: int, slot: asyncio.Future[None]) -> None:
        """Takes out who leaves, unless that has been done in passing."""
        queue = self._queues.get(account_id, deque())
        if slot in queue:
            queue.remove(slot)
            self._waiting -= 1
            if not queue:
                del self._queues[account_id]
