"""Records: found by exactly one identifier, created, partly updated, read, listed, deleted.

Refuses with RecordInvalid what breaks a rule on values. What depends on the definition alone is judged here;
what depends on the stored record is judged by the statement that writes it (write_records in sql/schema.sql).
"""

import contextlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from ulid_transform import ulid_now

from upsert_svc import coalesce, listing, sql
from upsert_svc.bodies import RecordPatch
from upsert_svc.coalesce import By, Gatherer, Row, Write
from upsert_svc.database import Connection, Database
from upsert_svc.errors import (
    EXTERNAL_ID_TAKEN,
    NAME_TAKEN,
    BadRequest,
    Details,
    Problem,
    RecordInvalid,
    RecordNotFound,
    ServiceUnavailable,
)
from upsert_svc.fields import dumped, is_record_id
from upsert_svc.object_types import ObjectType, ObjectTypes
from upsert_svc.reads import Reader
from upsert_svc.tokens import Principal

Outcome = Literal["created", "updated", "unchanged"]

_SQL = sql.load("records")
_DEFINITION_ATTEMPTS = 5
# before the record write_records tells the position, the outcome and the blamed fields, a look the place
_WRITTEN_COLUMNS, _READ_COLUMNS = slice(3, None), slice(1, None)
_SIZE_LIMIT = "The record's name, external_id and fields are larger than 32 KB as JSON text"


class Identifier(NamedTuple):
    """What finds a record, and the value it is found by."""

    by: By
    value: str


class Record(NamedTuple):
    """A record as it is answered, in the order in which every statement selects it.

    `fields` is JSON text: every active field, null when unset.
    """

    record_id: str
    name: str
    external_id: str | None
    fields: str
    version: int
    created_at: datetime
    updated_at: datetime
    created_by_user_id: int
    updated_by_user_id: int


class Written(NamedTuple):
    """The record after a write, what the write did, and what of the body was ignored."""

    record: Record
    outcome: Outcome
    ignored: tuple[str, ...]


