"""Records: found by exactly one identifier, created, updated, replaced, read, counted, deleted.

What is written is judged in `writes`, and by the statement that writes it.
"""

from collections.abc import Sequence
from typing import NamedTuple

from upsert_svc import coalesce, sql
from upsert_svc.bodies import RecordPatch
from upsert_svc.coalesce import By, Row, Write, Writer
from upsert_svc.database import Connection, Connections, Database
from upsert_svc.errors import (
    PreconditionFailed,
    Problem,
    RecordInvalid,
    RecordNotFound,
)
from upsert_svc.fields import dumped, is_record_id, lookup_identifier
from upsert_svc.object_types import DEFINITION_ATTEMPTS, ObjectType, ObjectTypes, keeps_changing
from upsert_svc.reads import Reader
from upsert_svc.tokens import Principal
from upsert_svc.writes import (
    UNCONDITIONAL,
    Change,
    Conditions,
    Identifier,
    Judged,
    Record,
    Written,
    entity_tag,
    judge,
    require_findable,
    require_unique_names,
    settled,
)

_SQL = sql.load("records")
_READ_COLUMNS = slice(2, None)  # before the record a look tells its place and the definition's version


class Shown(NamedTuple):
    """A record that was read, and its entity tag."""

    record: Record
    entity_tag: str


class Records:
    """The records of all accounts; each call speaks for one Principal and stays in its account."""

    def __init__(self, database: Database, object_types: ObjectTypes, writer: Writer, reader: Reader) -> None:
        self._database = database
        self._object_types = object_types
        self._writer = writer
        self._reader = reader

    async def write(self, principal: Principal, object_key: str, change: Change) -> Written:
        """Writes the record that the change's identifier finds, or creates it; by its id it never does.

        See docs/api.md, "Upsert" and "Replace". It is judged by the definition and written, and again under
        the new definition when that changed meanwhile. Raises RecordInvalid, RecordNotFound,
        PreconditionFailed.
        """
        require_findable(change.identifier, change.patch)
        object_type = await self._object_types.get(principal.account_id, object_key)
        for _ in range(DEFINITION_ATTEMPTS):
            try:
                judged = judge(object_type, principal, change)
                write = judged.write
                if object_type.lookup_targets:
                    write = await with_targets(self._database.records, object_type, judged)
            except RecordInvalid:
                current = await self._object_types.confirmed(object_type)
                if current is object_type:
                    raise
                object_type = current
                continue
            row = await self._written(principal.account_id, change, write)
            if row["outcome"] != "stale":
                record = settled(row)
                is_imagined = change.is_dry_run and row["outcome"] != "unchanged"
                tag = None if is_imagined else entity_tag(record, object_type.version)
                return Written(record, row["outcome"], judged.ignored, tag)
            object_type = await self._object_types.reloaded(principal.account_id, object_key)
        raise keeps_changing()

    async def _written(self, account_id: int, change: Change, write: Write) -> Row:
        by = change.identifier.by
        if change.is_dry_run:
            return await self._database.records.retrying(
                lambda connection: _tried(connection, account_id, by, write)
            )
        return await self._writer.write(account_id, by, write)

    async def delete(
        self,
        principal: Principal,
        object_key: str,
        identifier: Identifier,
        conditions: Conditions = UNCONDITIONAL,
    ) -> None:
        """Deletes the record that the identifier finds. Raises RecordNotFound, PreconditionFailed."""
        object_type = await self._object_types.current(principal.account_id, object_key)
        await self._database.records.retrying(
            lambda connection: deleted(connection, principal, object_type, identifier, conditions)
        )

    async def show(self, principal: Principal, object_key: str, record_id: str) -> Shown:
        """The record of that id. Raises RecordNotFound."""
        if not is_record_id(record_id):
            raise RecordNotFound
        row = await self._reader.show(principal.account_id, object_key, record_id)
        if row is None:
            raise RecordNotFound
        record = Record._make(row[_READ_COLUMNS])
        return Shown(record, entity_tag(record, row["definition_version"]))

    async def count(self, principal: Principal, object_key: str) -> int:
        """How many records the object has. Raises RecordNotFound for an unknown object."""
        object_type = await self._object_types.current(principal.account_id, object_key)
        async with self._database.records.connection() as connection:
            count: int = await connection.fetchval(
                *_SQL.count(account_id=principal.account_id, object_id=object_type.object_id)
            )
        return count


async def with_targets(connections: Connections, object_type: ObjectType, judged: Judged) -> Write:
    """The write with the ids of what its lookups name. Raises RecordInvalid for what does not exist."""
    lookups = {
        key: lookup_identifier(judged.values[key])
        for key in object_type.lookup_targets
        if judged.values.get(key) is not None
    }
    if not lookups:
        return judged.write
    async with connections.connection() as connection:
        rows = await connection.fetch(
            *_SQL.find_targets(
                account_id=object_type.account_id,
                field_keys=list(lookups),
                object_keys=[object_type.lookup_targets[key] for key in lookups],
                bys=[by for by, _ in lookups.values()],
                identifiers=[identifier for _, identifier in lookups.values()],
            )
        )
    found = {row["field_key"]: row["record_id"] for row in rows}
    if missing := [key for key, record_id in found.items() if record_id is None]:
        raise RecordInvalid(
            {key: [Problem(f"{key} names a record that does not exist", "RecordNotFound")] for key in missing}
        )
    return judged.write._replace(patch=dumped(judged.values | found))


def find(object_type: ObjectType, identifier: Identifier) -> tuple[object, ...]:
    """The statement that answers the id of the record that an identifier finds, null where there is none."""
    return _SQL.find(
        account_id=object_type.account_id,
        object_id=object_type.object_id,
        by=identifier.by,
        identifier=identifier.value,
    )


def is_another_in_the_way(object_type: ObjectType, by: By, writes: Sequence[Write]) -> tuple[object, ...]:
    """The statement that answers whether a write asks for what another record than its own has now."""
    return _SQL.is_another_in_the_way(
        account_id=object_type.account_id,
        object_id=object_type.object_id,
        by=by,
        identifiers=[write.identifier for write in writes],
        names=[write.name for write in writes],
        external_ids=[write.external_id for write in writes],
    )


async def deleted(
    connection: Connection,
    principal: Principal,
    object_type: ObjectType,
    identifier: Identifier,
    conditions: Conditions = UNCONDITIONAL,
) -> None:
    """Deletes what the identifier finds. Raises RecordNotFound, PreconditionFailed, RecordInvalid."""
    require_unique_names(object_type, identifier)
    require_findable(identifier, RecordPatch())
    outcome = await connection.fetchval(
        *_SQL.delete(
            account_id=principal.account_id,
            object_id=object_type.object_id,
            by=identifier.by,
            identifier=identifier.value,
            user_id=principal.user_id,
            if_match=conditions.if_match,
            if_none_match=conditions.if_none_match,
        )
    )
    match outcome:
        case "missing":
            raise RecordNotFound
        case "precondition_failed":
            raise PreconditionFailed


async def _tried(connection: Connection, account_id: int, by: By, write: Write) -> Row:
    """What the write would answer; rolled back."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        row: Row = await connection.fetchrow(*coalesce.statement(account_id, by, [write]))
    finally:
        await transaction.rollback()
    return row
