"""Custom objects: their definitions made, altered, listed and deleted. Only admins come here to write.

A deleted object is gone at once for every caller; its records are purged in the background.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from upsert_svc.accounts import tokens
from upsert_svc.accounts.tokens import Principal
from upsert_svc.db import statements
from upsert_svc.db.pools import Connection, Database
from upsert_svc.definitions.compiled import Definitions
from upsert_svc.errors import Problem, RecordInvalid, RecordNotFound
from upsert_svc.paging import PAGE_BYTES, Cursors, Page, PageRequest, bytes_of
from upsert_svc.payloads import ObjectBody, first_set, is_blank

_SQL = statements.load("objects")
_FIELDS_SQL = statements.load("fields")
_KEY = re.compile(r"[a-z0-9_]{1,100}")
_STANDARD_FIELDS = (("standard::name", "Name"), ("standard::external_id", "External ID"))


@dataclass(frozen=True)
class CustomObject:
    """A custom object as it is answered."""

    key: str
    title: str
    title_pluralized: str
    description: str | None
    include_in_list_view: bool
    allows_photos: bool
    allows_attachments: bool
    created_at: datetime
    updated_at: datetime
    created_by_user_id: int
    updated_by_user_id: int
    object_id: int


@dataclass(frozen=True)
class Usage:
    """How much of a limit is used."""

    count: int
    limit: int


class Objects:
    """The custom objects of all accounts."""

    def __init__(
        self,
        database: Database,
        definitions: Definitions,
        cursors: Cursors,
        *,
        object_limit: int,
        record_limit: int,
    ) -> None:
        self._database = database
        self._definitions = definitions
        self._cursors = cursors
        self._object_limit = object_limit
        self._record_limit = record_limit

    async def create(self, principal: Principal, body: ObjectBody) -> CustomObject:
        """Makes an object with its two standard fields. Raises RecordInvalid, as for a key taken."""
        key, title = body.key or "", first_set(body.title, body.raw_title) or ""
        _require_object(key, title)
        async with self._database.changes.transaction() as connection:
            object_id = await tokens.next_id(connection, principal.account_id, 1 + len(_STANDARD_FIELDS))
            count = await connection.fetchval(*_SQL.count_objects(account_id=principal.account_id))
            if count >= self._object_limit:
                raise RecordInvalid(
                    {
                        "base": [
                            Problem(f"An account has at most {self._object_limit} objects", "LimitExceeded")
                        ]
                    }
                )
            row = await connection.fetchrow(
                *_SQL.insert_object(
                    account_id=principal.account_id,
                    object_id=object_id,
                    key=key,
                    user_id=principal.user_id,
                    **_attributes(body, {"title": title, "title_pluralized": title}),
                )
            )
            await connection.execute(
                *_SQL.insert_counter(account_id=principal.account_id, object_id=object_id)
            )
            for place, (field_key, field_title) in enumerate(_STANDARD_FIELDS):
                await _insert_standard_field(
                    connection,
                    principal.account_id,
                    object_id,
                    object_id + 1 + place,
                    field_key,
                    field_title,
                    place,
                )
        return _custom_object(row)

    async def show(self, principal: Principal, key: str) -> CustomObject:
        """The object of that key. Raises RecordNotFound."""
        async with self._database.main.connection() as connection:
            row = await connection.fetchrow(*_SQL.show_object(account_id=principal.account_id, key=key))
        if row is None:
            raise RecordNotFound
        return _custom_object(row)

    async def page(self, principal: Principal, request: PageRequest) -> Page[CustomObject]:
        """One page of the account's objects, the newest last. Raises BadRequest."""
        scope = f"objects {principal.account_id}"
        window = self._cursors.window(scope, request)
        part = {"account_id": principal.account_id, "limit": window.size + 1, "byte_limit": PAGE_BYTES}
        if window.is_backwards and window.position is not None:
            statement = _SQL.list_objects_backwards(before=window.position[0], **part)
        else:
            statement = _SQL.list_objects(after=window.position[0] if window.position else 0, **part)
        async with self._database.main.connection() as connection:
            rows = await connection.fetch(*statement)
        page = self._cursors.page(scope, window, rows, lambda row: (row["object_id"],), bytes_of)
        return replace(page, items=[_custom_object(row) for row in page.items])

    async def update(self, principal: Principal, key: str, body: ObjectBody) -> CustomObject:
        """Changes what is sent of an object. Raises RecordNotFound, RecordInvalid."""
        async with self._database.changes.transaction() as connection:
            stored = await lock(connection, principal.account_id, key)
            title = first_set(body.title, body.raw_title)
            if title is not None and is_blank(title):
                raise RecordInvalid({"title": [Problem("Title cannot be blank", "BlankValue")]})
            row = await connection.fetchrow(
                *_SQL.update_object(
                    account_id=principal.account_id,
                    object_id=stored["object_id"],
                    user_id=principal.user_id,
                    **_attributes(body, stored),
                )
            )
        return _custom_object(row)

    async def delete(self, principal: Principal, key: str) -> None:
        """Deletes an object and all its records. Raises RecordNotFound."""
        async with self._database.changes.transaction() as connection:
            stored = await lock(connection, principal.account_id, key)
            await connection.execute(
                *_SQL.delete_object(
                    account_id=principal.account_id, object_id=stored["object_id"], user_id=principal.user_id
                )
            )
        self._definitions.forget(principal.account_id, key)

    async def object_usage(self, principal: Principal) -> Usage:
        """How many objects the account has."""
        async with self._database.main.connection() as connection:
            count = await connection.fetchval(*_SQL.count_objects(account_id=principal.account_id))
        return Usage(count, self._object_limit)

    async def record_usage(self, principal: Principal) -> Usage:
        """How many records the account has, over all its objects."""
        async with self._database.scans.connection() as connection:
            count = await connection.fetchval(*_SQL.count_records_of_account(account_id=principal.account_id))
        return Usage(count, self._record_limit)