class Records:
    """The records of all accounts; each call speaks for one Principal and stays in its account."""

    def __init__(
        self, database: Database, object_types: ObjectTypes, gatherer: Gatherer, reader: Reader
    ) -> None:
        self._database = database
        self._object_types = object_types
        self._gatherer = gatherer
        self._reader = reader

    async def upsert(
        self,
        principal: Principal,
        object_key: str,
        identifier: Identifier,
        patch: RecordPatch,
        *,
        dry_run: bool,
    ) -> Written:
        """Updates what is sent of the record that the identifier finds, or creates it (docs/api.md)."""
        if identifier.by == "external_id" and patch.external_id not in (None, identifier.value):
            raise RecordInvalid({"external_id": [Problem("external_id differs from the one in the query")]})
        return await self._write(principal, object_key, identifier, patch, dry_run=dry_run)

    async def create(
        self, principal: Principal, object_key: str, patch: RecordPatch, *, dry_run: bool = False
    ) -> Written:
        """Creates a record; an identifier that another record has is refused."""
        return await self._write(principal, object_key, Identifier("none", ""), patch, dry_run=dry_run)

    async def update(
        self,
        principal: Principal,
        object_key: str,
        record_id: str,
        patch: RecordPatch,
        *,
        dry_run: bool = False,
    ) -> Written:
        """Updates what is sent of the record of that id. Raises RecordNotFound."""
        if not is_record_id(record_id):
            raise RecordNotFound
        return await self._write(
            principal, object_key, Identifier("record_id", record_id), patch, dry_run=dry_run
        )

    async def delete(self, principal: Principal, object_key: str, identifier: Identifier) -> None:
        """Deletes the record that the identifier finds. Raises RecordNotFound."""
        object_type = await self._current_type(principal, object_key)
        if identifier.by == "name" and not object_type.is_unique:
            raise _name_not_unique()
        if identifier.by == "record_id" and not is_record_id(identifier.value):
            raise RecordNotFound

        async def operation(connection: Connection) -> str | None:
            deleted: str | None = await connection.fetchval(
                *_SQL.delete(
                    account_id=principal.account_id,
                    object_id=object_type.object_id,
                    by=identifier.by,
                    identifier=identifier.value,
                    user_id=principal.user_id,
                )
            )
            return deleted

        if await self._database.records.retrying(operation) is None:
            raise RecordNotFound

    async def show(self, principal: Principal, object_key: str, record_id: str) -> Record:
        """The record of that id. Raises RecordNotFound."""
        if not is_record_id(record_id):
            raise RecordNotFound
        row = await self._reader.show(principal.account_id, object_key, record_id)
        if row is None:
            raise RecordNotFound
        return Record._make(row[_READ_COLUMNS])

    async def page(
        self,
        principal: Principal,
        object_key: str,
        cursors: listing.Cursors,
        query: Mapping[str, str],
    ) -> listing.Listed[Record]:
        """One page of an object's records, filtered and sorted as the query says (docs/api.md, "Pages").

        Takes one statement, unless there is nothing on the page: then the object may be gone, or made anew.
        """
        object_type = await self._object_types.get(principal.account_id, object_key)
        listed = None
        with contextlib.suppress(BadRequest):  # a cursor may belong to the object made anew
            listed = await self._listed(principal, object_type, cursors, query)
        if listed is not None and listed.items:
            return listed
        current = await self._object_types.confirmed(object_type)
        if current is object_type and listed is not None:
            return listed
        return await self._listed(principal, current, cursors, query)

    async def _listed(
        self,
        principal: Principal,
        object_type: ObjectType,
        cursors: listing.Cursors,
        query: Mapping[str, str],
    ) -> listing.Listed[Record]:
        order = listing.order_named(query.get("sort", ""))
        scope = f"records {principal.account_id} {object_type.object_id} {order.name}"
        page = listing.requested(query, cursors, scope)
        statement = listing.records_query(
            _SQL.list.text,
            order,
            page,
            ids=listing.chosen(query, "filter[ids]"),
            external_ids=listing.chosen(query, "filter[external_ids]"),
            account_id=principal.account_id,
            object_id=object_type.object_id,
        )
        async with self._database.records.connection() as connection:
            rows = await connection.fetch(*statement)
        return listing.cut(
            [Record._make(row) for row in rows], page, cursors, scope, lambda record: _position(order, record)
        )

    async def count(self, principal: Principal, object_key: str) -> int:
        """How many records the object has. Raises RecordNotFound for an unknown object."""
        object_type = await self._current_type(principal, object_key)
        async with self._database.records.connection() as connection:
            count: int = await connection.fetchval(
                *_SQL.count(account_id=principal.account_id, object_id=object_type.object_id)
            )
        return count

    async def _current_type(self, principal: Principal, object_key: str) -> ObjectType:
        cached = await self._object_types.get(principal.account_id, object_key)
        return await self._object_types.confirmed(cached)

    async def _write(
        self,
        principal: Principal,
        object_key: str,
        identifier: Identifier,
        patch: RecordPatch,
        *,
        dry_run: bool,
    ) -> Written:
        """Judges by the definition and writes; again under the new definition when it changed meanwhile."""
        object_type = await self._object_types.get(principal.account_id, object_key)
        for _ in range(_DEFINITION_ATTEMPTS):
            try:
                write, ignored = _judged(object_type, principal, identifier, patch)
                if object_type.lookup_targets:
                    await self._require_targets(object_type, patch)
            except RecordInvalid:
                current = await self._object_types.confirmed(object_type)
                if current is object_type:
                    raise
                object_type = current
                continue
            row = await self._written(principal.account_id, identifier.by, write, dry_run=dry_run)
            if row["outcome"] != "stale":
                return Written(_settled(row), row["outcome"], ignored)
            object_type = await self._object_types.reloaded(principal.account_id, object_key)
        raise ServiceUnavailable("The object's definition keeps changing")

    async def _written(self, account_id: int, by: By, write: Write, *, dry_run: bool) -> Row:
        if dry_run:
            return await self._database.records.retrying(
                lambda connection: _tried(connection, account_id, by, write)
            )
        return await self._gatherer.write(account_id, by, write)

    async def _require_targets(self, object_type: ObjectType, patch: RecordPatch) -> None:
        """Raises RecordInvalid for a lookup whose target record does not exist."""
        lookups = {
            key: target
            for key, target in object_type.lookup_targets.items()
            if patch.fields.get(key) is not None
        }
        if not lookups:
            return
        async with self._database.records.connection() as connection:
            missing = await connection.fetch(
                *_SQL.missing_targets(
                    account_id=object_type.account_id,
                    field_keys=list(lookups),
                    object_keys=list(lookups.values()),
                    record_ids=[patch.fields[key] for key in lookups],
                )
            )
        if missing:
            raise RecordInvalid(
                {
                    row["field_key"]: [
                        Problem(f"{row['field_key']} names a record that does not exist", "RecordNotFound")
                    ]
                    for row in missing
                }
            )


