"""The items of a bulk job: validated one by one, written together, each with a result of its own.

The same code validates and writes an item as a request of its own. Refuses nothing itself: a refusal is the
item's result.
"""

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from upsert_svc import json_body
from upsert_svc.accounts.tokens import Principal
from upsert_svc.db.pools import Connection, Pinned, Row
from upsert_svc.definitions.compiled import Definition
from upsert_svc.errors import BadRequest, Problem, RecordInvalid, RecordNotFound, ServiceError, shortened
from upsert_svc.payloads import (
    DRY_RUN,
    TEXT_LIMIT,
    external_id_problem,
    name_problem,
    record_patch,
    require_no_parameter,
)
from upsert_svc.records import record_store, write_batching
from upsert_svc.records.rules import record_or_raise, require_findable, validate
from upsert_svc.records.values import NEW, By, Identifier, WriteRequest, WriteRow

CHUNK_CHARACTERS = 128 * 1024  # of the items that are applied together
Result = dict[str, Any]


class Action(NamedTuple):
    """What a job does to each of its items."""

    by: By  # what finds the record
    status: str  # of the result of an item that went well
    job_type: str  # of the job, as it is answered


ACTIONS: Mapping[str, Action] = {
    "create": Action("none", "Created", "Bulk Create Custom Object Record"),
    "update": Action("record_id", "Updated", "Bulk Update Custom Object Record"),
    "delete": Action("record_id", "Deleted", "Bulk Delete Custom Object Record"),
    "delete_by_external_id": Action("external_id", "Deleted", "Bulk Delete Custom Object Record"),
    "create_or_update_by_external_id": Action(
        "external_id", "CreateOrUpdate", "Bulk Create Or Update Custom Object Record"
    ),
    "create_or_update_by_name": Action(
        "name", "CreateOrUpdate", "Bulk Create Or Update Custom Object Record"
    ),
}
_ATTRIBUTES: Mapping[By, str] = {"record_id": "id", "external_id": "external_id", "name": "name"}
_TOO_LARGE = f"The item is larger than a record may be, or has more than {json_body.VALUE_LIMIT} values"
_NO_DRY_RUN = (
    "dry_run is not taken: a job cannot be tried out; send the item by itself, with dry_run=true as query"
)
_TAKEN = frozenset({"name_taken", "external_id_taken"})


class StaleDefinition(Exception):
    """The object's definition changed while items were written by it; nothing of them is to be kept."""


class _OrderMatters(Exception):
    """Written together, an item met a name or an external_id of another; one after another it may not."""


class Item(NamedTuple):
    """An item of a job by its place, as it was sent; None, and why, where that cannot be read."""

    place: int
    value: Any
    refusal: ServiceError | None = None


TOO_LARGE = b""  # what is kept of an item that is larger than a body of its own might be


async def read(texts: Iterable[str], first_place: int) -> list[Item]:
    """The next items of a job, from their JSON: the first, and as many more as are not too large together."""
    items: list[Item] = []
    characters = 0
    for place, text in enumerate(texts, first_place):
        characters += len(text)
        if items and characters > CHUNK_CHARACTERS:
            break
        await asyncio.sleep(0)  # reading may take long, and requests are answered in the same process
        items.append(_item(place, text.encode()))
    return items


def _item(place: int, text: bytes) -> Item:
    if text == TOO_LARGE:
        return Item(place, None, _invalid("base", _TOO_LARGE, "TooLong"))
    try:
        return Item(place, json_body.parse(text))
    except ServiceError as error:  # kept by a version of before, whose limits were others
        return Item(place, None, error)


def failed(principal: Principal, action: str, item: Item, error: ServiceError) -> Result:
    """The result of an item that was refused, or could not be applied."""
    record_id = _sent_identifier(action, item.value, "id")
    external_id = _sent_identifier(action, item.value, "external_id")
    return _result(principal, action, item, "Failed", record_id, external_id, _described(error))


