"""The fields of custom objects: made, altered, reordered, listed, deleted. Only admins come here to write.

Every change locks the definition, so that no record is written against what it replaces. Removing a field or
an option takes effect at once; what records still hold of it is hidden, then purged in the background.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from upsert_svc.accounts import tokens
from upsert_svc.accounts.tokens import Principal
from upsert_svc.db import statements
from upsert_svc.db.pools import Connection, Database
from upsert_svc.definitions import currencies, objects, patterns
from upsert_svc.definitions.compiled import Definitions
from upsert_svc.definitions.field_types import CUSTOM_OBJECT_TARGET, FIELD_TYPES, custom_object_of, types_that
from upsert_svc.definitions.objects import Usage
from upsert_svc.errors import Problem, RecordInvalid, RecordNotFound
from upsert_svc.paging import PAGE_BYTES, Cursors, Page, PageRequest, bytes_of
from upsert_svc.payloads import FieldBody, OptionBody, PropertiesBody, first_set, is_blank

NAME_FIELD = "standard::name"
LOOKUP_LIMIT = 10
_KEY = re.compile(r"\w{1,100}", re.ASCII)
RESERVED_KEYS = frozenset({"reorder"})  # of the paths of fields: such a field would be found by its id alone
_TARGETS = ("zen:user", "zen:organization", "zen:ticket", CUSTOM_OBJECT_TARGET)
_SQL = statements.load("fields")
_OBJECTS_SQL = statements.load("objects")

FieldRow = Mapping[str, Any]


class ObjectFields:
    """The fields of all objects of all accounts."""

    def __init__(
        self, database: Database, definitions: Definitions, cursors: Cursors, *, field_limit: int
    ) -> None:
        self._database = database
        self._definitions = definitions
        self._cursors = cursors
        self._field_limit = field_limit

    async def page(
        self, principal: Principal, object_key: str, request: PageRequest, *, includes_standard: bool
    ) -> Page[FieldRow]:
        """One page of an object's fields by position. Raises RecordNotFound, BadRequest."""
        scope = f"fields {principal.account_id} {object_key}"
        window = self._cursors.window(scope, request)
        asked = {
            "account_id": principal.account_id,
            "object_key": object_key,
            "include_system": includes_standard,
            "limit": window.size + 1,
            "byte_limit": PAGE_BYTES,
        }
        position, field_id = window.position or (-1, 0)
        if window.is_backwards:
            statement = _SQL.list_fields_backwards(before_position=position, before_id=field_id, **asked)
        else:
            statement = _SQL.list_fields(after_position=position, after_id=field_id, **asked)
        async with self._database.main.connection() as connection:
            await _require_object(connection, principal, object_key)
            rows = await connection.fetch(*statement)
        return self._cursors.page(
            scope, window, rows, lambda row: (row["position"], row["field_id"]), bytes_of
        )

    async def show(self, principal: Principal, object_key: str, key_or_id: str) -> FieldRow:
        """The field of that key or id. Raises RecordNotFound."""
        async with self._database.main.connection() as connection:
            return await _found(connection, principal.account_id, object_key, key_or_id)

    async def relationship_filter(
        self, principal: Principal, source_type: str, key_or_id: str, target_key: str
    ) -> Any:
        """The conditions of a lookup field of a source type, by key or id, on the records of a target object.

        They are as `all` and `any` list them; None where there is no such active field, or it has none.
        """
        source_key = custom_object_of(source_type)
        if source_key is None:
            return None
        try:
            field = await self.show(principal, source_key, key_or_id)
        except RecordNotFound:
            return None
        points_there = custom_object_of(field["relationship_target_type"]) == target_key
        return _loaded(field["relationship_filter"]) if points_there and field["active"] else None

    async def create(self, principal: Principal, object_key: str, body: FieldBody) -> FieldRow:
        """Adds a field at the end. Raises RecordNotFound, RecordInvalid."""
        _require_field(body)
        async with self._database.changes.transaction() as connection:
            stored = await objects.lock(connection, principal.account_id, object_key)
            object_id = stored["object_id"]
            usage = await connection.fetchrow(*_count_fields(principal, object_id))
            self._require_room(usage, body)
            field_type = FIELD_TYPES[str(body.type)]
            if field_type.has_pattern:
                await _require_room_for_pattern(connection, principal, object_id, body)
            options = body.custom_field_options or [] if field_type.has_options else []
            first_id = await tokens.next_id(connection, principal.account_id, 1 + len(options))
            await connection.execute(
                *_SQL.insert_field(
                    account_id=principal.account_id,
                    object_id=object_id,
                    field_id=first_id,
                    key=body.key,
                    type=body.type,
                    title=body.title or body.raw_title,
                    description=first_set(body.description, body.raw_description),
                    position=usage["next_position"],
                    active=body.active is not False,
                    required=body.required is True,
                    system=False,
                    regexp_for_validation=body.regexp_for_validation,
                    tag=body.tag,
                    options=_dumped(_option_rows(options, {}, first_id + 1)),
                    relationship_target_type=body.relationship_target_type if field_type.has_target else None,
                    relationship_filter=_dumped(body.relationship_filter),
                    currency=_currency(body) if field_type.has_currency else None,
                )
            )
            await _recompile(connection, principal, object_id, [])
            row = await _found(connection, principal.account_id, object_key, str(body.key))
        self._definitions.forget(principal.account_id, object_key)
        return row

    async def update(
        self, principal: Principal, object_key: str, key_or_id: str, body: FieldBody
    ) -> FieldRow:
        """Changes what is sent of a field. Raises RecordNotFound, RecordInvalid."""
        async with self._database.changes.transaction() as connection:
            stored = await objects.lock(connection, principal.account_id, object_key)
            field = await _found(connection, principal.account_id, object_key, key_or_id)
            _require_change(field, body)
            if FIELD_TYPES[field["type"]].has_pattern and body.regexp_for_validation:
                await _require_room_for_pattern(connection, principal, field["object_id"], body, field)
            if field["key"] == NAME_FIELD and body.properties is not None:
                await _change_naming(connection, stored, body.properties)
            removals = await _change_field(connection, field, body)
            await _recompile(connection, principal, field["object_id"], removals)
            row = await _found(connection, principal.account_id, object_key, str(field["field_id"]))
        self._definitions.forget(principal.account_id, object_key)
        return row

    async def delete(self, principal: Principal, object_key: str, key_or_id: str) -> None:
        """Deletes a field with its values. Raises RecordNotFound, and RecordInvalid for a standard field."""
        async with self._database.changes.transaction() as connection:
            await objects.lock(connection, principal.account_id, object_key)
            field = await _found(connection, principal.account_id, object_key, key_or_id)
            if field["system"]:
                raise RecordInvalid({"base": [Problem("Standard fields cannot be deleted", "SystemField")]})
            await connection.execute(
                *_SQL.delete_field(
                    account_id=principal.account_id, object_id=field["object_id"], field_id=field["field_id"]
                )
            )
            # which lookup values go is told by the field's id: another field may be made under its key
            removal = {"key": field["key"], "field_id": field["field_id"]}
            await _recompile(connection, principal, field["object_id"], [removal])
        self._definitions.forget(principal.account_id, object_key)

    async def reorder(self, principal: Principal, object_key: str, field_ids: Sequence[int]) -> None:
        """Puts the named fields first, in the order given. Raises RecordNotFound for one missing."""
        async with self._database.changes.transaction() as connection:
            stored = await objects.lock(connection, principal.account_id, object_key)
            for field_id in field_ids:
                await _found(connection, principal.account_id, object_key, str(field_id))
            await connection.execute(
                *_SQL.reorder_fields(
                    account_id=principal.account_id, object_id=stored["object_id"], field_ids=list(field_ids)
                )
            )
            await _recompile(connection, principal, stored["object_id"], [])
        self._definitions.forget(principal.account_id, object_key)

    async def usage(self, principal: Principal, object_key: str) -> Usage:
        """How many fields the object has. Raises RecordNotFound."""
        async with self._database.main.connection() as connection:
            object_id = await _require_object(connection, principal, object_key)
            row = await connection.fetchrow(*_count_fields(principal, object_id))
        return Usage(row["fields"], self._field_limit)

    def _require_room(self, usage: Mapping[str, int], body: FieldBody) -> None:
        if usage["fields"] >= self._field_limit:
            raise RecordInvalid(
                {"base": [Problem(f"An object has at most {self._field_limit} fields", "LimitExceeded")]}
            )
        if FIELD_TYPES[str(body.type)].has_target and usage["lookups"] >= LOOKUP_LIMIT:
            raise RecordInvalid(
                {"base": [Problem(f"An object has at most {LOOKUP_LIMIT} lookup fields", "LimitExceeded")]}
            )