async def _tried(connection: Connection, account_id: int, by: By, write: Write) -> Row:
    """What the write would answer; rolled back."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        row: Row = await connection.fetchrow(*coalesce.statement(account_id, by, [write]))
    finally:
        await transaction.rollback()
    return row


def _judged(
    object_type: ObjectType, principal: Principal, identifier: Identifier, patch: RecordPatch
) -> tuple[Write, tuple[str, ...]]:
    """The write, and the attributes ignored. Raises RecordInvalid for what the definition refuses."""
    if identifier.by == "name" and not object_type.is_unique:
        raise _name_not_unique()
    validator = object_type.validator
    ignorable = validator.ignorable(patch.fields)
    problems: dict[str, Sequence[Problem]] = {}
    if object_type.is_autonumbered and patch.name is not None:
        problems["name"] = [
            Problem("Name is generated by autonumbering and cannot be set", "AutonumberedName")
        ]
    try:
        values = validator.judge(_without(patch.fields, ignorable))
    except RecordInvalid as error:
        raise RecordInvalid(problems | dict(error.details or {})) from None
    if problems:
        raise RecordInvalid(problems)
    record_id = ulid_now()
    write = Write(
        object_id=object_type.object_id,
        definition_version=object_type.version,
        identifier=record_id if identifier.by == "none" else identifier.value,
        record_id=record_id,
        name=patch.name,
        external_id=patch.external_id,
        patch=dumped(values),
        user_id=principal.user_id,
    )
    return write, (*patch.ignored, *ignorable)


def _without(fields: Mapping[str, Any], ignorable: Sequence[str]) -> Mapping[str, Any]:
    if not ignorable:
        return fields
    return {key: value for key, value in fields.items() if key not in ignorable}


_REFUSALS: Mapping[str, Details] = {
    "name_required": {"name": [Problem("Name cannot be blank", "BlankValue")]},
    "name_differs": {"name": [Problem("name differs from the one in the query")]},
    "name_taken": {"base": [NAME_TAKEN]},
    "external_id_taken": {"external_id": [EXTERNAL_ID_TAKEN]},
    "too_large": {"base": [Problem(_SIZE_LIMIT, "TooLong")]},
}


def _settled(row: Row) -> Record:
    """The record of a written row. Raises the error of a refused one."""
    match row["outcome"]:
        case "created" | "updated" | "unchanged":
            return Record._make(row[_WRITTEN_COLUMNS])
        case "missing":
            raise RecordNotFound
        case "field_required":
            raise RecordInvalid(
                {key: [Problem(f"{key} cannot be blank", "BlankValue")] for key in row["blamed_fields"]}
            )
    raise RecordInvalid(_REFUSALS[row["outcome"]])


def _name_not_unique() -> RecordInvalid:
    return RecordInvalid(
        {
            "base": [
                Problem(
                    "Records can be found by name only when the object's name field is unique: "
                    "uniqueness must be turned on (is_unique of standard::name)",
                    "NameNotUnique",
                )
            ]
        }
    )


def _position(order: listing.Order, record: Record) -> tuple[str, ...]:
    """The record's values in the columns of the order."""
    values = {"r.record_id": record.record_id, "r.updated_at": record.updated_at.astimezone(UTC).isoformat()}
    return tuple(values[column] for column, _ in order.columns)