async def apply(
    connection: Connection,
    principal: Principal,
    definition: Definition,
    action: str,
    items: Sequence[Item],
) -> list[Result]:
    """Applies the items in their order, in the connection's transaction; a result for each.

    Raises StaleDefinition, and PostgreSQL's errors: then the transaction is to be rolled back.
    """
    run = _Run(connection, principal, definition, action)
    for item in items:
        await asyncio.sleep(0)  # validating may take long, and requests are answered in the same process
        if item.refusal is not None:
            run.fail(item, item.refusal)
        elif (refusal := _dry_run_refusal(item.value)) is not None:
            run.fail(item, refusal)
        elif action.startswith("delete"):
            await run.delete(item)
        else:
            await run.write(item)
    await run.flush()
    return [run.results[item.place] for item in items]


class _Run:
    """The items of one transaction, and the writes that wait to be sent together."""

    def __init__(
        self, connection: Connection, principal: Principal, definition: Definition, action: str
    ) -> None:
        self._connection = connection
        self._principal = principal
        self._definition = definition
        self._action = action
        self._waiting: list[tuple[Item, WriteRow]] = []
        # A lookup of the object's own records may name one that an item before it makes or re-keys.
        self._own_lookups = [
            key for key, target in definition.lookup_targets.items() if target == definition.key
        ]
        self.results: dict[int, Result] = {}

    async def write(self, item: Item) -> None:
        """Validates an item and has its write wait for others."""
        try:
            change = _change(self._action, item.value)
            require_findable(change.identifier, change.patch)
            validated = validate(self._definition, self._principal, change)
            write = validated.write
            if self._definition.lookup_targets:
                if any(validated.values.get(key) is not None for key in self._own_lookups):
                    await self.flush()
                write = await record_store.resolve_lookups(
                    Pinned(self._connection), self._definition, validated
                )
        except ServiceError as error:
            self.fail(item, error)
        else:
            self._waiting.append((item, write))

    async def delete(self, item: Item) -> None:
        """Deletes what an item names."""
        try:
            identifier = _deletion(self._action, item.value)
            found = await self._found(identifier)
            await record_store.delete(self._connection, self._principal, self._definition, identifier)
        except ServiceError as error:
            self.fail(item, error)
        else:
            self._succeed(item, found["record_id"], found["external_id"])

    async def _found(self, identifier: Identifier) -> Row:
        """The id and external_id of the record that is about to be deleted. Raises RecordNotFound."""
        row: Row | None = await self._connection.fetchrow(*record_store.find(self._definition, identifier))
        if row is None:
            raise RecordNotFound
        return row

    async def flush(self) -> None:
        """Sends the writes that wait: in one statement, or one after another where their order matters."""
        waiting, self._waiting = self._waiting, []
        writes = self._with_rising_ids([write for _, write in waiting])
        try:
            rows = await self._send_together(writes)
        except _OrderMatters:
            rows = [row for write in writes for row in await self._send([write])]
        for (item, _), row in zip(waiting, rows, strict=True):
            self._settle(item, row)

    def _with_rising_ids(self, writes: Sequence[WriteRow]) -> list[WriteRow]:
        """So that what a list of items creates is listed in it: ids of one millisecond are in none."""
        is_creation = self._action == "create"  # found by nothing, so identified by its own id
        record_ids = sorted(write.record_id for write in writes)
        return [
            write._replace(record_id=record_id, identifier=record_id if is_creation else write.identifier)
            for write, record_id in zip(writes, record_ids, strict=True)
        ]

    async def _send_together(self, writes: Sequence[WriteRow]) -> list[Row]:
        """Raises _OrderMatters, with nothing written, where one after another might end differently."""
        if len(writes) < 2:
            return await self._send(writes)
        if await self._connection.fetchval(
            *record_store.is_another_in_the_way(self._definition, ACTIONS[self._action].by, writes)
        ):
            raise _OrderMatters  # which may make room for it
        async with self._connection.transaction():
            rows = await self._send(writes)
            if any(row["outcome"] in _TAKEN for row in rows):
                raise _OrderMatters  # two items ask for the same
        return rows

    async def _send(self, writes: Sequence[WriteRow]) -> list[Row]:
        if not writes:
            return []
        rows = await self._connection.fetch(
            *write_batching.statement(self._principal.account_id, ACTIONS[self._action].by, writes)
        )
        if any(row["outcome"] == "stale" for row in rows):
            raise StaleDefinition
        return sorted(rows, key=lambda row: row["position"])

    def _settle(self, item: Item, row: Row) -> None:
        try:
            record = record_or_raise(row)
        except ServiceError as error:
            self.fail(item, error)
        else:
            self._succeed(item, record.record_id, record.external_id)

    def _succeed(self, item: Item, record_id: str, external_id: str | None) -> None:
        self.results[item.place] = _result(
            self._principal, self._action, item, ACTIONS[self._action].status, record_id, external_id
        )

    def fail(self, item: Item, error: ServiceError) -> None:
        """Gives an item the result of a refusal."""
        self.results[item.place] = failed(self._principal, self._action, item, error)


