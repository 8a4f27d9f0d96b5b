"""Object definitions compiled for validating writes, cached by their version.

A cached definition may be out of date. That never lets a wrong write through, because the writing statement
checks the version, and never refuses a right one, because a refusal asks `confirm` first.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

import orjson

from upsert_svc.db import statements
from upsert_svc.db.pools import Pool
from upsert_svc.definitions.field_types import FIELD_TYPES, FieldDefinition, custom_object_of
from upsert_svc.definitions.validator import FieldValidator
from upsert_svc.errors import RecordNotFound, ServiceUnavailable

_SQL = statements.load("objects")
_FIELDS_LIMIT = 50_000  # fields of all cached definitions
_FIELD_BYTES = 1500  # of a compiled field without options
_OPTION_BYTES = 150  # of an option without its text
_PIECE_CHARACTERS = 64 * 1024  # of a definition that are read in one go
DEFINITION_ATTEMPTS = 5  # of what is done by a definition that may have changed, anew by its successor


@dataclass(frozen=True)
class Definition:
    """One version of an object's definition, as writes are validated by it."""

    account_id: int
    object_id: int
    key: str
    version: int
    is_unique: bool
    is_autonumbered: bool
    field_count: int  # a field with options counts as those that take as much memory
    validator: FieldValidator = field(repr=False)
    lookup_targets: Mapping[str, str]  # lookup field → key of the object that it points to


def keeps_changing() -> ServiceUnavailable:
    """What is said when every attempt met another definition."""
    return ServiceUnavailable("The object's definition keeps changing")


class Definitions:
    """Loads, compiles and keeps the definitions in use."""

    def __init__(self, lookups: Pool) -> None:
        self._lookups = lookups
        self._cached: OrderedDict[tuple[int, str], Definition] = OrderedDict()
        self._cached_fields = 0
        self._confirming: dict[tuple[int, str], asyncio.Task[Definition]] = {}

    async def get(self, account_id: int, key: str) -> Definition:
        """The definition, from the cache where it has one. Raises RecordNotFound."""
        cached = self._cached.get((account_id, key))
        if cached is not None:
            self._cached.move_to_end((account_id, key))
            return cached
        return await self.reload(account_id, key)

    async def current(self, account_id: int, key: str) -> Definition:
        """The definition, confirmed to be the current one. Raises RecordNotFound."""
        return await self.confirm(await self.get(account_id, key))

    async def reload(self, account_id: int, key: str) -> Definition:
        """The definition as it is now. Raises RecordNotFound."""
        previous = self._cached.get((account_id, key))  # whose validator stays, to be shared
        self.forget(account_id, key)
        async with self._lookups.connection() as connection:
            row = await connection.fetchrow(*_SQL.load_definition(account_id=account_id, key=key))
        if row is None:
            raise RecordNotFound
        loaded = await _compile(account_id, key, row)
        del previous
        self.forget(account_id, key)
        self._cached[account_id, key] = loaded
        self._cached_fields += loaded.field_count
        while self._cached_fields > _FIELDS_LIMIT:
            self.forget(*next(iter(self._cached)))
        return loaded

    async def confirm(self, definition: Definition) -> Definition:
        """The same definition when it is the current one, else the current one. Raises RecordNotFound.

        Requests that ask at the same moment share one look, never one that began before they asked.
        """
        slot = (definition.account_id, definition.key)
        if (earlier := self._confirming.get(slot)) is not None:
            await asyncio.wait([earlier])
        task = self._confirming.get(slot)
        if task is None or task is earlier:
            task = asyncio.create_task(self._look_and_confirm(definition))
            self._confirming[slot] = task
            task.add_done_callback(lambda done: self._forget_look(slot, done))
        current = await asyncio.shield(task)
        same = (current.object_id, current.version) == (definition.object_id, definition.version)
        return definition if same else current

    async def _look_and_confirm(self, definition: Definition) -> Definition:
        account_id, key = definition.account_id, definition.key
        async with self._lookups.connection() as connection:
            row = await connection.fetchrow(*_SQL.current_version(account_id=account_id, key=key))
        if row is not None and (row["object_id"], row["version"]) == (
            definition.object_id,
            definition.version,
        ):
            return definition
        return await self.reload(account_id, key)

    def _forget_look(self, slot: tuple[int, str], done: asyncio.Task[Definition]) -> None:
        if self._confirming.get(slot) is done:
            del self._confirming[slot]

    def forget(self, account_id: int, key: str) -> None:
        """Drops a definition that has changed."""
        if (forgotten := self._cached.pop((account_id, key), None)) is not None:
            self._cached_fields -= forgotten.field_count


_validators: WeakValueDictionary[tuple[FieldDefinition, ...], FieldValidator] = WeakValueDictionary()


def _validator(fields: tuple[FieldDefinition, ...]) -> FieldValidator:
    """Compiling takes milliseconds; objects of the same fields share it, for as long as one is kept."""
    if (shared := _validators.get(fields)) is None:
        shared = _validators[fields] = FieldValidator(fields)
    return shared


async def _fields(texts: Sequence[str]) -> tuple[FieldDefinition, ...]:
    """The fields, from their JSON: a hundred of them may have thousands of options each."""
    fields: list[FieldDefinition] = []
    characters = 0
    for text in texts:
        if (characters := characters + len(text)) > _PIECE_CHARACTERS:
            await asyncio.sleep(0)
            characters = len(text)
        loaded = orjson.loads(text)
        fields.append(FieldDefinition(**(loaded | {"options": tuple(loaded["options"])})))
    return tuple(fields)


def _count(fields: Sequence[FieldDefinition]) -> int:
    """The fields of a definition, with its name."""
    options = [option for field in fields for option in field.options]
    options_bytes = sum(map(len, options)) + len(options) * _OPTION_BYTES
    return 1 + len(fields) + options_bytes // _FIELD_BYTES


async def _compile(account_id: int, key: str, row: Mapping[str, Any]) -> Definition:
    fields = await _fields(row["fields"])
    if unknown := {field.type for field in fields} - FIELD_TYPES.keys():  # a later version made it just now
        raise ServiceUnavailable(
            f"This version of the service has no field type {', '.join(sorted(unknown))}"
        )
    targets = {
        field.key: target
        for field in fields
        if (target := custom_object_of(field.relationship_target_type)) is not None
    }
    return Definition(
        account_id=account_id,
        object_id=row["object_id"],
        key=key,
        version=row["version"],
        is_unique=row["is_unique"],
        is_autonumbered=row["autoincrement_enabled"],
        field_count=_count(fields),
        validator=_validator(fields),
        lookup_targets=targets,
    )
