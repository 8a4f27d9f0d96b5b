"""The memory of one worker process for what it holds for callers: bodies while they are handled, and pages.

It is taken before anything is read, so that what does not fit waits unread, in the network. Whoever waits
goes in turn by account, and is refused with 503 in the end.
"""

import asyncio
from collections import OrderedDict, deque
from dataclasses import dataclass

from upsert_svc.errors import ServiceUnavailable

WAIT_SECONDS = 5.0
WAITING_LIMIT = 1000
_BUSY = "Too much is under way: there is no memory for the request just now"


class Lane:
    """A number of bytes, of which an account holds at most half while others wait."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._free = limit_bytes
        self._held: dict[int, int] = {}
        self._queues: OrderedDict[int, deque[tuple[int, asyncio.Future[None]]]] = OrderedDict()
        self._waiting = 0

    async def take(self, account_id: int, size: int) -> "Held":
        """Takes bytes, all of the lane at most, as soon as it is the account's turn.

        Raises ServiceUnavailable when that takes too long, or when too many wait.
        """
        size = min(size, self.limit_bytes)
        if self._queues or size > self._free:
            await self._wait(account_id, size)
        else:
            self._grant(account_id, size)
        return Held(self, account_id, size)

    def give_back(self, account_id: int, size: int) -> None:
        """Gives bytes back, and so to the next in turn."""
        self._free += size
        self._held[account_id] -= size
        if not self._held[account_id]:
            del self._held[account_id]
        self._serve()

    def _serve(self) -> None:
        while (chosen := self._next()) is not None:
            size, granted = self._queues[chosen][0]
            if size > self._free:
                return  # and nobody overtakes, or what is large would wait for ever
            self._pop(chosen)
            if not granted.done():  # else who waited is about to leave
                self._grant(chosen, size)
                granted.set_result(None)

    def _grant(self, account_id: int, size: int) -> None:
        self._free -= size
        self._held[account_id] = self._held.get(account_id, 0) + size

    def _next(self) -> int | None:
        """The next account in turn that holds less than half, else the next of all."""
        half = self.limit_bytes // 2
        of_all = next(iter(self._queues), None)
        return next((one for one in self._queues if self._held.get(one, 0) < half), of_all)

    def _pop(self, account_id: int) -> None:
        queue = self._queues.pop(account_id)
        queue.popleft()
        self._waiting -= 1
        if queue:
            self._queues[account_id] = queue

    async def _wait(self, account_id: int, size: int) -> None:
        queue = self._queues.get(account_id)
        if self._waiting >= WAITING_LIMIT or len(queue or ()) >= WAITING_LIMIT // 2:
            raise ServiceUnavailable(_BUSY)
        if queue is None:
            queue = self._queues[account_id] = deque()
        granted = asyncio.get_running_loop().create_future()
        item = (size, granted)
        queue.append(item)
        self._waiting += 1
        self._serve()
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await granted
        except BaseException as error:
            if granted.done() and not granted.cancelled():  # it came at the moment of leaving
                self.give_back(account_id, size)
            else:
                self._leave(account_id, item)
            if isinstance(error, TimeoutError):
                raise ServiceUnavailable(_BUSY) from None
            raise

    def _leave(self, account_id: int, item: tuple[int, asyncio.Future[None]]) -> None:
        queue = self._queues.get(account_id, deque())
        if item in queue:
            queue.remove(item)
            self._waiting -= 1
            if not queue:
                del self._queues[account_id]
            self._serve()


class Held:
    """Bytes of a lane that are held for an account."""

    __slots__ = ("_account_id", "_lane", "size")

    def __init__(self, lane: Lane, account_id: int, size: int) -> None:
        self._lane = lane
        self._account_id = account_id
        self.size = size

    def keep(self, size: int) -> None:
        """Gives back all but so many."""
        if size < self.size:
            given, self.size = self.size - size, size
            self._lane.give_back(self._account_id, given)

    def release(self) -> None:
        self.keep(0)


@dataclass(frozen=True)
class Memory:
    """What a worker may hold, so that none of the three kinds keeps another waiting."""

    bodies: Lane  # of single requests
    bulk: Lane  # bodies of bulk jobs
    pages: Lane

    @classmethod
    def of(cls, limit_bytes: int) -> "Memory":
        return cls(*(Lane(limit_bytes // 3) for _ in range(3)))
