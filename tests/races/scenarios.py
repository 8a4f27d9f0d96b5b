"""Races played step by step: a transaction is held open, a request started against it, then the first ends.

Each scenario answers what a caller could see, so that one test asserts the right outcome with the safeguards
in place (test_races.py) and another that it goes wrong without them (test_safeguards.py).
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeVar

import httpx
import orjson

from tests.support.harness import Api, record_of

Result = TypeVar("Result")

TEXTS = [{"key": key, "type": "text"} for key in ("ours", "theirs")]
NUMBERED = {"autoincrement_enabled": True}
WRITERS = 16

_RIVAL = """
select w.* from objects o, unnest(write_records(o.account_id, $2, array[
       row(0, o.object_id, o.version, $3, $4, $5, null, $6::jsonb, o.created_by_user_id,
           null, null, null, null)::record_write])) w
 where o.key = $1 and o.deleted_at is null"""


class Seen(NamedTuple):
    """What a request answered, and whether it had to wait for the peer."""

    status: int
    outcome: str | None
    has_waited: bool
    response: httpx.Response


class Peer:
    """Another writer in the middle of its transaction."""

    def __init__(self, connection: Any, number: int) -> None:
        self._connection = connection
        self._number = number

    async def upsert(
        self, object_key: str, external_id: str, *, name: str | None = None, **fields: Any
    ) -> str:
        """Writes a record by external_id and answers what became of it."""
        self._number += 1
        row = await self._connection.fetchrow(
            _RIVAL,
            object_key,
            "external_id",
            external_id,
            f"{self._number:026d}",
            name,
            orjson.dumps(fields).decode(),
        )
        outcome: str = row["outcome"]
        return outcome

    async def execute(self, statement: str, *arguments: Any) -> None:
        await self._connection.execute(statement, *arguments)

    async def fetchval(self, statement: str, *arguments: Any) -> Any:
        return await self._connection.fetchval(statement, *arguments)


_numbers = iter(range(0, 10_000_000, 1000))


@asynccontextmanager
async def held(api: Api) -> AsyncIterator[tuple[Peer, Any]]:
    """A peer's open transaction; the caller commits or rolls it back by `end`."""
    async with api.running.sql() as connection:
        transaction = connection.transaction()
        await transaction.start()
        yield Peer(connection, next(_numbers)), transaction


async def against(api: Api, transaction: Any, request: Coroutine[Any, Any, httpx.Response], end: str) -> Seen:
    """Starts a request, lets it come as far as it can, ends the peer's transaction, and sees the answer."""
    task = asyncio.create_task(request)
    has_waited = await _comes_to_wait(api, task)
    await (transaction.commit() if end == "commit" else transaction.rollback())
    response = await asyncio.wait_for(task, 10)
    return Seen(response.status_code, response.headers.get("Upsert-Result"), has_waited, response)


async def _comes_to_wait(api: Api, task: asyncio.Task[Any]) -> bool:
    waiting = """
        select exists (select from pg_stat_activity
                        where datname = current_database() and cardinality(pg_blocking_pids(pid)) > 0)"""
    async with api.running.sql() as connection:
        for _ in range(300):
            if task.done():
                return False
            if await connection.fetchval(waiting):
                return True
            await asyncio.sleep(0.01)
    raise AssertionError("the request neither waited for the peer nor ended")


def _fields(**fields: Any) -> Mapping[str, Any]:
    return {"custom_object_fields": fields}


async def two_creations_of_one_external_id(api: Api, end: str = "commit") -> tuple[Seen, list[Any]]:
    key = await api.new_object(*TEXTS)
    async with held(api) as (peer, transaction):
        assert await peer.upsert(key, "v1", name="Ford", theirs="kept") == "created"
        request = api.upsert(key, {"name": "Ford", **_fields(ours="kept")}, external_id="v1")
        seen = await against(api, transaction, request, end)
    return seen, [record["custom_object_fields"] for record in await api.records(key)]


async def two_updates_of_one_record(api: Api) -> tuple[Seen, Any]:
    key = await api.new_object(*TEXTS)
    await api.upsert(key, {"name": "Ford"}, external_id="v1")
    async with held(api) as (peer, transaction):
        assert await peer.upsert(key, "v1", theirs="kept") == "updated"
        request = api.upsert(key, _fields(ours="kept"), external_id="v1")
        seen = await against(api, transaction, request, "commit")
    (record,) = await api.records(key)
    return seen, record["custom_object_fields"]


