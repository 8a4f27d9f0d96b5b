"""The memory of one worker process for what it holds for callers: bodies while they are handled, and pages.

It is taken before anything is read, so that what does not fit waits unread, in the network. Whoever waits
goes in turn by account, and is refused with 503 in the end.
"""

import asyncio
from dataclasses import dataclass

from upsert_svc.errors import ServiceUnavailable
from upsert_svc.turns import Turns

WAIT_SECONDS = 5.0
WAITING_LIMIT = 1000
_BUSY = "Too much is under way: there is no memory for the request just now"


class Lane:
    """A number of bytes, of which an account holds half at most: who is slow holds it for long."""

    def __init__(self, limit_bytes: int) -> None:
        self.share_bytes = limit_bytes // 2
        self._turns = Turns(limit_bytes, most=self.share_bytes, waiting_limit=WAITING_LIMIT, refusal=_BUSY)

    async def take(self, account_id: int, size: int) -> "Held":
        """Takes bytes, half of the lane at most, as soon as it is the account's turn.

        Raises ServiceUnavailable when that takes too long, or when too many wait.
        """
        size = min(size, self.share_bytes)
        if not self._turns.take_at_once(account_id, size):  # else a timer would cost more than all the rest
            try:
                async with asyncio.timeout(WAIT_SECONDS):
                    await self._turns.take(account_id, size)
            except TimeoutError:
                raise ServiceUnavailable(_BUSY) from None
        return Held(self._turns, account_id, size)


class Held:
    """Bytes of a lane that are held for an account."""

    __slots__ = ("_account_id", "_turns", "size")

    def __init__(self, turns: Turns, account_id: int, size: int) -> None:
        self._turns = turns
        self._account_id = account_id
        self.size = size

    def keep(self, size: int) -> None:
        """Gives back all but so many."""
        if size < self.size:
            given, self.size = self.size - size, size
            self._turns.give_back(self._account_id, given)

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