def _count_fields(principal: Principal, object_id: int) -> tuple[object, ...]:
    target_types = types_that(lambda field_type: field_type.has_target)
    return _SQL.count_fields(account_id=principal.account_id, object_id=object_id, target_types=target_types)


async def _require_room_for_pattern(
    connection: Connection,
    principal: Principal,
    object_id: int,
    body: FieldBody,
    changed: FieldRow | None = None,
) -> None:
    """Raises RecordInvalid for a pattern that is too large beside those of the object's other fields."""
    rows = await connection.fetch(
        *_SQL.list_patterns(
            account_id=principal.account_id,
            object_id=object_id,
            pattern_types=types_that(lambda field_type: field_type.has_pattern),
            except_field_id=changed and changed["field_id"],
        )
    )
    try:
        patterns.require_bounded(str(body.regexp_for_validation), (row["pattern"] for row in rows))
    except ValueError as error:
        raise RecordInvalid({"regexp_for_validation": [_bad_pattern(error)]}) from None


def _bad_pattern(error: ValueError) -> Problem:
    return Problem(f"The pattern is not valid: {error}")


async def _require_object(connection: Connection, principal: Principal, object_key: str) -> int:
    row = await connection.fetchrow(
        *_OBJECTS_SQL.current_version(account_id=principal.account_id, key=object_key)
    )
    if row is None:
        raise RecordNotFound
    object_id: int = row["object_id"]
    return object_id