async def lock(connection: Connection, account_id: int, key: str) -> Mapping[str, Any]:
    """The definition's row, held against writers and other changes until commit. Raises RecordNotFound."""
    found = await connection.fetchrow(*_SQL.show_object(account_id=account_id, key=key))
    if found is None:
        raise RecordNotFound
    await connection.execute(*_SQL.lock_definition(account_id=account_id, object_id=found["object_id"]))
    # looked at again under the lock: it may have been changed or deleted meanwhile
    row = await connection.fetchrow(*_SQL.show_object(account_id=account_id, key=key))
    if row is None or row["object_id"] != found["object_id"]:
        raise RecordNotFound
    return dict(row)


def _require_object(key: str, title: str) -> None:
    problems: dict[str, list[Problem]] = {}
    if not key:
        problems["key"] = [Problem("Key cannot be blank", "BlankValue")]
    elif not _KEY.fullmatch(key) or key.isdigit():
        problems["key"] = [Problem("Key takes lower-case letters, digits and _, and not digits only")]
    if is_blank(title):
        problems["title"] = [Problem("Title cannot be blank", "BlankValue")]
    if problems:
        raise RecordInvalid(problems)


def _attributes(body: ObjectBody, stored: Mapping[str, Any]) -> dict[str, Any]:
    """The columns after a change: what the body sets, else what is stored, else the default."""

    return {
        "title": first_set(body.title, body.raw_title, stored["title"]),
        "title_pluralized": first_set(
            body.title_pluralized, body.raw_title_pluralized, stored["title_pluralized"]
        ),
        "description": first_set(body.description, body.raw_description, stored.get("description")),
        "include_in_list_view": first_set(
            body.include_in_list_view, stored.get("include_in_list_view"), True
        ),
        "allows_photos": first_set(body.allows_photos, stored.get("allows_photos"), False),
        "allows_attachments": first_set(body.allows_attachments, stored.get("allows_attachments"), False),
    }


async def _insert_standard_field(
    connection: Connection,
    account_id: int,
    object_id: int,
    field_id: int,
    key: str,
    title: str,
    position: int,
) -> None:
    await connection.execute(
        *_FIELDS_SQL.insert_field(
            account_id=account_id,
            object_id=object_id,
            field_id=field_id,
            key=key,
            type="text",
            title=title,
            description=None,
            position=position,
            active=True,
            required=False,
            system=True,
            regexp_for_validation=None,
            tag=None,
            options=None,
            relationship_target_type=None,
            relationship_filter=None,
            currency=None,
        )
    )


def _custom_object(row: Mapping[str, Any]) -> CustomObject:
    return CustomObject(**{name: row[name] for name in CustomObject.__dataclass_fields__})