def _dry_run_refusal(value: Any) -> RecordInvalid | None:
    """The refusal of an item that is not to be written: it would be, for a job has no dry run."""
    try:
        require_no_parameter(value if isinstance(value, dict) else (), DRY_RUN)
    except BadRequest:
        return _invalid("dry_run", _NO_DRY_RUN)
    return None


def _change(action: str, value: Any) -> WriteRequest:
    """What an item asks for. Raises RecordInvalid."""
    if not isinstance(value, dict):
        raise _invalid("base", "The item must be a JSON object")
    patch = record_patch({"custom_object_record": value})
    by = ACTIONS[action].by
    return WriteRequest(NEW if by == "none" else _identifier(by, value.get(_ATTRIBUTES[by])), patch)


def _deletion(action: str, value: Any) -> Identifier:
    """What an item is to delete: the identifier itself, or an object that holds it. Raises RecordInvalid."""
    by = ACTIONS[action].by
    return _identifier(by, value.get(_ATTRIBUTES[by]) if isinstance(value, dict) else value)


def _identifier(by: By, value: Any) -> Identifier:
    attribute = _ATTRIBUTES[by]
    if value is None or value == "":
        raise _invalid(attribute, f"{attribute} is needed", "BlankValue")
    checks: Mapping[str, Callable[[object], Problem | None]]
    checks = {"external_id": external_id_problem, "name": name_problem}
    if attribute in checks and (problem := checks[attribute](value)) is not None:
        raise RecordInvalid({attribute: [problem]})
    if not isinstance(value, str):
        raise _invalid(attribute, f"{attribute} must be text")
    return Identifier(by, value)


def _invalid(attribute: str, description: str, error: str = "InvalidValue") -> RecordInvalid:
    return RecordInvalid({attribute: [Problem(description, error)]})


def _result(
    principal: Principal,
    action: str,
    item: Item,
    status: str,
    record_id: str | None,
    external_id: str | None,
    errors: Sequence[Mapping[str, str]] = (),
) -> Result:
    """One result (docs/api.md, "Bulk jobs"). Of a refused item the identifiers are those it was sent with."""
    return {
        "index": item.place,
        "id": record_id,
        "external_id": external_id,
        "account_id": principal.account_id,
        "success": status != "Failed",
        "action": action,
        "status": status,
        "errors": list(errors),
    }


def _sent_identifier(action: str, value: Any, attribute: str) -> str | None:
    """What an item calls its record, as text, so that whoever sent it finds its result by that."""
    if isinstance(value, dict):
        value = value.get(attribute)
    elif not action.startswith("delete") or _ATTRIBUTES[ACTIONS[action].by] != attribute:
        return None
    if value is None or value == "":
        return None
    return shortened(value if isinstance(value, str) else _spelled(value), TEXT_LIMIT)


def _spelled(value: Any) -> str:
    """What was sent where text should be: a number's digits, anything else as JSON."""
    return str(value) if type(value) in (int, Decimal) else json.dumps(value, ensure_ascii=False, default=str)


def _described(error: ServiceError) -> list[dict[str, str]]:
    """An error as clients of jobs read it: a word, a sentence for all of its kind, one for each problem."""
    title = error.description or error.error
    details = [problem.description for problems in (error.details or {}).values() for problem in problems]
    return [{"code": error.error, "title": title, "detail": detail} for detail in details or [title]]
