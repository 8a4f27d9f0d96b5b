"""Records: found by exactly one identifier, created, updated, replaced, read, counted, deleted.

What is written is validated by `rules`, and by the statement that writes it.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from upsert_svc import json_body
from upsert_svc.accounts.tokens import Principal
from upsert_svc.db import statements
from upsert_svc.db.pools import Connection, Connections, Database, Row
from upsert_svc.definitions.compiled import DEFINITION_ATTEMPTS, Definition, Definitions, keeps_changing
from upsert_svc.definitions.field_types import LookupBy, lookup_identifier
from upsert_svc.definitions.operands import is_record_id
from upsert_svc.definitions.validator import dumped
from upsert_svc.errors import PreconditionFailed, Problem, RecordInvalid, RecordNotFound
from upsert_svc.payloads import RecordPatch
from upsert_svc.records import write_batching
from upsert_svc.records.lone_writes import LoneWrites
from upsert_svc.records.read_batching import ReadBatcher
from upsert_svc.records.rules import record_or_raise, require_findable, require_unique_names, validate
from upsert_svc.records.values import (
    UNCONDITIONAL,
    By,
    Conditions,
    Identifier,
    Record,
    ValidatedWrite,
    WriteRequest,
    WriteResult,
    WriteRow,
    entity_tag,
    record_of,
)
from upsert_svc.records.write_batching import Writer

_LARGE_CHARACTERS = 1024  # of the values of a write: as objects they take up to twenty times as much
_NO_VALUES: Mapping[str, Any] = MappingProxyType({})
_SQL = statements.load("records")


class Shown(NamedTuple):
    """A record that was read, and its entity tag."""

    record: Record
    entity_tag: str


class Records:
    """The records of all accounts; each call speaks for one Principal and stays in its account."""

    def __init__(
        self,
        database: Database,
        definitions: Definitions,
        writer: Writer,
        reader: ReadBatcher,
        lone_writes: LoneWrites,
    ) -> None:
        self._database = database
        self._definitions = definitions
        self._writer = writer
        self._lone_writes = lone_writes
        self._reader = reader

    async def write(self, principal: Principal, object_key: str, change: WriteRequest) -> WriteResult:
        """Writes the record that the request's identifier finds, or creates it; by its id it never does.

        See docs/api.md, "Upsert" and "Replace". It is validated by the definition and written, and that again
        when the definition changed meanwhile. Raises RecordInvalid, RecordNotFound, PreconditionFailed.
        """
        require_findable(change.identifier, change.patch)
        definition = await self._definitions.get(principal.account_id, object_key)
        for _ in range(DEFINITION_ATTEMPTS):
            try:
                validated = validate(definition, principal, change)
                write, ignored = validated.write, validated.ignored
                if definition.lookup_targets:
                    write = await resolve_lookups(self._database.main, definition, validated)
            except RecordInvalid:
                current = await self._definitions.confirm(definition)
                if current is definition:
                    raise
                definition = current
                continue
            del validated
            if len(write.patch) > _LARGE_CHARACTERS or change.patch.elsewhere:
                change = _without_values(change)
            row = await self._write(principal.account_id, change, write)
            if row["outcome"] != "stale":
                record = record_or_raise(row)
                is_preview = change.is_dry_run and row["outcome"] != "unchanged"
                tag = None if is_preview else entity_tag(record, definition.version)
                return WriteResult(record, row["outcome"], ignored, tag)
            change = _with_values(change, write, ignored)
            definition = await self._definitions.reload(principal.account_id, object_key)
        raise keeps_changing()

    async def _write(self, account_id: int, change: WriteRequest, write: WriteRow) -> Row:
        by = change.identifier.by
        if change.is_dry_run:
            async with self._lone_writes.turn(account_id, write):
                return await self._database.main.retrying(
                    lambda connection: _try_out(connection, account_id, by, write)
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
        definition = await self._definitions.current(principal.account_id, object_key)
        await self._database.main.retrying(
            lambda connection: delete(connection, principal, definition, identifier, conditions)
        )

    async def show(self, principal: Principal, object_key: str, record_id: str) -> Shown:
        """The record of that id. Raises RecordNotFound."""
        if not is_record_id(record_id):
            raise RecordNotFound
        row = await self._reader.show(principal.account_id, object_key, record_id)
        if row is None:
            raise RecordNotFound
        record = record_of(row)
        return Shown(record, entity_tag(record, row["definition_version"]))

    async def count(self, principal: Principal, object_key: str) -> int:
        """How many records the object has. Raises RecordNotFound for an unknown object."""
        definition = await self._definitions.current(principal.account_id, object_key)
        async with self._database.scans.connection() as connection:
            count: int = await connection.fetchval(
                *_SQL.count(account_id=principal.account_id, object_id=definition.object_id)
            )
        return count


def _without_values(change: WriteRequest) -> WriteRequest:
    """What was asked for, without the values of fields: while a write waits, their text is enough.

    Names that stand elsewhere have been looked at by then; there may be thousands.
    """
    return change._replace(patch=change.patch._replace(fields=_NO_VALUES, elsewhere=()))


def _with_values(change: WriteRequest, write: WriteRow, ignored: Sequence[str]) -> WriteRequest:
    """What was asked for, with the values again that were to be written."""
    if change.patch.fields is not _NO_VALUES:
        return change
    fields = json_body.parse(write.patch.encode())
    return change._replace(patch=change.patch._replace(fields=fields, ignored=tuple(ignored)))


async def resolve_lookups(
    connections: Connections, definition: Definition, validated: ValidatedWrite
) -> WriteRow:
    """The write with the ids of what its lookups name. Raises RecordInvalid for what does not exist."""
    lookups = {
        key: lookup_identifier(validated.values[key])
        for key in definition.lookup_targets
        if validated.values.get(key) is not None
    }
    if not lookups:
        return validated.write
    async with connections.connection() as connection:
        rows = await connection.fetch(
            *_SQL.find_targets(
                account_id=definition.account_id,
                field_keys=list(lookups),
                object_keys=[definition.lookup_targets[key] for key in lookups],
                bys=[by for by, _ in lookups.values()],
                identifiers=[identifier for _, identifier in lookups.values()],
            )
        )
        found = {row["field_key"]: row["record_id"] for row in rows}
        if missing := {key: lookups[key] for key, record_id in found.items() if record_id is None}:
            raise RecordInvalid(await _why_missing(connection, definition, missing))
    return validated.write._replace(patch=dumped(validated.values | found))


async def _why_missing(
    connection: Connection, definition: Definition, missing: Mapping[str, tuple[LookupBy, str]]
) -> dict[str, list[Problem]]:
    """What is wrong with lookups that found no record."""
    targets = {key: definition.lookup_targets[key] for key, (by, _) in missing.items() if by == "name"}
    rows = await connection.fetch(
        *_SQL.without_unique_names(account_id=definition.account_id, object_keys=list(targets.values()))
    )
    without_unique_names = {row["key"] for row in rows}
    problems = {
        key: Problem(f"{key} names a record that does not exist", "RecordNotFound") for key in missing
    } | {
        key: Problem(
            f"{key} names a record of {target} by its name, which finds none as names need not be unique "
            "there: give its id or external_id:X, or turn is_unique of standard::name on",
            "NameNotUnique",
        )
        for key, target in targets.items()
        if target in without_unique_names
    }
    return {key: [problem] for key, problem in problems.items()}


def find(definition: Definition, identifier: Identifier) -> tuple[object, ...]:
    """The statement that answers the id and the external_id of the record that an identifier finds."""
    return _SQL.find(
        account_id=definition.account_id,
        object_id=definition.object_id,
        by=identifier.by,
        identifier=identifier.value,
    )


def is_another_in_the_way(definition: Definition, by: By, writes: Sequence[WriteRow]) -> tuple[object, ...]:
    """The statement that answers whether a write asks for what another record than its own has now."""
    return _SQL.is_another_in_the_way(
        account_id=definition.account_id,
        object_id=definition.object_id,
        by=by,
        identifiers=[write.identifier for write in writes],
        names=[write.name for write in writes],
        external_ids=[write.external_id for write in writes],
    )


async def delete(
    connection: Connection,
    principal: Principal,
    definition: Definition,
    identifier: Identifier,
    conditions: Conditions = UNCONDITIONAL,
) -> None:
    """Deletes what the identifier finds. Raises RecordNotFound, PreconditionFailed, RecordInvalid."""
    require_unique_names(definition, identifier)
    require_findable(identifier, RecordPatch())
    outcome = await connection.fetchval(
        *_SQL.delete(
            account_id=principal.account_id,
            object_id=definition.object_id,
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


async def _try_out(connection: Connection, account_id: int, by: By, write: WriteRow) -> Row:
    """What the write would answer; rolled back."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        row: Row = await connection.fetchrow(*write_batching.statement(account_id, by, [write]))
    finally:
        await transaction.rollback()
    return row
