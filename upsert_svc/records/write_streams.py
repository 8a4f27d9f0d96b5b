"""Upserts of one object that come one after the other, and are answered in their order.

Each is the upsert of docs/api.md on its own. Those that come together are written together, in the batches
that single requests share. Few are under way at a time: whoever sends faster than they are written is slowed,
and a stream needs the same memory however long it is.
"""

import asyncio
import unicodedata
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from upsert_svc.accounts.tokens import Principal
from upsert_svc.db.pools import Row
from upsert_svc.definitions.compiled import Definitions
from upsert_svc.errors import Problem, RecordInvalid, ServiceError, ServiceUnavailable, translated
from upsert_svc.payloads import RecordPatch
from upsert_svc.records.record_store import Records
from upsert_svc.records.rules import record_or_raise, validate
from upsert_svc.records.values import By, Identifier, WriteRequest, WriteResult, WriteRow
from upsert_svc.records.write_batching import WriteBatcher

UNDER_WAY = 256  # records of a stream: some are written while others are read and answered
BYTES_UNDER_WAY = 512 << 10  # of the lines that they came in
_WAIT_SECONDS = 0.02  # between looks for room where too much waits to be written

Outcome: TypeAlias = WriteResult | ServiceError


@dataclass(frozen=True)
class StreamRequest:
    """Who writes records of which object, and what finds them."""

    principal: Principal
    object_key: str
    by: By
    is_dry_run: bool = False


class _Batched(NamedTuple):
    """A write that waits for its row, and what to do again if its definition has changed meanwhile."""

    row: "asyncio.Future[Row]"
    change: WriteRequest
    ignored: tuple[str, ...]


_Begun: TypeAlias = "_Batched | asyncio.Task[WriteResult] | ServiceError"


class _UnderWay(NamedTuple):
    begun: _Begun
    known_as: str  # its identifier, the same for all spellings of one; "" where there is none
    size: int


class WriteStream:
    """One caller's stream: `put` takes what comes, `outcomes` tells what became of it.

    A record waits for an earlier one of the same identifier; no other waits for any.
    """

    def __init__(
        self, request: StreamRequest, records: Records, definitions: Definitions, batcher: WriteBatcher
    ) -> None:
        self._request = request
        self._records = records
        self._definitions = definitions
        self._batcher = batcher
        self._under_way: deque[_UnderWay] = deque()
        self._identifiers: set[str] = set()  # of what is under way
        self._size = 0
        self._is_complete = False
        self._has_come = asyncio.Event()
        self._has_gone = asyncio.Event()

    async def put(self, sent: RecordPatch | ServiceError, size: int) -> None:
        """Begins to write a record, or takes a refusal in its place; waits while too much is under way.

        `size` is that of its line, in bytes.
        """
        while len(self._under_way) >= UNDER_WAY or self._size >= BYTES_UNDER_WAY:
            await self._less()
        known_as = ""
        begun: _Begun
        try:
            if isinstance(sent, ServiceError):
                raise sent
            identifier = self._identifier(sent)
            known_as = _folded(identifier.value)
            while known_as in self._identifiers:
                await self._less()
            begun = await self._begin(WriteRequest(identifier, sent, is_dry_run=self._request.is_dry_run))
        except ServiceError as error:
            begun, known_as = error, ""
        self._under_way.append(_UnderWay(begun, known_as, size))
        self._identifiers.add(known_as)
        self._size += size
        self._has_come.set()

    def complete(self) -> None:
        """Says that nothing more comes."""
        self._is_complete = True
        self._has_come.set()

    def abandon(self) -> None:
        """Gives up what is under way. What was sent to the database is written all the same."""
        for each in self._under_way:
            if isinstance(each.begun, _Batched):
                each.begun.row.cancel()
            elif isinstance(each.begun, asyncio.Task):
                each.begun.cancel()

    @property
    def is_next_known(self) -> bool:
        """Whether the next outcome can be told at once."""
        if not self._under_way:
            return self._is_complete
        begun = self._under_way[0].begun
        if isinstance(begun, _Batched):
            return begun.row.done()
        return isinstance(begun, ServiceError) or begun.done()

    async def outcomes(self) -> AsyncIterator[Outcome]:
        """What became of each record, in the order in which they came, as soon as it is committed."""
        while True:
            while not self._under_way:
                if self._is_complete:
                    return
                self._has_come.clear()
                await self._has_come.wait()
            outcome = await self._outcome(self._under_way[0].begun)
            ended = self._under_way.popleft()
            self._identifiers.discard(ended.known_as)
            self._size -= ended.size
            self._has_gone.set()
            yield outcome

    async def _less(self) -> None:
        """Waits until something has come to its end."""
        self._has_gone.clear()
        await self._has_gone.wait()

    def _identifier(self, patch: RecordPatch) -> Identifier:
        """What finds the record. Raises RecordInvalid where it was not sent."""
        by = self._request.by
        value = patch.external_id if by == "external_id" else patch.name
        if value is None:
            raise RecordInvalid({by: [Problem(f"{by} is needed: it finds the record", "BlankValue")]})
        return Identifier(by, value)

    async def _begin(self, change: WriteRequest) -> _Begun:
        """Begins to write: in a batch, or by itself what is not like most. Raises ServiceError."""
        principal = self._request.principal
        definition = await self._definitions.get(principal.account_id, self._request.object_key)
        if change.is_dry_run or not definition.lookup_targets.keys().isdisjoint(change.patch.fields):
            return self._alone(change)
        try:
            write, _, ignored = validate(definition, principal, change)
        except RecordInvalid:
            return self._alone(change)  # which confirms that the definition is the current one
        if self._batcher.lone_writes.takes_long(write):
            return self._alone(change)
        return _Batched(await self._submitted(write), change, tuple(ignored))

    async def _submitted(self, write: WriteRow) -> "asyncio.Future[Row]":
        """Waits for room among what waits to be written. Raises ServiceUnavailable."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._batcher.wait_seconds
        while True:
            try:
                return self._batcher.submit(
                    self._request.principal.account_id, self._request.by, write, stream=self
                )
            except ServiceUnavailable:
                if self._batcher.is_stopping or loop.time() > deadline:
                    raise
            await asyncio.sleep(_WAIT_SECONDS)

    def _alone(self, change: WriteRequest) -> "asyncio.Task[WriteResult]":
        return asyncio.create_task(
            self._records.write(self._request.principal, self._request.object_key, change)
        )

    async def _outcome(self, begun: _Begun) -> Outcome:
        try:
            if isinstance(begun, _Batched):
                row = await begun.row
                if row["outcome"] != "stale":
                    return WriteResult(record_or_raise(row), row["outcome"], begun.ignored, None)
                begun = self._alone(begun.change)
            return begun if isinstance(begun, ServiceError) else await begun
        except ServiceError as error:
            return error
        except Exception as error:
            if (known := translated(error)) is None:
                raise
            return known


def _folded(identifier: str) -> str:
    """The same for all that finds one record, by external_id or by name."""
    if identifier.isascii():
        return identifier.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", identifier).casefold())
