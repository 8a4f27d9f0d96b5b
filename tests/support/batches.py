"""A batch connection that is kept busy, the batch that waits for it, and all that can go wrong with a batch.

Each scenario answers what its callers saw, so that one test asserts the right outcome
(test_write_batching.py) and another that it goes wrong without the safeguard
(test_write_batching_safeguards.py).
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import asyncpg
import httpx
import orjson

from tests.support.faults import lossy_address
from tests.support.harness import Api, Cluster, record_of, running
from tests.support.mutations import mutate_sql
from upsert_svc.records.values import WriteRow

FIELDS = [{"key": key, "type": "integer"} for key in ("a", "b", "c")]
UNANSWERED = 0  # the status of a caller who waits for ever

Answers = Sequence[asyncio.Task[httpx.Response]]
_record_ids = itertools.count(1)


@asynccontextmanager
async def batching_service(cluster: Cluster, **chosen: Any) -> AsyncIterator[Api]:
    """An admin of a service with one batch connection, which waits for a lock as long as it takes."""
    async with batching_at(await cluster.new_database(), **chosen) as api:
        yield api


@asynccontextmanager
async def batching_at(database_url: str, **chosen: Any) -> AsyncIterator[Api]:
    defaults = {"batch_connections": 1, "batch_lock_timeout_seconds": 30, "shutdown_timeout_seconds": 1}
    async with running(database_url, **defaults | chosen) as service:
        api = Api(service, await service.token())
        async with api.client:
            yield api


@asynccontextmanager
async def of_another_account(api: Api, account: str = "other") -> AsyncIterator[Api]:
    other = Api(api.running, await api.running.token(account=account, email=f"{account}@example.com"))
    async with other.client:
        yield other


# The connection and its queue


@dataclass(frozen=True)
class Busy:
    """The batch connection while it waits with one write, of a record that a stranger has locked."""

    key: str
    first: asyncio.Task[httpx.Response]
    _lock: Any

    async def end(self) -> None:
        await self._lock.rollback()


@asynccontextmanager
async def busy_connection(api: Api) -> AsyncIterator[Busy]:
    """Keeps the connection busy until the end of the block, or `end`; what arrives meanwhile is a batch."""
    key = await api.new_object()
    await api.upsert(key, {"name": "held"}, external_id="held")
    async with api.running.sql() as connection:
        lock = connection.transaction()
        await lock.start()
        await connection.execute(
            "select from records join objects using (account_id, object_id) where key = $1 for update", key
        )
        first = asyncio.create_task(api.upsert(key, {"name": "held too"}, external_id="held"))
        await until_blocked(connection)
        yield Busy(key, first, lock)
        if connection.is_in_transaction():
            await lock.rollback()


@asynccontextmanager
async def locked(api: Api, key: str, external_id: str) -> AsyncIterator[Any]:
    """The connection of a stranger who holds a record until the block ends."""
    async with api.running.sql() as stranger, stranger.transaction():
        await stranger.execute(
            "select from records r join objects o using (account_id, object_id)"
            " where o.key = $1 and r.external_id = $2 for update of r",
            key,
            external_id,
        )
        yield stranger


async def until_blocked(connection: Any) -> None:
    """Until somebody waits for a lock that this connection holds."""
    blocked = (
        "select exists (select from pg_stat_activity where pg_backend_pid() = any (pg_blocking_pids(pid)))"
    )
    for _ in range(300):
        if await connection.fetchval(blocked):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("nobody ever came to wait")


async def queued(api: Api, count: int) -> None:
    """Until that many writes wait for the batch connection."""
    queue = api.running.service.write_batcher._queue
    for _ in range(500):
        if queue.room.taken >= count:
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"{queue.room.taken} writes wait, not {count}")


async def answered(callers: Answers, seconds: float = 5) -> list[int]:
    """The statuses that the callers see; whoever sees none in time is sent away."""
    _, waiting = await asyncio.wait(callers, timeout=seconds)
    for caller in waiting:
        caller.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    return [UNANSWERED if caller in waiting else caller.result().status_code for caller in callers]


def sent(
    api: Api, key: str, records: Mapping[str, Mapping[str, Any]]
) -> dict[str, asyncio.Task[httpx.Response]]:
    """An upsert of each record, by external_id, at one moment."""
    return {
        external_id: asyncio.create_task(api.upsert(key, record, external_id=external_id))
        for external_id, record in records.items()
    }


def upserts(api: Api, key: str, count: int) -> list[asyncio.Task[httpx.Response]]:
    """That many upserts of different records, e0, e1, …"""
    return [*sent(api, key, {f"e{number}": {"name": f"n{number}"} for number in range(count)}).values()]


async def transactions(api: Api, external_ids: Iterable[str]) -> int:
    """How many transactions wrote these records."""
    async with api.running.sql() as connection:
        count: int = await connection.fetchval(
            "select count(distinct xmin::text) from records where external_id = any ($1)", [*external_ids]
        )
    return count


async def direct(api: Api, key: str, external_id: str) -> WriteRow:
    """A write as it reaches the write_batcher."""
    async with api.running.sql() as connection:
        row = await connection.fetchrow("select object_id, version from objects where key = $1", key)
    record_id = f"{next(_record_ids):026d}"
    return WriteRow(row["object_id"], row["version"], external_id, record_id, "n", None, "{}", user_id=1)


async def account_id(api: Api, name: str) -> int:
    async with api.running.sql() as connection:
        found: int = await connection.fetchval("select account_id from accounts where name = $1", name)
    return found


def _with_fields(**fields: Any) -> dict[str, Any]:
    return {"name": "x", "custom_object_fields": fields}


# What can go wrong


async def refused_rows(api: Api) -> dict[str, int]:
    """Four writes that the record or its neighbours refuse, in a batch with a good one."""
    required = {"key": "a", "type": "integer", "required": True}
    key = await api.new_object(required, naming={"is_unique": True})
    good = {"custom_object_fields": {"a": 1}}
    await api.upsert(key, {"name": "taken", **good}, external_id="first")
    async with busy_connection(api):
        callers = sent(
            api,
            key,
            {
                "ok": {"name": "ok", **good},
                "taken": {"name": "TAKEN", **good},
                "blank": {"name": "blank"},
                "nameless": good,
                "twin": {"name": "oK", **good},
            },
        )
        await queued(api, 5)
    return dict(zip(callers, await answered([*callers.values()]), strict=True))


async def a_row_that_fails_the_statement(api: Api) -> tuple[list[int], int]:
    """What ten callers see, and the one whose write no statement can carry."""
    key = await api.new_object()
    async with api.running.sql() as connection:
        await connection.execute("alter table records add constraint cursed check (name <> 'cursed')")
    async with busy_connection(api):
        callers = upserts(api, key, 10)
        callers += sent(api, key, {"cursed": {"name": "cursed"}}).values()
        await queued(api, 11)
    *neighbours, cursed = await answered(callers)
    return neighbours, cursed


async def a_peer_of_a_numbered_batch(api: Api) -> tuple[list[int], list[str]]:
    """Of two creations in a batch the peer takes one external_id by re-keying: the batch is given up."""
    key = await api.new_object(naming={"autoincrement_enabled": True})
    await api.upsert(key, {}, external_id="a")
    async with busy_connection(api) as busy, api.running.sql() as peer:
        peers = peer.transaction()
        await peers.start()
        await peer.execute("update records set external_id = 'b' where external_id = 'a'")
        callers = sent(api, key, {"b": {}, "c": {}})
        await queued(api, 2)
        await busy.end()
        await until_blocked(peer)
        await peers.commit()
    statuses = await answered([*callers.values()])
    return statuses, sorted(record["name"] for record in await api.records(key))


class Deadlock(NamedTuple):
    """What the callers of the batch and the stranger were answered, and the records in the end."""

    statuses: list[int]
    has_stranger_lost: bool
    fields: list[Mapping[str, Any]]


async def a_deadlock_with_a_stranger(api: Api, *, victim: str) -> Deadlock:
    """The batch holds one record and waits for another; the stranger has that one and asks for the first."""
    key = await api.new_object(*FIELDS)
    made = [record_of(await api.upsert(key, _with_fields(), external_id=name)) for name in ("x", "y")]
    earlier, later = sorted(record["id"] for record in made)  # the batch locks in the order of ids
    writing = """update records set fields = fields || '{"c": 1}' where record_id = $1"""
    async with api.running.sql() as stranger:
        strangers = stranger.transaction()
        await strangers.start()
        patience = "10ms" if victim == "stranger" else "1min"
        await stranger.execute(f"set local deadlock_timeout = '{patience}'")
        await stranger.execute(writing, later)
        async with busy_connection(api):
            callers = sent(api, key, dict.fromkeys(("x", "y", "new"), _with_fields(a=1)))
            await queued(api, 3)
        await until_blocked(stranger)
        try:
            await stranger.execute(writing, earlier)
            await strangers.commit()
            has_lost = False
        except asyncpg.DeadlockDetectedError:
            await strangers.rollback()
            has_lost = True
    statuses = await answered([*callers.values()])
    found = {record["id"]: record["custom_object_fields"] for record in await api.records(key)}
    return Deadlock(statuses, has_lost, [found[earlier], found[later]])


async def a_connection_lost_under_way(api: Api) -> tuple[int, str | None, int]:
    """What the caller of a statement sees whose backend is ended, when to come back, and the next caller."""
    async with busy_connection(api) as busy:
        key = await api.new_object()
        async with api.running.sql() as administrator:
            await administrator.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and cardinality(pg_blocking_pids(pid)) > 0"
            )
        (lost,) = await answered([busy.first])
        retry_after = busy.first.result().headers.get("Retry-After") if lost else None
        (after,) = await answered(upserts(api, key, 1))
    return lost, retry_after, after


class LostAnswer(NamedTuple):
    """What the callers of a batch saw whose answer was lost, and the record that a stranger wrote then."""

    statuses: list[int]
    retry_after: list[str | None]
    a: int
    transactions: int
    status_after: int


async def an_answer_lost_after_the_commit(cluster: Cluster) -> LostAnswer:
    """A batch sets a to 1 and is committed; a stranger sets it to 2; only then the connection is lost."""
    async with (
        lossy_address(await cluster.new_database()) as line,
        batching_at(line.url) as api,
    ):
        key = await api.new_object(*FIELDS)
        await api.upsert(key, _with_fields(a=0), external_id="to-be-lost")
        async with busy_connection(api):
            callers = sent(api, key, {"to-be-lost": _with_fields(a=1), "beside": _with_fields(a=1)})
            await queued(api, 2)
            line.lose_the_answer_to("to-be-lost")
        await asyncio.wait_for(line.is_committed.wait(), 5)
        count = await transactions(api, callers)
        async with api.running.sql() as stranger:
            await stranger.execute(
                """update records set fields = fields || '{"a": 2}' where external_id = 'to-be-lost'"""
            )
        line.part()
        statuses = await answered([*callers.values()])
        retry_after = [caller.result().headers.get("Retry-After") for caller in callers.values()]
        (after,) = await answered(upserts(api, key, 1))
        records = {record["external_id"]: record["custom_object_fields"] for record in await api.records(key)}
    return LostAnswer(statuses, retry_after, records["to-be-lost"]["a"], count, after)


async def a_caller_who_leaves_the_queue(api: Api) -> tuple[str, set[str]]:
    """What became of the neighbour, and whose records there are."""
    key = await api.new_object()
    write_batcher = api.running.service.write_batcher
    writes = [await direct(api, key, name) for name in ("stays", "leaves")]
    async with busy_connection(api):
        stays, leaves = (
            asyncio.create_task(write_batcher.write(1, "external_id", write)) for write in writes
        )
        await queued(api, 2)
        leaves.cancel()
        await asyncio.gather(leaves, return_exceptions=True)
    outcome = (await asyncio.wait_for(stays, 5))["outcome"]
    return outcome, {record["external_id"] for record in await api.records(key)}


async def a_caller_who_leaves_under_way(api: Api) -> tuple[object, dict[str, str]]:
    """What became of the neighbour in the same statement, and the names of the records."""
    key = await api.new_object()
    await api.upsert(key, {"name": "old"}, external_id="leaves")
    write_batcher = api.running.service.write_batcher
    writes = [await direct(api, key, name) for name in ("leaves", "stays")]
    async with locked(api, key, "leaves") as stranger:
        async with busy_connection(api):
            leaves, stays = (
                asyncio.create_task(write_batcher.write(1, "external_id", write)) for write in writes
            )
            await queued(api, 2)
        await until_blocked(stranger)
        leaves.cancel()
        await asyncio.gather(leaves, return_exceptions=True)
    try:
        outcome: object = (await asyncio.wait_for(stays, 5))["outcome"]
    except Exception as error:
        outcome = error
    return outcome, {record["external_id"]: record["name"] for record in await api.records(key)}


async def a_field_removed_while_the_batch_waits(api: Api) -> tuple[dict[str, int], list[Mapping[str, Any]]]:
    """Another service removes a field that one write of the batch sends; and what is stored in the end."""
    key = await api.new_object({"key": "gone", "type": "text"}, {"key": "stays", "type": "text"})
    bystanders = await api.new_object()
    await api.upsert(key, _with_fields(gone="to have it cached"), external_id="removed", dry_run="true")
    async with running(api.running.database_url) as second, busy_connection(api):
        callers = sent(
            api, key, {"removed": _with_fields(gone="x"), "neighbour": _with_fields(stays="x")}
        ) | sent(api, bystanders, {"bystander": {"name": "x"}})
        await queued(api, 3)
        elsewhere = Api(second, api.token)
        async with elsewhere.client:
            await elsewhere.client.delete(f"/custom_objects/{key}/fields/gone")
    statuses = dict(zip(callers, await answered([*callers.values()]), strict=True))
    async with api.running.sql() as connection:
        stored = await connection.fetch(
            "select r.fields from records r join objects o using (account_id, object_id) where o.key = $1",
            key,
        )
    return statuses, [orjson.loads(row["fields"]) for row in stored]


Edit = Mapping[str, int | None]
EDITS: Sequence[Edit] = [{"a": place if place % 2 else None, "bc"[place % 2]: place} for place in range(8)]


async def opposite_edits_in_one_batch(api: Api, *, stands: bool) -> tuple[list[Edit], Edit]:
    """What the callers of EDITS saw of their record, and the record in the end."""
    key = await api.new_object(*FIELDS)
    if stands:
        await api.upsert(key, _with_fields(), external_id="same")
    async with busy_connection(api):
        callers = await _one_after_another(api, key)
    return await _edited(api, key, callers)


async def updates_by_id_in_one_batch(api: Api) -> tuple[list[int], Edit]:
    """What three callers see who each set a field of one record, and the record in the end."""
    key = await api.new_object(*FIELDS)
    made = record_of(await api.create(key, name="x"))
    path = f"/custom_objects/{key}/records/{made['id']}"
    async with busy_connection(api):
        callers = [
            asyncio.create_task(
                api.client.patch(path, json={"custom_object_record": {"custom_object_fields": {field: 1}}})
            )
            for field in "abc"
        ]
        await queued(api, 3)
    statuses = await answered(callers)
    return statuses, record_of(await api.client.get(path))["custom_object_fields"]


async def opposite_edits_retried_individually(api: Api) -> tuple[list[Edit], Edit]:
    """The same when a neighbour fails the statement, and the first edit is slow afterwards."""
    key = await api.new_object(*FIELDS)
    await api.upsert(key, _with_fields(), external_id="same")
    begin = "perform pg_advisory_xact_lock_shared"
    slow = f"if p_writes[1].patch @> '{{\"b\": 0}}' then perform pg_sleep(0.3); end if; {begin}"
    async with api.running.sql() as connection:
        await connection.execute("alter table records add constraint cursed check (name <> 'cursed')")
    await mutate_sql(api, "write_records", begin, slow)
    async with busy_connection(api):
        callers = await _one_after_another(api, key)
        cursed = sent(api, key, {"cursed": {"name": "cursed"}})
        await queued(api, len(EDITS) + 1)
    assert await answered([*cursed.values()]) == [500]
    return await _edited(api, key, callers)


async def _one_after_another(api: Api, key: str) -> Answers:
    callers: list[asyncio.Task[httpx.Response]] = []
    for place, edit in enumerate(EDITS, 1):
        callers += sent(api, key, {"same": _with_fields(**edit)}).values()
        await queued(api, place)
    return callers


async def _edited(api: Api, key: str, callers: Answers) -> tuple[list[Edit], Edit]:
    await answered(callers)
    (record,) = await api.records(key)
    seen = [record_of(caller.result())["custom_object_fields"] for caller in callers]
    return seen, record["custom_object_fields"]


def in_order() -> list[Edit]:
    """The states of a record that EDITS go through one after another."""
    unset: Edit = dict.fromkeys("abc")
    return [*itertools.accumulate(EDITS, lambda state, edit: {**state, **edit}, initial=unset)][1:]


class Filled(NamedTuple):
    """The statuses of two accounts that fill a queue of ten, and of a third that comes then."""

    first: list[int]
    second: list[int]
    third: list[int]
    retry_after: set[str | None]


async def a_queue_filled_by_two_accounts(cluster: Cluster) -> Filled:
    async with (
        batching_service(cluster, write_queue=10) as api,
        of_another_account(api, "second") as peer,
        of_another_account(api, "third") as latecomer,
    ):
        groups: list[Answers] = []
        async with busy_connection(api):
            for caller, count, waiting in ((api, 7, 5), (peer, 7, 10), (latecomer, 1, 10)):
                groups.append(upserts(caller, await caller.new_object(), count))
                await queued(api, waiting)
                await asyncio.sleep(0.1)  # for those who are refused, or not
        first, second, third = [await answered(callers) for callers in groups]
        answers = [caller.result() for callers in groups for caller in callers]
        retry_after = {answer.headers.get("Retry-After") for answer in answers if answer.status_code == 503}
        return Filled(first, second, third, retry_after)


async def a_stop_with_waiting_callers(api: Api) -> tuple[int, list[int]]:
    """What the caller of the statement under way sees, and those behind."""
    key = await api.new_object()
    async with busy_connection(api) as busy:
        waiting = upserts(api, key, 3)
        await queued(api, 3)
        await api.running.service.write_batcher.stop()
        first, *others = await answered([busy.first, *waiting], 2)
    return first, others


async def a_stop_with_callers_retried_individually(api: Api) -> list[int]:
    """What three callers of one locked record see; they are retried together."""
    key = await api.new_object()
    await api.upsert(key, {"name": "x"}, external_id="same")
    write_batcher = api.running.service.write_batcher
    async with locked(api, key, "same"):
        async with busy_connection(api):
            callers = [
                asyncio.create_task(api.upsert(key, {"name": f"n{n}"}, external_id="same")) for n in range(3)
            ]
            await queued(api, 3)
        while not write_batcher._individual:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        await write_batcher.stop()
        return await answered(callers, 2)


async def neighbours_of_a_locked_record(api: Api) -> tuple[list[int], bool]:
    """What ten callers see within a second, and whether the lock was still waited for then."""
    key = await api.new_object()
    async with busy_connection(api) as busy:
        neighbours = await answered(upserts(api, key, 10), 1)
        is_waiting = not busy.first.done()
    assert await answered([busy.first]) == [200]
    return neighbours, is_waiting


class Turns(NamedTuple):
    """How many of an account's thousand waiting writes were settled before the one that came last."""

    before_another_account: int
    before_another_object: int


