"""Concurrent writes batched into few statements: what arrives while one is under way goes in the next.

A lone write goes at once. Every caller has its own answer, after the commit. Refuses with 503 when too many
wait, or one for too long, when the connection is lost while a write is under way (which may then have
happened: an upsert is safe to send again), and while the service stops.
"""

import asyncio
import contextvars
import logging
import math
import time
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Protocol

from upsert_svc.db import statements
from upsert_svc.db.pools import Connection, Connections, Pool, Row, is_open
from upsert_svc.errors import ServiceError, ServiceUnavailable, is_definite, translated
from upsert_svc.records.lone_writes import LoneWrites, cost, too_late
from upsert_svc.records.values import By, WriteRow
from upsert_svc.turns import CALLER

BATCH_LIMIT = 64
BATCH_COST = 128 * 1024  # of the writes of a batch but the last: time that others wait
QUEUE_CHARACTERS = 16 * 1024 * 1024  # of the fields sent, in all writes that wait
_EXPIRY_SECONDS = 0.25  # between looks for writes that have waited too long
_SQL = statements.load("records")
_POSITION = itemgetter("position")
_log = logging.getLogger(__name__)


def statement(account_id: int, by: By, writes: Iterable[WriteRow]) -> tuple[object, ...]:
    """The call of write_records for writes of one account that are found by one kind of identifier.

    It answers a row for each write, in any order; its `position` counts from 0.
    """
    return _SQL.write(
        account_id=account_id,
        by=by,
        writes=[(position, *write) for position, write in enumerate(writes)],
    )


@dataclass(slots=True)
class _Waiting:
    """A caller's write, the future of its row, until when it may wait by the loop's clock, and its cost."""

    write: WriteRow
    row: asyncio.Future[Row]
    deadline: float = math.inf
    cost: int = 0

    def is_in_time(self, now: float) -> bool:
        """Whether somebody still waits for it; whoever has waited for too long is told so."""
        if self.deadline <= now:
            self.fail(too_late())
        return not self.row.done()

    def fail(self, error: Exception) -> None:
        if not self.row.done():
            self.row.set_exception(error)

    def settle(self, row: Row) -> None:
        if not self.row.done():
            self.row.set_result(row)


@dataclass(slots=True)
class _Batch:
    """Writes of one account, found by one kind of identifier, that go in one statement."""

    account_id: int
    by: By
    items: Sequence[_Waiting]

    def statement(self) -> tuple[object, ...]:
        return statement(self.account_id, self.by, (item.write for item in self.items))

    def by_identifier(self) -> Iterable[Sequence[_Waiting]]:
        """The writes of each identifier, in their order of arrival."""
        groups: dict[tuple[int, str], list[_Waiting]] = defaultdict(list)
        for item in self.items:
            groups[item.write.object_id, item.write.identifier].append(item)
        return groups.values()

    def fail(self, error: Exception) -> None:
        for item in self.items:
            item.fail(error)


class _Room:
    """How many writes wait, and how many characters they have, in all and by account, which may have half.

    So there is always room for others.
    """

    def __init__(self, writes: int, characters: int) -> None:
        self._writes = writes
        self._characters = characters
        self._taken = [0, 0]
        self._taken_by: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0])

    @property
    def taken(self) -> int:
        """How many writes wait."""
        return self._taken[0]

    def require(self, account_id: int) -> None:
        """Raises ServiceUnavailable when there is none for a write of the account."""
        writes, characters = self._taken_by.get(account_id, (0, 0))  # which keeps no account that is idle
        all_writes, all_characters = self._taken
        if (
            writes >= self._writes // 2
            or all_writes >= self._writes
            or characters >= self._characters // 2
            or all_characters >= self._characters
        ):
            raise ServiceUnavailable("Too many writes are waiting")

    def enter(self, account_id: int, write: WriteRow) -> None:
        self._move(account_id, 1, len(write.patch))

    def leave(self, account_id: int, write: WriteRow) -> None:
        self._move(account_id, -1, -len(write.patch))
        if not self._taken_by[account_id][0]:
            del self._taken_by[account_id]

    def _move(self, account_id: int, writes: int, characters: int) -> None:
        for taken in (self._taken, self._taken_by[account_id]):
            taken[0] += writes
            taken[1] += characters