def key_and_id(key_or_id: str) -> dict[str, str | int | None]:
    """The key or the id of a field, whichever a text is; the other one is null."""
    digits = key_or_id.lstrip("0") if key_or_id.isascii() and key_or_id.isdigit() else ""
    is_id = bool(digits) and len(digits) <= 10 and int(digits) < 2**31
    return {"field_key": None if is_id else key_or_id, "field_id": int(digits) if is_id else None}


async def _found(connection: Connection, account_id: int, object_key: str, key_or_id: str) -> FieldRow:
    row: FieldRow | None = await connection.fetchrow(
        *_SQL.show_field(account_id=account_id, object_key=object_key, **key_and_id(key_or_id))
    )
    if row is None:
        raise RecordNotFound
    return row


async def _recompile(
    connection: Connection, principal: Principal, object_id: int, removals: Sequence[Mapping[str, Any]]
) -> None:
    await connection.execute(
        *_OBJECTS_SQL.compile_definition(
            account_id=principal.account_id,
            object_id=object_id,
            user_id=principal.user_id,
            removals=_dumped(list(removals)),
            searched_types=types_that(lambda field_type: field_type.is_searched),
            merged_types=types_that(lambda field_type: field_type.is_merged),
        )
    )


def _require_field(body: FieldBody) -> None:
    """Raises RecordInvalid unless the body makes a field."""
    problems: dict[str, list[Problem]] = {}
    key, title = body.key or "", body.title or body.raw_title or ""
    if not key:
        problems["key"] = [Problem("Key cannot be blank", "BlankValue")]
    elif not _KEY.fullmatch(key) or key.isdigit():
        problems["key"] = [Problem("Key takes letters, digits and _, and not digits only")]
    elif key in RESERVED_KEYS:
        problems["key"] = [Problem(f"Key cannot be {key}, which is a path of its own", "ReservedKey")]
    if is_blank(title):
        problems["title"] = [Problem("Title cannot be blank", "BlankValue")]
    field_type = FIELD_TYPES.get(body.type or "")
    if field_type is None:
        problems["type"] = [Problem(f"Type must be one of {', '.join(FIELD_TYPES)}")]
    elif field_type.has_pattern and not body.regexp_for_validation:
        problems["regexp_for_validation"] = [Problem("A regexp field needs a pattern", "BlankValue")]
    elif field_type.has_target and not _is_target(body.relationship_target_type or ""):
        problems["relationship_target_type"] = [
            Problem("A lookup field needs a target, as zen:custom_object:KEY", "BlankValue")
        ]
    elif field_type.has_currency and _currency(body) not in currencies.CODES:
        problems["properties"] = [
            Problem('A currency field needs a code of ISO 4217 in capitals, as {"currency": "USD"}')
        ]
    _collect_shared_problems(problems, body)


def _require_change(field: FieldRow, body: FieldBody) -> None:
    problems: dict[str, list[Problem]] = {}
    title = first_set(body.title, body.raw_title)
    if title is not None and is_blank(title):
        problems["title"] = [Problem("Title cannot be blank", "BlankValue")]
    field_type = FIELD_TYPES[field["type"]]
    if field_type.has_pattern and body.regexp_for_validation == "":
        problems["regexp_for_validation"] = [Problem("A regexp field needs a pattern", "BlankValue")]
    if field_type.has_currency and _currency(body) not in (None, field["currency"]):
        problems["properties"] = [
            Problem(f"The currency stays what the field was made with, {field['currency']}", "FrozenSetting")
        ]
    _collect_shared_problems(problems, body)