async def one_name_under_two_external_ids(api: Api, end: str = "commit") -> tuple[Seen, int]:
    key = await api.new_object(naming={"is_unique": True})
    async with held(api) as (peer, transaction):
        assert await peer.upsert(key, "v1", name="Ford") == "created"
        seen = await against(api, transaction, api.upsert(key, {"name": "FORD"}, external_id="v2"), end)
    return seen, len(await api.records(key))


async def an_update_to_a_name_being_taken(api: Api) -> tuple[Seen, int]:
    key = await api.new_object(naming={"is_unique": True})
    await api.upsert(key, {"name": "Fiat"}, external_id="v2")
    async with held(api) as (peer, transaction):
        assert await peer.upsert(key, "v1", name="Ford") == "created"
        seen = await against(api, transaction, api.upsert(key, {"name": "FORD"}, external_id="v2"), "commit")
    return seen, len(await api.records(key))


async def an_upsert_against_a_deletion(api: Api, end: str = "commit") -> tuple[Seen, list[bool]]:
    key = await api.new_object(*TEXTS)
    first = record_of(await api.upsert(key, {"name": "Ford", **_fields(theirs="old")}, external_id="v1"))
    async with held(api) as (peer, transaction):
        await peer.execute("delete from records where record_id = $1", first["id"])
        request = api.upsert(key, {"name": "Ford", **_fields(ours="new")}, external_id="v1")
        seen = await against(api, transaction, request, end)
    return seen, [record["id"] == first["id"] for record in await api.records(key)]


async def a_deletion_against_an_upsert(api: Api) -> tuple[Seen, int]:
    key = await api.new_object(*TEXTS)
    await api.upsert(key, {"name": "Ford"}, external_id="v1")
    async with held(api) as (peer, transaction):
        assert await peer.upsert(key, "v1", theirs="new") == "updated"
        request = api.client.delete(f"/custom_objects/{key}/records?external_id=v1")
        seen = await against(api, transaction, request, "commit")
    return seen, len(await api.records(key))


async def a_settings_change_against_the_first_record(api: Api, end: str = "commit") -> tuple[Seen, bool]:
    key = await api.new_object()
    async with held(api) as (peer, transaction):
        assert await peer.upsert(key, "v1", name="Ford") == "created"
        request = api.client.patch(
            f"/custom_objects/{key}/fields/standard::name",
            json={"custom_object_field": {"properties": {"is_unique": True}}},
        )
        seen = await against(api, transaction, request, end)
    shown = await api.client.get(f"/custom_objects/{key}/fields/standard::name")
    return seen, shown.json()["custom_object_field"]["properties"]["is_unique"]


async def the_first_record_against_a_settings_change(api: Api) -> tuple[Seen, list[str]]:
    key = await api.new_object()
    await api.upsert(key, {"name": "to have it cached"}, external_id="v0", dry_run="true")
    async with held(api) as (peer, transaction):
        await peer.execute(
            "select pg_advisory_xact_lock(account_id, object_id) from objects where key = $1", key
        )
        await peer.execute(
            "update objects set autoincrement_enabled = true, version = version + 1 where key = $1", key
        )
        seen = await against(api, transaction, api.upsert(key, {}, external_id="v1"), "commit")
    return seen, [record["name"] for record in await api.records(key)]


async def a_field_removed_between_validation_and_write(
    api: Api, end: str = "commit"
) -> tuple[Seen, list[Any]]:
    key = await api.new_object(*TEXTS)
    await api.upsert(
        key, {"name": "to have it cached", **_fields(ours="x")}, external_id="v0", dry_run="true"
    )
    async with held(api) as (peer, transaction):
        await peer.execute(
            "select pg_advisory_xact_lock(account_id, object_id) from objects where key = $1", key
        )
        await peer.execute(
            "delete from fields f using objects o"
            " where f.key = 'ours' and o.key = $1 and f.object_id = o.object_id",
            key,
        )
        await peer.execute(
            """update objects set version = version + 1, null_fields = null_fields - 'ours',
                      removals = jsonb_build_array(jsonb_build_object('key', 'ours', 'version', version + 1))
                where key = $1""",
            key,
        )
        request = api.upsert(key, {"name": "Ford", **_fields(ours="x")}, external_id="v1")
        seen = await against(api, transaction, request, end)
    async with api.running.sql() as connection:
        stored = await connection.fetch(
            "select r.fields from records r join objects o using (account_id, object_id) where o.key = $1",
            key,
        )
    return seen, [orjson.loads(row["fields"]) for row in stored]


async def two_autonumbered_creations(api: Api, end: str = "commit") -> tuple[Seen, list[str]]:
    key = await api.new_object(naming=NUMBERED)
    async with held(api) as (peer, transaction):
        assert await peer.upsert(key, "v1") == "created"
        seen = await against(api, transaction, api.upsert(key, {}, external_id="v2"), end)
    return seen, sorted(record["name"] for record in await api.records(key))


