"""Lookups the other way round: the records whose lookup field points to a record.

They are found by an index over what lookup fields hold, which the writing functions keep
(docs/decisions/0021-lookups-the-other-way-round.md).
"""

from typing import NamedTuple

from upsert_svc import paging
from upsert_svc.accounts.tokens import Principal
from upsert_svc.db import statements
from upsert_svc.db.pools import Connection, Database
from upsert_svc.definitions.field_types import custom_object_of
from upsert_svc.definitions.fields import key_and_id
from upsert_svc.definitions.operands import is_record_id
from upsert_svc.errors import RecordNotFound
from upsert_svc.paging import Cursors, Page, PageRequest
from upsert_svc.records.values import Record, record_of
from upsert_svc.search import page_query

ORDERS = {name: page_query.ORDERS[name] for name in ("id", "-id")}
_SQL = statements.load("records")


class Relationship(NamedTuple):
    """A lookup field of a source type, by key or id, and the record of a target type that it may point to.

    Types are written as `zen:custom_object:KEY`.
    """

    target_type: str
    target_id: str
    field: str
    source_type: str


class Relationships:
    """The lookups of all accounts; each call speaks for one Principal and stays in its account."""

    def __init__(self, database: Database, cursors: Cursors) -> None:
        self._database = database
        self._cursors = cursors

    async def require(self, principal: Principal, relationship: Relationship) -> None:
        """Raises RecordNotFound unless there are the field and the record that it may point to."""
        async with self._database.main.connection() as connection:
            await _found(connection, principal, relationship)

    async def sources(
        self, principal: Principal, relationship: Relationship, request: PageRequest, sort: str = ""
    ) -> Page[Record]:
        """One page of the records that point there. Raises RecordNotFound, BadRequest."""
        order = page_query.order_named(sort, ORDERS)
        async with self._database.main.connection() as connection:
            object_id, field_id = await _found(connection, principal, relationship)
            scope = f"sources {principal.account_id} {field_id} {relationship.target_id} {order.name}"
            window = self._cursors.window(scope, request)
            listing = _SQL.list_sources(
                account_id=principal.account_id,
                object_id=object_id,
                field_id=field_id,
                target_id=relationship.target_id,
            )
            rows = await connection.fetch(
                *page_query.records_query(listing, order, window, byte_limit=paging.PAGE_BYTES)
            )
        page = self._cursors.page(
            scope, window, rows, lambda row: page_query.position_of(order, row), paging.bytes_of
        )
        return Page([record_of(row) for row in page.items], page.after_cursor, page.before_cursor)


async def _found(connection: Connection, principal: Principal, relationship: Relationship) -> tuple[int, int]:
    """The ids of the source object and of its field. Raises RecordNotFound."""
    target_key, source_key = (
        custom_object_of(relationship.target_type),
        custom_object_of(relationship.source_type),
    )
    row = None
    if target_key and source_key and is_record_id(relationship.target_id):
        row = await connection.fetchrow(
            *_SQL.find_relationship(
                account_id=principal.account_id,
                target_key=target_key,
                target_id=relationship.target_id,
                source_key=source_key,
                **key_and_id(relationship.field),
            )
        )
    if row is None:
        raise RecordNotFound
    return row["object_id"], row["field_id"]
