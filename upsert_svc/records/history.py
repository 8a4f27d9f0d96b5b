"""What was written to records: the events of one record, and the incremental export of an object's.

Both read the rows that the writing functions leave in `changes` (sql/schema.sql); nothing here writes.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from upsert_svc.accounts.tokens import Principal
from upsert_svc.db import statements
from upsert_svc.db.pools import Readers, Row
from upsert_svc.definitions.compiled import Definitions
from upsert_svc.errors import BadRequest
from upsert_svc.paging import PAGE_BYTES, Cursors, Page, PageRequest, bytes_of
from upsert_svc.records.record_store import Records
from upsert_svc.records.values import Record, record_of

EVENT_LIMIT = 10_000
EXPORT_SIZE_LIMIT = 1000
# A page looks at no more changes than this many times its size, so that a record written a million times
# makes pages short and not slow.
_SCANNED_PER_RECORD = 10
_ORDERS = {"": False, "id": False, "created_at": False, "-id": True, "-created_at": True}
_BEGIN_ANEW = "; one given before the database was restored is none either: begin anew with start_time"
_SQL = statements.load("history")


class Event(NamedTuple):
    """One write of a record.

    `attributes` is JSON text: each changed attribute with its previous and its current value.
    """

    record_id: str
    version: int
    kind: Literal["created", "updated"]
    user_id: int
    changed_at: datetime
    attributes: str


class Exported(NamedTuple):
    """A record as the export shows it; where `deleted_at` is set, what is left of it."""

    record: Record
    deleted_at: datetime | None


class ExportPage(NamedTuple):
    """Records in the order of their last changes, and the cursor for those that change after them."""

    items: Sequence[Exported]
    has_more: bool
    after_cursor: str


class _Position(NamedTuple):
    """How far an export has come, and since when it asked for changes, in seconds of the epoch.

    The time decides where an export begins, and later on which changes it shows of those that a dump brought.
    """

    transaction_id: str
    record_id: str
    version: int
    since: int


class ExportRequest(NamedTuple):
    """Which changes are asked for: those behind a cursor, else since a time in seconds of the epoch."""

    start_time: int
    cursor: str
    size: int
    excludes_deleted: bool


class History:
    """The changes of all accounts' records; each call speaks for one Principal and stays in its account."""

    def __init__(self, pool: Readers, definitions: Definitions, records: Records, cursors: Cursors) -> None:
        self._pool = pool
        self._definitions = definitions
        self._records = records
        self._cursors = cursors

    async def events(
        self, principal: Principal, object_key: str, record_id: str, request: PageRequest, sort: str = ""
    ) -> Page[Event]:
        """One page of what was done to a record that stands, oldest first (docs/api.md, "Record events").

        Raises RecordNotFound, BadRequest.
        """
        newest_first = is_newest_first(sort)
        await self._records.show(principal, object_key, record_id)
        scope = f"events {principal.account_id} {record_id} {newest_first}"
        window = self._cursors.window(scope, request)
        is_descending = newest_first != window.is_backwards
        (position,) = window.position or (1 << 62 if is_descending else 0,)
        async with self._pool.connection() as connection:
            rows = await connection.fetch(
                *_SQL.events(
                    account_id=principal.account_id,
                    object_key=object_key,
                    record_id=record_id,
                    depth_limit=EVENT_LIMIT,
                    is_descending=is_descending,
                    position=position,
                    limit=window.size + 1,
                    byte_limit=PAGE_BYTES,
                )
            )
        page = self._cursors.page(scope, window, rows, lambda row: (row["version"],), bytes_of)
        return replace(page, items=[_event(record_id, row) for row in page.items])

    async def export(self, principal: Principal, object_key: str, request: ExportRequest) -> ExportPage:
        """The records whose last change comes after a cursor or a time (docs/api.md, "Incremental export").

        Whoever goes on with each page's cursor misses no change, whenever it was committed, and sees a record
        again when it changed again. Raises BadRequest, RecordNotFound.
        """
        definition = await self._definitions.current(principal.account_id, object_key)
        place = {"account_id": principal.account_id, "object_id": definition.object_id}
        async with self._pool.connection() as connection:
            timeline = await connection.fetchval(*_SQL.timeline())
            scope = f"changes {principal.account_id} {definition.object_id} {timeline}"
            if request.cursor:
                signed = self._cursors.position(scope, request.cursor, "cursor", _BEGIN_ANEW)
                position = _Position._make(signed)
            else:
                since = datetime.fromtimestamp(request.start_time, UTC)
                first = await connection.fetchval(*_SQL.first_since(**place, since=since))
                position = _Position(first, "", 0, request.start_time)
            rows = await connection.fetch(
                *_SQL.export(
                    **place,
                    transaction_id=position.transaction_id,
                    record_id=position.record_id,
                    version=position.version,
                    since=datetime.fromtimestamp(position.since, UTC),
                    exclude_deleted=request.excludes_deleted,
                    scan_limit=request.size * _SCANNED_PER_RECORD,
                    limit=request.size,
                    byte_limit=PAGE_BYTES,
                )
            )
        *found, end = rows
        reached = _Position(end["transaction_id"], end["record_id"], end["version"], position.since)
        items = [Exported(record_of(row), row["deleted_at"]) for row in found]
        return ExportPage(items, end["has_more"], self._cursors.sign(scope, reached))


def _event(record_id: str, row: Row) -> Event:
    return Event(record_id, *(row[name] for name in Event._fields[1:]))


def is_newest_first(sort: str) -> bool:
    """Whether events are asked for in the opposite of their order. Raises BadRequest for an unknown sort."""
    try:
        return _ORDERS[sort]
    except KeyError:
        raise BadRequest("sort must be created_at, -created_at, id or -id") from None