async def two_autonumbered_creations_of_one_external_id(api: Api) -> tuple[Seen, str]:
    key = await api.new_object(*TEXTS, naming=NUMBERED)
    async with held(api) as (peer, transaction):
        assert await peer.upsert(key, "v1", theirs="kept") == "created"
        seen = await against(
            api, transaction, api.upsert(key, _fields(ours="kept"), external_id="v1"), "commit"
        )
    following = record_of(await api.upsert(key, {}, external_id="v2"))
    return seen, following["name"]


async def a_re_keying_against_two_autonumbered_creations(api: Api) -> tuple[Seen, list[int]]:
    """The peer takes an external_id by re-keying, which locks no counter, while two are being created."""
    key = await api.new_object(naming=NUMBERED)
    await api.upsert(key, {}, external_id="a")
    async with held(api) as (peer, transaction):
        await peer.execute(
            """update records set external_id = 'b'
                where external_id = 'a' and object_id = (select object_id from objects where key = $1)""",
            key,
        )
        gathered = asyncio.gather(*(api.upsert(key, {}, external_id=name) for name in ("b", "c")))

        async def both() -> httpx.Response:
            return (await gathered)[0]

        seen = await against(api, transaction, both(), "commit")
    return seen, sorted(int(record["name"]) for record in await api.records(key))


async def an_update_behind_a_later_one(api: Api) -> tuple[Seen, bool]:
    """The request begins first and waits; the peer, which began later, has written in between."""
    key = await api.new_object(*TEXTS)
    record = record_of(await api.upsert(key, {"name": "Ford"}, external_id="v1"))
    peers_time = "select updated_at from records where record_id = $1"
    async with held(api) as (peer, transaction):
        await peer.execute("select from records where record_id = $1 for update", record["id"])
        task = asyncio.create_task(api.upsert(key, _fields(ours="x"), external_id="v1"))
        has_waited = await _comes_to_wait(api, task)
        await peer.execute(
            "update records set updated_at = clock_timestamp() where record_id = $1", record["id"]
        )
        before = await peer.fetchval(peers_time, record["id"])
        await transaction.commit()
        response = await task
    async with api.running.sql() as connection:
        after = await connection.fetchval(peers_time, record["id"])
    seen = Seen(response.status_code, response.headers.get("Upsert-Result"), has_waited, response)
    return seen, after > before


class Round(NamedTuple):
    """What the writers of a round were answered, and whether what stood afterwards was the winner's."""

    statuses: list[int]
    is_winners: bool


async def writers_with_one_tag(api: Api, rounds: int) -> list[Round]:
    """Sixteen writers who each round send another value under the tag that stands."""
    key = await api.new_object({"key": "value", "type": "integer"})
    made = await api.create(key, name="contested", external_id="v1")
    path, tag = f"/custom_objects/{key}/records/{record_of(made)['id']}", made.headers["ETag"]
    seen: list[Round] = []
    for number in range(rounds):
        values = range(number * WRITERS, (number + 1) * WRITERS)
        answers = await asyncio.gather(
            *(api.upsert(key, _fields(value=value), {"If-Match": tag}, external_id="v1") for value in values)
        )
        shown = await api.client.get(path)
        winners = [answer for answer in answers if answer.status_code == 200]
        is_winners = [(answer.content, answer.headers["ETag"]) for answer in winners] == [
            (shown.content, shown.headers["ETag"])
        ]
        seen.append(Round(sorted(answer.status_code for answer in answers), is_winners))
        tag = shown.headers["ETag"]
    return seen


async def writers_of_one_document(api: Api, turns: int) -> tuple[Any, Any]:
    """The document that sixteen writers patch at once, each at keys of his own, and what it should be."""
    key = await api.new_object({"key": "doc", "type": "json"})

    async def write(writer: int) -> None:
        for turn in range(turns):
            own = {f"w{writer}": {f"t{turn}": turn}, "all": {"deep": {f"w{writer}-{turn}": [writer]}}}
            record_of(await api.upsert(key, {"name": "x", **_fields(doc=own)}, external_id="v1"))

    await asyncio.gather(*(write(writer) for writer in range(WRITERS)))
    (record,) = await api.records(key)
    each = {f"w{writer}": {f"t{turn}": turn for turn in range(turns)} for writer in range(WRITERS)}
    deep = {f"w{writer}-{turn}": [writer] for writer in range(WRITERS) for turn in range(turns)}
    return record["custom_object_fields"]["doc"], each | {"all": {"deep": deep}}