class _Queue:
    """What waits, by account and kind of identifier, and in these by object or stream: each has its turn."""

    def __init__(self, limit: int, characters: int = QUEUE_CHARACTERS) -> None:
        self.room = _Room(limit, characters)
        self._turns: OrderedDict[tuple[int, By], OrderedDict[object, deque[_Waiting]]] = OrderedDict()
        self._arrival = asyncio.Event()

    def put(self, account_id: int, by: By, item: _Waiting, stream: object = None) -> None:
        """Has a write of a stream wait, or a single one. Raises ServiceUnavailable when there is no room."""
        source = item.write.object_id if stream is None else stream
        self.room.require(account_id)
        self.room.enter(account_id, item.write)
        if (objects := self._turns.get((account_id, by))) is None:
            objects = self._turns[account_id, by] = OrderedDict()
        if (queue := objects.get(source)) is None:
            queue = objects[source] = deque()
        queue.append(item)
        self._arrival.set()

    async def next(self) -> _Batch:
        """The next batch, as soon as there is one; without the writes whose callers have gone."""
        while True:
            while not self._turns:
                self._arrival.clear()
                await self._arrival.wait()
            batch = self._take()
            if batch.items:
                return batch

    def _take(self) -> _Batch:
        (account_id, by), objects = self._turns.popitem(last=False)
        taken = list(_in_turn(objects))
        if objects:
            self._turns[account_id, by] = objects
        for item in taken:
            self.room.leave(account_id, item.write)
        now = asyncio.get_running_loop().time()
        return _Batch(account_id, by, [item for item in taken if item.is_in_time(now)])

    def expire(self, now: float) -> bool:
        """Tells who has waited too long; whether anybody waits still. Of a source the first came first."""
        for turn, objects in [*self._turns.items()]:
            for source, queue in [*objects.items()]:
                while queue and not queue[0].is_in_time(now):
                    self.room.leave(turn[0], queue.popleft().write)
                if not queue:
                    del objects[source]
            if not objects:
                del self._turns[turn]
        return bool(self._turns)

    def drain(self) -> Iterator[_Batch]:
        """Everything that waits, batch by batch."""
        while self._turns:
            yield self._take()


def _in_turn(objects: OrderedDict[object, deque[_Waiting]]) -> Iterator[_Waiting]:
    """At most a batch of writes, one of each object or stream in turn; takes them out."""
    spent = 0
    for _ in range(BATCH_LIMIT):
        if not objects or spent > BATCH_COST:
            return
        source, queue = objects.popitem(last=False)
        item = queue.popleft()
        spent += item.cost
        yield item
        if queue:
            objects[source] = queue


class Writer(Protocol):
    """Whoever takes a write to write_records."""

    async def write(self, account_id: int, by: By, write: WriteRow) -> Row:
        """The row that write_records answers for the write."""


class Direct:
    """Takes each write over one connection at once: it is part of whatever transaction is open there."""

    def __init__(self, connection: Connection, lone_writes: LoneWrites) -> None:
        self._connection = connection
        self._lone_writes = lone_writes

    async def write(self, account_id: int, by: By, write: WriteRow) -> Row:
        async with self._lone_writes.turn(account_id, write):
            return await self._connection.fetchrow(*statement(account_id, by, [write]))


