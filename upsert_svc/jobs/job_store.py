"""Bulk jobs: made, shown and listed.

Refuses more unfinished jobs of an account than its limit.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from ulid_transform import ulid_now_bytes

from upsert_svc import paging
from upsert_svc.accounts.tokens import Principal
from upsert_svc.db import statements
from upsert_svc.db.pools import Connection, Database, Row
from upsert_svc.definitions.compiled import Definitions
from upsert_svc.errors import RecordNotFound, TooManyJobs
from upsert_svc.jobs import job_queue
from upsert_svc.jobs.job_body import JobRequest
from upsert_svc.jobs.job_queue import Entry
from upsert_svc.paging import Cursors, Page, PageRequest

_LARGE_BYTES = 1024 * 1024  # of the items of a job: on its way to the database it is there three times
_SQL = statements.load("jobs")


class JobStatus(NamedTuple):
    """A job as it is answered.

    `results` is JSON text: a list with the result of each item that has been applied or refused. None where
    those of the jobs before it have filled the answer.
    """

    job_id: str
    object_key: str
    action: str
    total: int
    progress: int
    status: str
    message: str | None
    results: str | None


class Jobs:
    """The jobs of all accounts; each call speaks for one Principal and stays in its account."""

    def __init__(
        self, database: Database, definitions: Definitions, cursors: Cursors, *, job_limit: int
    ) -> None:
        self._database = database
        self._definitions = definitions
        self._cursors = cursors
        self._job_limit = job_limit
        self._large = asyncio.Lock()

    async def create(self, principal: Principal, object_key: str, job_request: JobRequest) -> JobStatus:
        """Queues a job. Raises RecordNotFound for an unknown object, TooManyJobs."""
        definition = await self._definitions.current(principal.account_id, object_key)
        is_large = sum(map(len, job_request.items)) > _LARGE_BYTES
        async with self._large if is_large else contextlib.nullcontext():  # one at a time, for the memory
            return await self._add(principal, object_key, definition.object_id, job_request)

    async def _add(
        self, principal: Principal, object_key: str, object_id: int, job_request: JobRequest
    ) -> JobStatus:
        texts = [str(item, "utf-8") for item in job_request.items]
        entry = Entry(principal.account_id, ulid_now_bytes().hex())

        async def operation(connection: Connection) -> JobStatus:
            async with connection.transaction():
                await self._require_room(connection, principal.account_id)
                row = await connection.fetchrow(
                    *_SQL.add(
                        account_id=entry.account_id,
                        job_id=entry.job_id,
                        object_id=object_id,
                        object_key=object_key,
                        user_id=principal.user_id,
                        action=job_request.action,
                        items=texts,
                    )
                )
                await job_queue.put(connection, [entry])
                return JobStatus(**row)

        return await self._database.main.retrying(operation)

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
        async with self._database.main.connection() as connection:
            rows = await connection.fetch(
                *_SQL.show(
                    account_id=principal.account_id, job_ids=list(job_ids), byte_limit=paging.PAGE_BYTES
                )
            )
        return [JobStatus(**row) for row in rows]

    async def page(self, principal: Principal, request: PageRequest) -> Page[JobStatus]:
        """One page of the account's jobs, the newest last. Raises BadRequest."""
        scope = f"jobs {principal.account_id}"
        window = self._cursors.window(scope, request)
        part = {
            "account_id": principal.account_id,
            "limit": window.size + 1,
            "byte_limit": paging.PAGE_BYTES,
        }
        if window.is_backwards and window.position is not None:
            statement = _SQL.list_backwards(before=window.position[0], **part)
        else:
            statement = _SQL.list(after=window.position[0] if window.position else "", **part)
        async with self._database.main.connection() as connection:
            rows = await connection.fetch(*statement)
        page = self._cursors.page(scope, window, rows, lambda row: (row["job_id"],), paging.bytes_of)
        return replace(page, items=[_status(row) for row in page.items])


def _status(row: Row) -> JobStatus:
    return JobStatus._make(row[name] for name in JobStatus._fields)
