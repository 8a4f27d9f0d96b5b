"""Bulk jobs: made, shown, listed, and carried out a chunk at a time.

A chunk is one transaction: its items' writes, their results and how far the job has come are committed
together, or none of them. So an item is never applied twice, whoever is killed when, and two workers never
carry out one job. Refuses more unfinished jobs of an account than its limit, and requests of another shape.
"""

import asyncio
import logging
import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum, auto
from typing import Any, NamedTuple

import orjson
from ulid_transform import ulid_now_bytes

from upsert_svc import job_items, job_queue, listing, sql
from upsert_svc.bodies import unwrapped
from upsert_svc.database import Connection, Connections, Database
from upsert_svc.errors import (
    BadRequest,
    InternalServerError,
    RecordNotFound,
    ServiceError,
    ServiceUnavailable,
    TooManyJobs,
    TooManyValues,
    is_lock_timeout,
    is_unavailable,
    translated,
)
from upsert_svc.job_items import ACTIONS, Item, Result, StaleDefinition
from upsert_svc.job_queue import Entry
from upsert_svc.object_types import ObjectType, ObjectTypes
from upsert_svc.tokens import Principal

ITEM_LIMIT = 100
CHUNK = 25
_CHUNK_ATTEMPTS = 3
_ITEM_ATTEMPTS = 3
_JOB_ATTEMPTS = 5
_NEGLECTED_SECONDS = 3.0
_NEGLECTED_LIMIT = 1000
_SQL = sql.load("jobs")
_log = logging.getLogger(__name__)


class Order(NamedTuple):
    """What a job is to do: an action, and the items to do it to, each any JSON value."""

    action: str
    items: Sequence[Any]


class JobStatus(NamedTuple):
    """A job as it is answered, in the order in which every statement selects it.

    `results` is JSON text: a list with the result of each item that has been applied or refused.
    """

    job_id: str
    object_key: str
    action: str
    total: int
    progress: int
    status: str
    message: str | None
    results: str


class Progress(Enum):
    """Where a job stands after a step of a worker's."""

    WORKING = auto()
    FINISHED = auto()
    TAKEN = auto()  # another worker is at it


def ordered(body: Any) -> tuple[Order, list[str]]:
    """Reads `{"job": {"action", "items"}}`, and the names of what is ignored.

    Raises BadRequest for another shape, TooManyValues. What is wrong with an item is found out by the job.
    """
    job, ignored = unwrapped(body, "job")
    action, items = job.get("action"), job.get("items")
    if not isinstance(action, str) or action not in ACTIONS:
        raise BadRequest(f"action must be one of {', '.join(ACTIONS)}")
    if not isinstance(items, list) or not items:
        raise BadRequest("items must be a list of at least one item")
    if len(items) > ITEM_LIMIT:
        raise TooManyValues("items", ITEM_LIMIT)
    return Order(action, items), [*ignored, *(name for name in job if name not in ("action", "items"))]


