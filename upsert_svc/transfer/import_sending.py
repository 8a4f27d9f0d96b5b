"""Sends the rows of an import: many at a time, those of one key one after the other, in the file's order.

A row whose lookup names a record that does not exist may come before that record: it waits, and with it the
later rows of its key. The waiting rows are tried again, as long as that gets any of them taken.
"""

import asyncio
import unicodedata
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence

from upsert_svc.transfer.client import TransferFailed
from upsert_svc.transfer.import_ledger import Ledger
from upsert_svc.transfer.import_rows import RowRefused, SourceRow, Upsert

WAITING_LIMIT_BYTES = 64 << 20
_ROW_BYTES = 700  # that a waiting row takes beside its texts

Outcome = str | RowRefused
Sent = tuple[int, Upsert]  # the line of a row, and its upsert
Send = Callable[[Sequence[Sent]], Awaitable[Sequence[Outcome]]]  # rows, in their order: what became of each
_Queued = tuple[int, SourceRow, Upsert]
_Queue = asyncio.Queue[_Queued | None]


class Sending:
    """The sending of one file's rows. What becomes of each goes to the ledger."""

    def __init__(self, send: Send, ledger: Ledger, *, requests: int, rows: int, retries: int) -> None:
        """`requests` are under way at a time, each of so many rows at most; or as many rows tried again."""
        self._send = send
        self._ledger = ledger
        self._requests = requests
        self._rows = rows
        self._retries = retries
        self._failure: TransferFailed | None = None
        self._waiting: dict[str, list[tuple[SourceRow, Upsert]]] = {}
        self._waiting_bytes = 0
        self._missing: dict[str, RowRefused] = {}  # why the first row of a key waits
        self._refusals: dict[str, RowRefused] = {}  # those are alike for most

    async def send_all(self, waiting: Iterable[SourceRow], rows: Iterator[SourceRow]) -> None:
        """Sends the rows that wait since an earlier run, and all others.

        Raises TransferFailed for a file that could not be read to its end, once all before that is settled.
        """
        for row in waiting:
            if isinstance(row.upsert, RowRefused):  # the fields were changed meanwhile
                self._ledger.settle_waiting(row, row.upsert)
            else:
                self._wait(row, row.upsert)
        while await self._send_until_many_wait(rows):
            await self._try_again(WAITING_LIMIT_BYTES // 2)
        await self._try_again(0)
        if self._failure is not None:
            raise self._failure

    async def _send_until_many_wait(self, rows: Iterator[SourceRow]) -> bool:
        """Each key has one sender, which takes its rows one by one; answers whether there may be more."""
        queues: list[_Queue] = [asyncio.Queue() for _ in range(self._requests)]
        try:
            async with asyncio.TaskGroup() as senders:
                for queue in queues:
                    senders.create_task(self._send_queued(queue))
                return await self._hand_out(rows, queues)
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    async def _hand_out(self, rows: Iterator[SourceRow], queues: list[_Queue]) -> bool:
        """Gives each row to the sender of its key; answers whether it stopped for the many that wait."""
        has_more = False
        try:
            for row in rows:
                number = await self._ledger.admit()
                if isinstance(row.upsert, RowRefused):
                    self._ledger.settle(number, row, row.upsert)
                    await asyncio.sleep(0)  # a file of refused rows alone must not shut out Ctrl-C
                else:
                    queue = queues[hash(_folded(row.upsert.identifier)) % len(queues)]
                    queue.put_nowait((number, row, row.upsert))
                if self._waiting_bytes > WAITING_LIMIT_BYTES:
                    has_more = True
                    break
        except TransferFailed as error:
            self._failure = error
        for queue in queues:
            queue.put_nowait(None)
        return has_more

    async def _send_queued(self, queue: _Queue) -> None:
        item: _Queued | None = None
        while (item := item or await queue.get()) is not None:
            together, item = _together(item, queue, self._rows)
            await self._send_together(together)

    async def _send_together(self, together: Mapping[str, _Queued]) -> None:
        """Sends rows, but for those that are behind one that waits."""
        free = [item for key, item in together.items() if key not in self._waiting]
        outcomes = await self._send([(row.line, upsert) for _, row, upsert in free])
        known = dict(zip((number for number, _, _ in free), outcomes, strict=True))
        for number, row, upsert in together.values():
            outcome = known.get(number)
            if outcome is None or _may_come(outcome):
                self._wait(row, upsert)
                self._ledger.settle(number, row, None)
            else:
                self._ledger.settle(number, row, outcome)

    # The rows that wait

    def _wait(self, row: SourceRow, upsert: Upsert) -> None:
        record = bytes(memoryview(upsert.record))  # which needs no more room than it has bytes
        upsert = upsert._replace(record=record)
        row = row._replace(upsert=upsert)
        self._waiting.setdefault(_folded(upsert.identifier), []).append((row, upsert))
        self._waiting_bytes += _size(upsert)

    async def _try_again(self, kept_bytes: int) -> None:
        """Rounds of the waiting rows while any is taken; then rows are refused, and those behind them tried.

        Ends when no more wait than may be kept. Where many at a time overtake each other, so that hardly any
        is taken, they go one by one, upwards and downwards in turn: a chain is taken in one of the two.
        """
        at_a_time, is_upwards = self._retries, False
        keys = self._keys_by_line()
        while self._waiting:
            taken = await self._round(reversed(keys) if is_upwards else iter(keys), at_a_time)
            if taken * 10 < len(keys):
                at_a_time = 1
            is_upwards = not is_upwards
            if taken:
                keys = self._keys_by_line()
            elif self._waiting_bytes <= kept_bytes:
                return
            else:
                keys = self._refuse_first()

    def _keys_by_line(self) -> list[str]:
        return sorted(self._waiting, key=lambda key: self._waiting[key][0][0].start)

    async def _round(self, keys: Iterator[str], at_a_time: int) -> int:
        """Tries the waiting rows of each key once; answers how many rows were taken."""

        async def try_all() -> int:
            return sum([await self._try_key(key) for key in keys])

        try:
            async with asyncio.TaskGroup() as senders:
                tasks = [senders.create_task(try_all()) for _ in range(at_a_time)]
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        return sum(task.result() for task in tasks)

    async def _try_key(self, key: str) -> int:
        """Sends the waiting rows of a key, up to one that waits on; answers how many were taken."""
        taken = 0
        while key in self._waiting:
            row, upsert = self._waiting[key][0]
            (outcome,) = await self._send([(row.line, upsert)])
            if isinstance(outcome, RowRefused) and _may_come(outcome):
                self._missing[key] = self._refusals.setdefault(repr(outcome.reasons), outcome)
                break
            self._settle_first(key, outcome)
            taken += isinstance(outcome, str)
        return taken

    def _refuse_first(self) -> list[str]:
        """Refuses the first row of each key that has rows behind it, else of all; answers those keys.

        For a row behind it may make the record that others wait for.
        """
        keys = self._keys_by_line()
        keys = [key for key in keys if len(self._waiting[key]) > 1] or keys
        for key in keys:
            self._settle_first(key, self._missing[key])
        return keys

    def _settle_first(self, key: str, outcome: str | RowRefused) -> None:
        """The first waiting row of a key waits no more."""
        rows = self._waiting[key]
        row, upsert = rows.pop(0)
        self._waiting_bytes -= _size(upsert)
        self._missing.pop(key, None)
        if not rows:
            del self._waiting[key]
        self._ledger.settle_waiting(row, outcome)


def _together(first: _Queued, queue: _Queue, limit: int) -> tuple[Mapping[str, _Queued], _Queued | None]:
    """What can be sent at once by its key, and the row that has to wait for one of them.

    Of each key there is one: should it have to wait for another record, so must the next.
    """
    together = {_folded(first[2].identifier): first}
    while len(together) < limit and not queue.empty():
        if (item := queue.get_nowait()) is None:
            queue.put_nowait(None)  # the end, which the next look finds
            break
        if (key := _folded(item[2].identifier)) in together:
            return together, item
        together[key] = item
    return together, None


def _may_come(outcome: str | RowRefused) -> bool:
    return isinstance(outcome, RowRefused) and outcome.is_for_missing


def _size(upsert: Upsert) -> int:
    return len(upsert.identifier) + len(upsert.record) + _ROW_BYTES


def _folded(identifier: str) -> str:
    """Alike for all that a service may take for one name: its rule is NFC and casefold."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", identifier).casefold())
