"""What was written to records: the events of one record, and the incremental export of an object's.

Both read the rows that the writing functions leave in `changes` (sql/schema.sql); nothing here writes.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from upsert_svc import listing, sql
from upsert_svc.database import Connections
from upsert_svc.errors import BadRequest
from upsert_svc.object_types import ObjectTypes
from upsert_svc.reads import Row
from upsert_svc.records import Records
from upsert_svc.tokens import Principal
from upsert_svc.writes import Record

EVENT_LIMIT = 10_000
EXPORT_SIZE_LIMIT = 1000
# A page looks at no more changes than this many times its size, so that a record written a million times
# makes pages short and not slow.
_SCANNED_PER_RECORD = 10
_RECORD_COLUMNS = len(Record._fields)
_ORDERS = {"": False, "id": False, "created_at": False, "-id": True, "-created_at": True}
_SQL = sql.load("changes")


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
    """How far an export has come, and since when it asks for changes, in seconds of the epoch."""

    transaction_id: str
    record_id: str
    version: int
    since: int


class Changes:
    """The changes of all accounts' records; each call speaks for one Principal and stays in its account."""

    def __init__(self, pool: Connections, object_types: ObjectTypes, records: Records) -> None:
        self._pool = pool
        self._object_types = object_types
        self._records = records

    async def events(
        self,
        principal: Principal,
        object_key: str,
        record_id: str,
        cursors: listing.Cursors,
        query: Mapping[str, str],
    ) -> listing.Listed[Event]:
        """One page of what was done to a record that stands, oldest first (docs/api.md, "Record events").

        Raises RecordNotFound.
        """
        is_newest_first = _ORDERS.get(query.get("sort", ""))
        if is_newest_first is None:
            raise BadRequest("sort must be created_at, -created_at, id or -id")
        await self._records.show(principal, object_key, record_id)
        scope = f"events {principal.account_id} {record_id} {is_newest_first}"
        page = listing.requested(query, cursors, scope)
        is_descending = is_newest_first != page.backwards
        (position,) = page.position or (1 << 62 if is_descending else 0,)
        async with self._pool.connection() as connection:
            rows = await connection.fetch(
                *_SQL.events(
                    account_id=principal.account_id,
                    object_key=object_key,
                    record_id=record_id,
                    depth_limit=EVENT_LIMIT,
                    is_descending=is_descending,
                    position=position,
                    limit=page.size + 1,
                )
            )
        events = [Event(record_id, *row) for row in rows]
        return listing.cut(events, page, cursors, scope, lambda event: (event.version,))

    async def exported(
        self,
        principal: Principal,
        object_key: str,
        cursors: listing.Cursors,
        query: Mapping[str, str],
        *,
        excludes_deleted: bool,
    ) -> ExportPage:
        """The records whose last change comes after a cursor or a time (docs/api.md, "Incremental export").

        Whoever goes on with each page's cursor misses no change, whenever it was committed, and sees a record
        again when it changed again. Raises BadRequest, RecordNotFound.
        """
        size = _export_size(query.get("per_page", ""))
        object_type = await self._object_types.current(principal.account_id, object_key)
        place = {"account_id": principal.account_id, "object_id": object_type.object_id}
        async with self._pool.connection() as connection:
            timeline = await connection.fetchval(*_SQL.timeline())
            scope = f"changes {principal.account_id} {object_type.object_id} {timeline}"
            if cursor := query.get("cursor", ""):
                position = _Position._make(cursors.position(scope, cursor, "cursor"))
            else:
                since = _start_time(query.get("start_time", ""))
                first = _SQL.first_since(**place, since=datetime.fromtimestamp(since, UTC))
                position = _Position(await connection.fetchval(*first), "", 0, since)
            rows = await connection.fetch(
                *_SQL.latest(
                    **place,
                    transaction_id=position.transaction_id,
                    record_id=position.record_id,
                    version=position.version,
                    since=datetime.fromtimestamp(position.since, UTC),
                    exclude_deleted=excludes_deleted,
                    scan_limit=size * _SCANNED_PER_RECORD,
                    limit=size + 1,
                )
            )
        return _export_page(rows, size, position, lambda reached: cursors.sign(scope, reached))


def _export_page(
    rows: Sequence[Row], size: int, position: _Position, signed: Callable[[_Position], str]
) -> ExportPage:
    """The page of what was found after a position, at most one record more than its size."""
    found = [row for row in rows if row["record_id"] is not None]
    if len(found) > size:
        last = found[size - 1]
        reached = position._replace(
            transaction_id=last["transaction_id"], record_id=last["record_id"], version=last["version"]
        )
    elif (scanned := rows[0])["scanned_count"] is not None:
        reached = position._replace(
            transaction_id=scanned["reached_transaction_id"],
            record_id=scanned["reached_record_id"],
            version=scanned["reached_version"],
        )
    else:
        reached = position
    has_more = len(found) > size or rows[0]["scanned_count"] == size * _SCANNED_PER_RECORD
    items = [Exported(Record._make(row[:_RECORD_COLUMNS]), row["deleted_at"]) for row in found[:size]]
    return ExportPage(items, has_more, signed(reached))


def _export_size(text: str) -> int:
    if not text:
        return EXPORT_SIZE_LIMIT
    size = int(text) if text.isdecimal() and text.isascii() and len(text) <= 4 else 0
    if not 1 <= size <= EXPORT_SIZE_LIMIT:
        raise BadRequest(f"per_page must be a number from 1 to {EXPORT_SIZE_LIMIT}")
    return size


def _start_time(text: str) -> int:
    seconds = int(text) if text.isdecimal() and text.isascii() and len(text) <= 11 else None
    if seconds is None:
        raise BadRequest("start_time, in seconds since 1970, or cursor is needed in the query")
    if seconds > time.time():
        raise BadRequest("start_time must not lie ahead")
    return seconds