async def a_thousand_before_one(api: Api) -> Turns:
    write_batcher = api.running.service.write_batcher
    async with of_another_account(api) as other:
        keys = [await caller.new_object() for caller in (api, api, other)]
        busy = await direct(api, keys[0], "")
        thousand = [
            busy._replace(identifier=f"e{number}", record_id=f"{number:026d}") for number in range(1000)
        ]
        lone = [await direct(api, key, "lone") for key in keys[1:]]
        accounts = [1, await account_id(api, "other")]
        settled_before: list[int] = []
        async with busy_connection(api):
            callers = [
                asyncio.create_task(write_batcher.write(1, "external_id", busy_write))
                for busy_write in thousand
            ]
            await queued(api, 1000)
            quiet = [
                asyncio.create_task(write_batcher.write(account, "external_id", write))
                for account, write in zip(accounts, lone, strict=True)
            ]
            await queued(api, 1002)

            async def count(caller: asyncio.Task[Any]) -> int:
                await caller
                return sum(other.done() for other in callers)

            counting = [asyncio.create_task(count(caller)) for caller in quiet]
        settled_before = await asyncio.wait_for(asyncio.gather(*counting), 20)
        await asyncio.wait_for(asyncio.gather(*callers), 20)
    return Turns(before_another_account=settled_before[1], before_another_object=settled_before[0])
