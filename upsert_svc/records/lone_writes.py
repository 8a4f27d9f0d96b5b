"""Writes that take PostgreSQL long: they go by themselves, of an account one at a time.

A batch with such a write would keep everybody else's waiting. Some are known by their patch: documents are
merged key by key and object by object. Others show in what the last ones of their object took: text that is
searched costs by its words.
"""

import asyncio
import math
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from upsert_svc.errors import ServiceUnavailable
from upsert_svc.records.values import WriteRow
from upsert_svc.turns import Turns

LONE_COST = 64 * 1024
LONE_WRITES = 2  # at a time, of an account one
SLOW_SECONDS = 0.008  # of a write of many words, on an average of the last few of its object
MANY_WORDS = 500
_PLAIN_CHARACTERS = 1000  # of a patch that costs what it is long
_KEYS_INCLUDED = 100
_KEY_COST, _OBJECT_COST = 100, 500
_NEWEST = 0.3  # the weight of the last write in the average
_KNOWN_OBJECTS = 10_000


def cost(patch: str) -> int:
    """The work of a patch, in characters of text."""
    if len(patch) <= _PLAIN_CHARACTERS:
        return len(patch)
    keys, objects = patch.count('":'), patch.count("{")
    return len(patch) + _KEY_COST * max(0, keys - _KEYS_INCLUDED) + _OBJECT_COST * max(0, objects - 1)


def too_late() -> ServiceUnavailable:
    """The refusal of a write whose time is over before it was sent."""
    return ServiceUnavailable("The write has waited too long and was not written")


class LoneWrites:
    """Which writes go by themselves, and whose turn it is."""

    def __init__(self, *, waiting_limit: int, wait_seconds: float = math.inf) -> None:
        self._turns = Turns(
            LONE_WRITES,
            most=LONE_WRITES // 2,
            waiting_limit=waiting_limit,
            refusal="Too many writes are waiting",
        )
        self._wait_seconds = None if math.isinf(wait_seconds) else wait_seconds
        self._seconds: OrderedDict[int, float] = OrderedDict()  # of writes of many words, by object

    def takes_long(self, write: WriteRow) -> bool:
        """Whether a write goes by itself."""
        if len(write.patch) <= _PLAIN_CHARACTERS:
            return False
        if self._seconds.get(write.object_id, 0) > SLOW_SECONDS and _has_many_words(write):
            return True
        return cost(write.patch) > LONE_COST

    def note(self, write: WriteRow, seconds: float) -> None:
        """Takes notice of how long a write took, or each of a batch on average."""
        if not _has_many_words(write):
            return
        before = self._seconds.pop(write.object_id, 0.0)
        if len(self._seconds) >= _KNOWN_OBJECTS:
            self._seconds.popitem(last=False)
        self._seconds[write.object_id] = before + (seconds - before) * _NEWEST

    @asynccontextmanager
    async def turn(self, account_id: int, write: WriteRow) -> AsyncIterator[None]:
        """The block waits for its turn if the write takes long. Raises ServiceUnavailable."""
        if not self.takes_long(write):
            yield
            return
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._turns.take(account_id)
        except TimeoutError:
            raise too_late() from None
        try:
            yield
        finally:
            self._turns.give_back(account_id)


def _has_many_words(write: WriteRow) -> bool:
    return len(write.patch) > MANY_WORDS and write.patch.count(" ") > MANY_WORDS
