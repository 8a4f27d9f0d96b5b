"""Concurrent reads of single records batched into few statements, as `write_batching` batches writes.

What is asked for while a statement is under way goes in the next; a lone read goes at once. A statement
begins after the last of its callers came, so each sees whatever was committed before.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from upsert_svc.db import statements
from upsert_svc.db.pools import Connection, Connections, Row
from upsert_svc.errors import ServiceUnavailable

BATCH_LIMIT = 64
_WAITING_LIMIT = 10_000
_SQL = statements.load("records")


class _Waiting(NamedTuple):
    """What a caller asked for, and the future of its row."""

    account_id: int
    object_key: str
    record_id: str
    row: asyncio.Future[Row | None]


class ReadBatcher:
    """Shows records over one connection of the pool, which it holds while anybody waits."""

    def __init__(self, pool: Connections) -> None:
        self._pool = pool
        self._queue: deque[_Waiting] = deque()
        self._running: asyncio.Task[None] | None = None

    async def show(self, account_id: int, object_key: str, record_id: str) -> Row | None:
        """The row of a record after its place in the statement; None where there is no such record.

        Raises ServiceUnavailable.
        """
        if len(self._queue) >= _WAITING_LIMIT:
            raise ServiceUnavailable("Too many reads are waiting")
        waiting = _Waiting(account_id, object_key, record_id, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return await waiting.row

    async def _run(self) -> None:
        while self._queue:
            under_way: Sequence[_Waiting] = ()
            try:
                async with self._pool.connection() as connection:
                    while under_way := self._next(BATCH_LIMIT):
                        await _send(connection, under_way)
            except Exception as error:  # where there was no connection, there is none for those behind either
                for waiting in under_way or self._next(len(self._queue)):
                    if not waiting.row.done():
                        waiting.row.set_exception(error)
        self._running = None

    def _next(self, limit: int) -> Sequence[_Waiting]:
        return [self._queue.popleft() for _ in range(min(limit, len(self._queue)))]


async def _send(connection: Connection, batch: Sequence[_Waiting]) -> None:
    account_ids, object_keys, record_ids, futures = zip(*batch, strict=True)
    rows = await connection.fetch(
        *_SQL.show(account_ids=account_ids, object_keys=object_keys, record_ids=record_ids)
    )
    found = {row["place"]: row for row in rows}
    for place, future in enumerate(futures):
        if not future.done():
            future.set_result(found.get(place))