class Jobs:
    """The jobs of all accounts; each call speaks for one Principal and stays in its account."""

    def __init__(self, database: Database, object_types: ObjectTypes, *, job_limit: int) -> None:
        self._database = database
        self._object_types = object_types
        self._job_limit = job_limit

    async def create(self, principal: Principal, object_key: str, order: Order) -> JobStatus:
        """Queues a job. Raises RecordNotFound for an unknown object, TooManyJobs."""
        object_type = await self._object_types.current(principal.account_id, object_key)
        texts = [_text(item) for item in order.items]
        entry = Entry(principal.account_id, ulid_now_bytes().hex())

        async def operation(connection: Connection) -> JobStatus:
            async with connection.transaction():
                await self._require_room(connection, principal.account_id)
                row = await connection.fetchrow(
                    *_SQL.add(
                        account_id=entry.account_id,
                        job_id=entry.job_id,
                        object_id=object_type.object_id,
                        object_key=object_key,
                        user_id=principal.user_id,
                        action=order.action,
                        items=texts,
                    )
                )
                await job_queue.put(connection, [entry])
                return JobStatus._make(row)

        return await self._database.records.retrying(operation)

    async def _require_room(self, connection: Connection, account_id: int) -> None:
        """Whoever comes at the same moment waits until this transaction has ended. Raises TooManyJobs."""
        await connection.execute(*_SQL.lock_account(account_id=account_id))
        if await connection.fetchval(*_SQL.count_unfinished(account_id=account_id)) >= self._job_limit:
            raise TooManyJobs

    async def show(self, principal: Principal, job_id: str, object_key: str | None = None) -> JobStatus:
        """The job of that id, and of that object where one is named. Raises RecordNotFound."""
        for job in await self.show_many(principal, [job_id]):
            if object_key in (None, job.object_key):
                return job
        raise RecordNotFound

    async def show_many(self, principal: Principal, job_ids: Sequence[str]) -> list[JobStatus]:
        """The jobs of these ids that there are, the newest last."""
        async with self._database.records.connection() as connection:
            rows = await connection.fetch(*_SQL.show(account_id=principal.account_id, job_ids=list(job_ids)))
        return [JobStatus._make(row) for row in rows]

    async def page(
        self, principal: Principal, cursors: listing.Cursors, query: Mapping[str, str]
    ) -> listing.Listed[JobStatus]:
        """One page of the account's jobs, the newest last."""
        scope = f"jobs {principal.account_id}"
        page = listing.requested(query, cursors, scope)
        part = {"account_id": principal.account_id, "limit": page.size + 1}
        if page.backwards and page.position is not None:
            statement = _SQL.list_backwards(before=page.position[0], **part)
        else:
            statement = _SQL.list(after=page.position[0] if page.position else "", **part)
        async with self._database.records.connection() as connection:
            rows = await connection.fetch(*statement)
        jobs = [JobStatus._make(row) for row in rows]
        return listing.cut(jobs, page, cursors, scope, lambda job: (job.job_id,))


