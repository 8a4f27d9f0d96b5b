"""Concurrent reads of single records batched into few statements, as `write_batching` batches writes.

What is asked for while a statement is under way goes in the next, by accounts in turn; a lone read goes at
once. A statement begins after the last of its callers came, so each sees whatever was committed before.
Refuses with 503 when too many wait, of an account or in all, or one for too long.
"""

import asyncio
import contextvars
import math
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from upsert_svc.db import statements
from upsert_svc.db.pools import Connection, Connections, Row
from upsert_svc.errors import ServiceUnavailable

BATCH_LIMIT = 64
_WAITING_LIMIT = 5000  # of which an account may have half
_EXPIRY_SECONDS = 0.25  # between looks for reads that have waited too long
_SQL = statements.load("records")


@dataclass(slots=True)
class _Waiting:
    """What a caller asked for, the future of its row, and until when it may wait, by the loop's clock."""

    account_id: int
    object_key: str
    record_id: str
    row: asyncio.Future[Row | None]
    deadline: float

    def is_in_time(self, now: float) -> bool:
        """Whether somebody still waits for it; whoever has waited for too long is told so."""
        if self.deadline <= now:
            self.fail(ServiceUnavailable("The read has waited too long"))
        return not self.row.done()

    def fail(self, error: Exception) -> None:
        if not self.row.done():
            self.row.set_exception(error)


class _Queue:
    """What waits, by account; these take turns."""

    def __init__(self) -> None:
        self._turns: OrderedDict[int, deque[_Waiting]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def put(self, item: _Waiting) -> None:
        """Raises ServiceUnavailable when there is no room."""
        queue = self._turns.get(item.account_id)
        if self._length >= _WAITING_LIMIT or len(queue or ()) >= _WAITING_LIMIT // 2:
            raise ServiceUnavailable("Too many reads are waiting")
        if queue is None:
            queue = self._turns[item.account_id] = deque()
        queue.append(item)
        self._length += 1

    def take(self, limit: int) -> Iterator[_Waiting]:
        """At most so many, one of each account in turn."""
        for _ in range(min(limit, self._length)):
            account_id, queue = self._turns.popitem(last=False)
            item = queue.popleft()
            if queue:
                self._turns[account_id] = queue
            self._length -= 1
            yield item

    def expire(self, now: float) -> None:
        """Tells who has waited too long."""
        for account_id, queue in [*self._turns.items()]:
            while queue and not queue[0].is_in_time(now):
                queue.popleft()
                self._length -= 1
            if not queue:
                del self._turns[account_id]


class ReadBatcher:
    """Shows records over one connection of the pool, which it holds while anybody waits."""

    def __init__(self, pool: Connections, *, wait_seconds: float = math.inf) -> None:
        self._pool = pool
        self._wait_seconds = wait_seconds
        self._queue = _Queue()
        self._running: asyncio.Task[None] | None = None
        self._expiry: asyncio.TimerHandle | None = None

    async def show(self, account_id: int, object_key: str, record_id: str) -> Row | None:
        """The row of a record after its place in the statement; None where there is no such record.

        Raises ServiceUnavailable.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._wait_seconds
        waiting = _Waiting(account_id, object_key, record_id, loop.create_future(), deadline)
        self._queue.put(waiting)
        if self._expiry is None:
            self._expiry = loop.call_later(_EXPIRY_SECONDS, self._expire)
        if self._running is None:  # on behalf of all who ask, not of this one alone
            self._running = asyncio.create_task(self._run(), context=contextvars.Context())
        return await waiting.row

    async def _run(self) -> None:
        misses = 0  # in a row; a pool may hand out one connection that is just being lost
        while self._queue:
            under_way: Sequence[_Waiting] = ()
            try:
                async with self._pool.connection() as connection:
                    misses = 0
                    while under_way := self._next(BATCH_LIMIT):
                        await _send(connection, under_way)
            except Exception as error:  # where there was no connection, there is none for those behind either
                misses += not under_way
                for waiting in under_way or (self._next(len(self._queue)) if misses > 1 else ()):
                    waiting.fail(error)
        self._running = None

    def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        self._queue.expire(loop.time())
        self._expiry = loop.call_later(_EXPIRY_SECONDS, self._expire) if self._queue else None

    def _next(self, limit: int) -> Sequence[_Waiting]:
        now = asyncio.get_running_loop().time()
        return [item for item in self._queue.take(limit) if item.is_in_time(now)]


async def _send(connection: Connection, batch: Sequence[_Waiting]) -> None:
    rows = await connection.fetch(
        *_SQL.show(
            account_ids=[waiting.account_id for waiting in batch],
            object_keys=[waiting.object_key for waiting in batch],
            record_ids=[waiting.record_id for waiting in batch],
        )
    )
    found = {row["place"]: row for row in rows}
    for place, waiting in enumerate(batch):
        if not waiting.row.done():
            waiting.row.set_result(found.get(place))