class WriteBatcher:
    """Sends what waits over a few batch connections of its own, a statement at a time on each.

    A statement that fails as a whole, or that waits for a lock longer than it may here, wrote nothing; its
    writes are then retried individually over the ordinary pool: only the culprit fails, and nothing waits
    behind it. There goes also what takes long, like merging a document of a thousand objects.
    """

    def __init__(
        self,
        batches: Pool,
        pool: Connections,
        *,
        connection_count: int,
        queue_limit: int,
        wait_seconds: float = math.inf,
    ) -> None:
        self._batches = batches
        self._pool = pool
        self._connection_count = connection_count
        self._queue = _Queue(queue_limit)
        self.lone_writes = LoneWrites(waiting_limit=queue_limit, wait_seconds=wait_seconds)
        self.wait_seconds = wait_seconds
        self._expiry: asyncio.TimerHandle | None = None
        self._running: list[asyncio.Task[None]] = []
        self._individual: dict[asyncio.Task[None], Sequence[_Waiting]] = {}
        self._is_stopping = False

    def start(self) -> None:
        """Begins to send."""
        self._running = [asyncio.create_task(self._run()) for _ in range(self._connection_count)]

    async def stop(self) -> None:
        """Sends no more; whoever still waits is refused, and may come back."""
        self._is_stopping = True
        if self._expiry is not None:
            self._expiry.cancel()
        retried = [item for items in self._individual.values() for item in items]
        for task in (*self._running, *self._individual):
            task.cancel()
        await asyncio.gather(*self._running, *self._individual, return_exceptions=True)
        for item in (*retried, *(item for batch in self._queue.drain() for item in batch.items)):
            item.fail(_stopping())

    async def write(self, account_id: int, by: By, write: WriteRow) -> Row:
        """The row that write_records answers for the write, after its commit.

        Raises ServiceUnavailable when the queue is full, the write has waited in it for too long and was not
        written, the connection was lost, or the service stops.
        """
        if not self.lone_writes.takes_long(write):
            return await self.submit(account_id, by, write)
        self.require_room(account_id)
        async with self.lone_writes.turn(account_id, write):
            item = self._waiting(write)  # which refuses whoever has waited for the end of the service
            self._send_individually(_Batch(account_id, by, [item]))
            return await item.row

    @property
    def is_stopping(self) -> bool:
        """Whether every write is refused from now on."""
        return self._is_stopping

    def submit(self, account_id: int, by: By, write: WriteRow, stream: object = None) -> asyncio.Future[Row]:
        """The row that is to come, of a write that does not take long; see `write`.

        The writes of a stream take turns with those of other streams, and with single ones of its object.
        """
        item = self._waiting(write)
        self._queue.put(account_id, by, item, stream)
        if self._expiry is None:
            self._expiry = asyncio.get_running_loop().call_later(_EXPIRY_SECONDS, self._expire)
        return item.row

    def _waiting(self, write: WriteRow) -> _Waiting:
        if self._is_stopping:
            raise _stopping()
        loop = asyncio.get_running_loop()
        return _Waiting(write, loop.create_future(), loop.time() + self.wait_seconds, cost(write.patch))

    def require_room(self, account_id: int) -> None:
        """Raises ServiceUnavailable when a write of the account would be refused, whatever it is."""
        self._queue.room.require(account_id)

    def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        is_waiting = self._queue.expire(loop.time())
        self._expiry = loop.call_later(_EXPIRY_SECONDS, self._expire) if is_waiting else None

    async def _run(self) -> None:
        """Holds one batch connection for as long as that lives, then takes another."""
        while True:
            try:
                async with self._batches.acquired() as connection:
                    while is_open(connection):
                        batch = await self._queue.next()
                        if is_open(connection):
                            await self._send(connection, batch)
                        else:
                            self._send_individually(batch)
            except ServiceError:  # there is no connection; the ordinary pool will say so, or have one again
                self._send_individually(await self._queue.next())
            except Exception:
                _log.exception("a batch connection was lost and is opened again")
                await asyncio.sleep(0.1)

    async def _send(self, connection: Connection, batch: _Batch) -> None:
        """Settles every write of the batch, whatever happens; raises nothing but a cancellation."""
        begun = time.monotonic()
        try:
            rows = await connection.fetch(*batch.statement())
            seconds_each = (time.monotonic() - begun) / len(batch.items)
            for item in batch.items:
                self.lone_writes.note(item.write, seconds_each)
            for item, row in zip(batch.items, sorted(rows, key=_POSITION), strict=True):
                item.settle(row)
        except asyncio.CancelledError:
            batch.fail(_stopping())
            raise
        except Exception as error:
            if is_definite(error):
                self._send_individually(batch)
            else:
                batch.fail(translated(error) or error)

    def _send_individually(self, batch: _Batch) -> None:
        """Has the writes of a batch sent one by one, beside the batch connection."""
        context = contextvars.copy_context()
        context.run(CALLER.set, batch.account_id)
        for items in batch.by_identifier():
            retry = self._send_in_order(batch.account_id, batch.by, items)
            task = asyncio.create_task(retry, context=context)
            self._individual[task] = items
            for item in items:  # whose callers go on waiting
                self._queue.room.enter(batch.account_id, item.write)
            task.add_done_callback(partial(self._forget_individual, batch.account_id))

    def _forget_individual(self, account_id: int, task: asyncio.Task[None]) -> None:
        for item in self._individual.pop(task):
            self._queue.room.leave(account_id, item.write)

    async def _send_in_order(self, account_id: int, by: By, items: Sequence[_Waiting]) -> None:
        unavailable: ServiceUnavailable | None = None
        loop = asyncio.get_running_loop()
        for item in items:
            if unavailable is not None:  # what kept the first from its record keeps the others too
                item.fail(unavailable)
            elif item.is_in_time(loop.time()):
                unavailable = await self._send_one(account_id, by, item)

    async def _written(self, account_id: int, by: By, write: WriteRow, connection: Connection) -> Row:
        begun = time.monotonic()
        row: Row = await connection.fetchrow(*statement(account_id, by, [write]))
        self.lone_writes.note(write, time.monotonic() - begun)
        return row

    async def _send_one(self, account_id: int, by: By, item: _Waiting) -> ServiceUnavailable | None:
        """Settles one write; answers what stood in its way where that is likely to last."""
        try:
            item.settle(await self._pool.retrying(partial(self._written, account_id, by, item.write)))
        except Exception as error:
            item.fail(error)
            return error if isinstance(error, ServiceUnavailable) else None
        return None


def _stopping() -> ServiceUnavailable:
    return ServiceUnavailable("The service is stopping")