class Runner:
    """Carries out the jobs of all accounts, over connections of a pool."""

    def __init__(self, pool: Connections, object_types: ObjectTypes) -> None:
        self._pool = pool
        self._object_types = object_types

    async def step(self, entry: Entry) -> Progress:
        """Carries a job on by a chunk of its items, or one by one where they cannot be applied together.

        Raises ServiceUnavailable when the database is out of reach: nobody knows what to tell of an item.
        """
        for attempt in range(_CHUNK_ATTEMPTS):
            try:
                return await self._advance(entry, CHUNK)
            except Exception as error:
                _raise_unavailable(error)
                if is_lock_timeout(error):
                    break
            await asyncio.sleep(random.uniform(0, 0.02 * 2**attempt))  # noqa: S311
        for _ in range(CHUNK):
            if (progress := await self._single(entry)) is not Progress.WORKING:
                return progress
        return Progress.WORKING

    async def _single(self, entry: Entry) -> Progress:
        """Carries a job on by one item, which is refused when it cannot be applied."""
        for attempt in range(1, _ITEM_ATTEMPTS + 1):
            try:
                return await self._advance(entry, 1)
            except Exception as error:
                _raise_unavailable(error)
                if attempt == _ITEM_ATTEMPTS or is_lock_timeout(error):
                    refusal = _refusal(entry, error)
                    break
        return await self._advance(entry, 1, refusal)

    async def _advance(self, entry: Entry, limit: int, refusal: ServiceError | None = None) -> Progress:
        """Applies the next items of a job, or refuses them, in one transaction."""
        async with self._pool.acquired() as connection, connection.transaction():
            job = await connection.fetchrow(*_SQL.claim(**entry._asdict(), limit=limit))
            if job is None:
                is_unfinished = await connection.fetchval(*_SQL.is_unfinished(**entry._asdict()))
                return Progress.TAKEN if is_unfinished else Progress.FINISHED
            # the token and the role have been looked at by whoever queued the job
            principal = Principal(entry.account_id, job["user_id"], "", "agent", token_id=0)
            items = job_items.read(job["items"], job["progress"])
            if refusal is None:
                results = await self._results(connection, principal, job, items)
            else:
                results = [job_items.failed(principal, job["action"], item, refusal) for item in items]
            await connection.execute(*_SQL.move_on(**entry._asdict(), results=orjson.dumps(results).decode()))
            if job["progress"] + len(items) < job["total"]:
                return Progress.WORKING
            await _finish(connection, entry, "completed", f"Completed at {_now()}")
            return Progress.FINISHED

    async def _results(
        self, connection: Connection, principal: Principal, job: Mapping[str, Any], items: Sequence[Item]
    ) -> list[Result]:
        try:
            object_type = await self._object_type(principal, job)
        except RecordNotFound:
            gone = RecordNotFound("The custom object was deleted")
            return [job_items.failed(principal, job["action"], item, gone) for item in items]
        return await job_items.applied(connection, principal, object_type, job["action"], items)

    async def _object_type(self, principal: Principal, job: Mapping[str, Any]) -> ObjectType:
        """The definition as it is now. Raises RecordNotFound, also for an object made anew under the key."""
        object_type = await self._object_types.current(principal.account_id, job["object_key"])
        if object_type.object_id != job["object_id"]:
            raise RecordNotFound
        return object_type

    async def give_up(self, entry: Entry) -> bool:
        """Counts a failure that no item is to blame for; ends the job when there were several in a row."""
        async with self._pool.transaction() as connection:
            attempts = await connection.fetchval(*_SQL.count_failure(**entry._asdict()))
            if attempts is not None and attempts >= _JOB_ATTEMPTS:
                await _finish(connection, entry, "failed", f"Given up after an internal error at {_now()}")
            return attempts is None or attempts >= _JOB_ATTEMPTS

    async def look_after(self) -> None:
        """Puts unfinished jobs that nobody works on into the queue, should their entries be lost."""
        async with self._pool.transaction() as connection:
            neglected = await connection.fetch(
                *_SQL.look_after(seconds=_NEGLECTED_SECONDS, limit=_NEGLECTED_LIMIT)
            )
            await job_queue.put(connection, [Entry(*row) for row in neglected])


async def _finish(connection: Connection, entry: Entry, status: str, message: str) -> None:
    await connection.execute(*_SQL.finish(**entry._asdict(), status=status, message=message))


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} +0000"


def _raise_unavailable(error: Exception) -> None:
    """Raises ServiceUnavailable where the database is to blame, rather than the items."""
    if is_unavailable(error):
        raise ServiceUnavailable from error


def _refusal(entry: Entry, error: Exception) -> ServiceError:
    """What to tell of an item that could not be applied."""
    if is_lock_timeout(error):
        return ServiceUnavailable("Another write kept the record locked")
    if isinstance(error, StaleDefinition):
        return ServiceUnavailable("The object's definition keeps changing")
    if (known := translated(error)) is None:
        _log.error("an item of job %s could not be applied", entry.job_id, exc_info=error)
        return InternalServerError("The item could not be applied; the log tells why")
    return known


def _text(item: Any) -> str:
    """An item as JSON, its numbers as they were sent, however large."""
    try:
        return orjson.dumps(item, default=_digits).decode()
    except TypeError:  # an integer of more than 64 bits
        return orjson.dumps(_with_large_integers(item), default=_digits).decode()


def _digits(value: object) -> orjson.Fragment:
    if isinstance(value, Decimal):
        return orjson.Fragment(str(value))
    raise TypeError


def _with_large_integers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_large_integers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_large_integers(item) for item in value]
    if type(value) is int and value.bit_length() > 63:
        return orjson.Fragment(str(value))
    return value