def _collect_shared_problems(problems: dict[str, list[Problem]], body: FieldBody) -> None:
    """The rules for what makes a field and for what changes one. Raises RecordInvalid when one is broken."""
    if body.regexp_for_validation:
        try:
            patterns.require_bounded(body.regexp_for_validation)
        except ValueError as error:
            problems["regexp_for_validation"] = [_bad_pattern(error)]
    values = [option.value for option in body.custom_field_options or []]
    if len(set(values)) != len(values):
        problems["custom_field_options"] = [Problem("Two options have the same value", "DuplicateValue")]
    if any(
        first_set(option.name, option.raw_name) in (None, "") for option in body.custom_field_options or []
    ):
        problems["custom_field_options"] = [Problem("An option needs a name", "BlankValue")]
    if problems:
        raise RecordInvalid(problems)


def _currency(body: FieldBody) -> str | None:
    return body.properties.currency if body.properties else None


def _is_target(target: str) -> bool:
    return target in _TARGETS[:3] or custom_object_of(target) is not None


async def _change_field(connection: Connection, field: FieldRow, body: FieldBody) -> list[dict[str, Any]]:
    """Writes the field's row; answers what the records must lose: the options left out."""
    old_options: list[dict[str, Any]] = _loaded(field["options"]) or []
    options, removals = old_options, []
    if body.custom_field_options is not None and FIELD_TYPES[field["type"]].has_options:
        known = {option["value"]: option["id"] for option in old_options}
        new = sum(option.value not in known for option in body.custom_field_options)
        first_id = await tokens.next_id(connection, field["account_id"], new)
        options = _option_rows(body.custom_field_options, known, first_id)
        kept = {option["value"] for option in options}
        gone = [value for value in known if value not in kept]
        removals = [{"key": field["key"], "options": gone}] if gone else []
    own = not field["system"]
    await connection.execute(
        *_SQL.update_field(
            account_id=field["account_id"],
            object_id=field["object_id"],
            field_id=field["field_id"],
            title=first_set(body.title, body.raw_title, field["title"]),
            description=first_set(body.description, body.raw_description, field["description"]),
            active=first_set(body.active if own else None, field["active"]),
            required=first_set(body.required if own else None, field["required"]),
            regexp_for_validation=first_set(body.regexp_for_validation, field["regexp_for_validation"]),
            tag=first_set(body.tag, field["tag"]),
            options=_dumped(options),
            relationship_filter=_dumped(
                first_set(body.relationship_filter, _loaded(field["relationship_filter"]))
            ),
        )
    )
    return removals


async def _change_naming(connection: Connection, stored: Mapping[str, Any], body: PropertiesBody) -> None:
    """Sets what is sent of the naming settings; sending them as they stand changes nothing."""
    ids = {"account_id": stored["account_id"], "object_id": stored["object_id"]}
    next_number = await connection.fetchval(*_OBJECTS_SQL.next_number(**ids))
    new_next = first_set(body.autoincrement_next_sequence, next_number)
    naming = {
        "is_unique": first_set(body.is_unique, stored["is_unique"]),
        "autoincrement_enabled": first_set(body.autoincrement_enabled, stored["autoincrement_enabled"]),
        "autoincrement_prefix": first_set(body.autoincrement_prefix, stored["autoincrement_prefix"]),
        "autoincrement_padding": first_set(body.autoincrement_padding, stored["autoincrement_padding"]),
        "autoincrement_start": stored["autoincrement_start"] if new_next == next_number else new_next,
    }
    if naming["is_unique"] and naming["autoincrement_enabled"]:
        raise RecordInvalid(
            {"properties": [Problem("is_unique and autoincrement_enabled exclude each other", "Exclusive")]}
        )
    is_untouched = next_number == 1 and stored["autoincrement_start"] == 1
    if new_next < next_number and not is_untouched:
        raise RecordInvalid(
            {
                "properties": [
                    Problem(f"autoincrement_next_sequence cannot be below {next_number}", "TooSmall")
                ]
            }
        )
    if all(stored[name] == value for name, value in naming.items()):
        return
    await connection.execute(*_OBJECTS_SQL.update_naming(**ids, **naming))
    await connection.execute(*_OBJECTS_SQL.update_counter(**ids, next_number=new_next))


def _option_rows(
    options: Sequence[OptionBody], known_ids: Mapping[str, int], first_id: int
) -> list[dict[str, Any]]:
    """The options as they are stored and answered. One that keeps its value keeps its id."""
    fresh_ids = itertools.count(first_id)
    return [
        {
            "id": known_ids[option.value] if option.value in known_ids else next(fresh_ids),
            "name": first_set(option.name, option.raw_name),
            "raw_name": first_set(option.name, option.raw_name),
            "value": option.value,
            "position": place,
        }
        for place, option in enumerate(options)
    ]


def _dumped(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


def _loaded(text: str | None) -> Any:
    return None if text is None else orjson.loads(text)
