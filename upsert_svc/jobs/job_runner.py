"""Bulk jobs carried out, a chunk at a time.

A chunk is one transaction: its items' writes, their results and how far the job has come are committed
together, or none of them. So an item is never applied twice, whoever is killed when, and two workers never
carry out one job.
"""

import asyncio
import logging
import random
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Any

import orjson

from upsert_svc.accounts.tokens import Principal
from upsert_svc.db import statements
from upsert_svc.db.pools import Connection, Connections
from upsert_svc.definitions.compiled import Definition, Definitions
from upsert_svc.errors import (
    InternalServerError,
    RecordNotFound,
    ServiceError,
    ServiceUnavailable,
    is_lock_timeout,
    is_unavailable,
    translated,
)
from upsert_svc.jobs import job_items, job_queue
from upsert_svc.jobs.job_items import Item, Result, StaleDefinition
from upsert_svc.jobs.job_queue import Entry

CHUNK = 25
_CHUNK_ATTEMPTS = 3
_ITEM_ATTEMPTS = 3
_JOB_ATTEMPTS = 5
_STALLED_SECONDS = 3.0
_STALLED_LIMIT = 1000
_SQL = statements.load("jobs")
_log = logging.getLogger(__name__)


class Progress(Enum):
    """Where a job stands after a step of a worker's."""

    WORKING = auto()
    FINISHED = auto()
    TAKEN = auto()  # another worker is at it


class JobRunner:
    """Carries out the jobs of all accounts, over connections of a pool."""

    def __init__(self, pool: Connections, definitions: Definitions) -> None:
        self._pool = pool
        self._definitions = definitions

    async def next_in_turn(
        self, entry: Entry, last_account_id: int, under_way: Collection[Entry], aside: Collection[Entry]
    ) -> tuple[bool, Entry | None]:
        """Whether the entry's job is unfinished, and the job to carry on now, if there is any.

        That is the oldest of the account that comes after the last one, and for which nothing is under way;
        where there is no such account, another job of those that there are.
        """
        async with self._pool.connection() as connection:
            is_unfinished, account_id, job_id = await connection.fetchrow(
                *_SQL.next_in_turn(
                    **entry._asdict(),
                    last_account_id=last_account_id,
                    busy_account_ids=[job.account_id for job in under_way],
                    passed_over=[job.job_id for job in (*under_way, *aside)],
                )
            )
        return is_unfinished, None if job_id is None else Entry(account_id, job_id)

    async def step(self, entry: Entry) -> Progress:
        """Carries a job on by a chunk of its items, or one by one where they cannot be applied together.

        Raises ServiceUnavailable when the database is out of reach: nothing is known of any item.
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
            job = await connection.fetchrow(
                *_SQL.claim(**entry._asdict(), limit=limit, characters=job_items.CHUNK_CHARACTERS)
            )
            if job is None:
                is_unfinished = await connection.fetchval(*_SQL.is_unfinished(**entry._asdict()))
                return Progress.TAKEN if is_unfinished else Progress.FINISHED
            # the token and the role have been looked at by whoever queued the job
            principal = Principal(entry.account_id, job["user_id"], "", "agent", token_id=0)
            items = await job_items.read(job["items"], job["progress"])
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
            definition = await self._definition(principal, job)
        except RecordNotFound:
            gone = RecordNotFound("The custom object was deleted")
            return [job_items.failed(principal, job["action"], item, gone) for item in items]
        return await job_items.apply(connection, principal, definition, job["action"], items)

    async def _definition(self, principal: Principal, job: Mapping[str, Any]) -> Definition:
        """The definition as it is now. Raises RecordNotFound, also for an object made anew under the key."""
        definition = await self._definitions.current(principal.account_id, job["object_key"])
        if definition.object_id != job["object_id"]:
            raise RecordNotFound
        return definition

    async def give_up(self, entry: Entry) -> bool:
        """Counts a failure that no item caused; ends the job when there were several in a row."""
        async with self._pool.transaction() as connection:
            attempts = await connection.fetchval(*_SQL.count_failure(**entry._asdict()))
            if attempts is not None and attempts >= _JOB_ATTEMPTS:
                await _finish(connection, entry, "failed", f"Given up after an internal error at {_now()}")
            return attempts is None or attempts >= _JOB_ATTEMPTS

    async def requeue_stalled(self) -> None:
        """Puts unfinished jobs that nobody works on into the queue, should their entries be lost."""
        async with self._pool.transaction() as connection:
            stalled = await connection.fetch(
                *_SQL.requeue_stalled(seconds=_STALLED_SECONDS, limit=_STALLED_LIMIT)
            )
            await job_queue.put(connection, [Entry(*row) for row in stalled])


async def _finish(connection: Connection, entry: Entry, status: str, message: str) -> None:
    await connection.execute(*_SQL.finish(**entry._asdict(), status=status, message=message))


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} +0000"


def _raise_unavailable(error: Exception) -> None:
    """Raises ServiceUnavailable where the database is the cause, rather than the items."""
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
