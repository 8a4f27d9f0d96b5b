"""A worker: has jobs carried out, for as long as the process lives.

An entry of the queue has it work until the entry's job has ended. What it works on goes by turns: a chunk of
the oldest job of each account, so that nobody waits for all the jobs of another. It has connections of its
own, and takes others when they are lost. Whatever happens to it, a job that it leaves is taken up again: its
entry when the heartbeat stops, the job itself when its entry is lost.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from datetime import timedelta

from pgqueuer.core.qm import QueueManager
from pgqueuer.domain.errors import RetryRequested
from pgqueuer.domain.models import Job

from upsert_svc.db.pools import Pool, connected, listening
from upsert_svc.definitions.compiled import Definitions
from upsert_svc.errors import ServiceUnavailable, is_unavailable
from upsert_svc.jobs import job_queue
from upsert_svc.jobs.job_queue import ENTRYPOINT, Entry
from upsert_svc.jobs.job_runner import JobRunner, Progress
from upsert_svc.settings import Settings

JOBS_AT_A_TIME = 2
LOCK_TIMEOUT_SECONDS = 1.0
_HEARTBEAT = timedelta(seconds=3)  # after so long without one a job is taken up by another worker
_POLL = timedelta(seconds=2)  # what is put into the queue is notified at once; what a worker left is not
_RECONNECT_SECONDS = 1.0
_STOP_SECONDS = 3.0
_SHORTLY = timedelta(seconds=1)
_log = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def running(settings: Settings, url: str, definitions: Definitions) -> AsyncIterator[None]:
    """A worker in this process, for as long as the block lasts."""
    worker = _Worker(settings, url, definitions)
    task = asyncio.create_task(worker.run())
    try:
        yield
    finally:
        worker.stop()
        await asyncio.wait([task], timeout=_STOP_SECONDS)
        task.cancel()
        await asyncio.wait([task])


async def work(settings: Settings, url: str, is_stopped: asyncio.Event) -> None:
    """Works without answering requests, until the event."""
    async with connected(settings, url) as database, running(settings, url, Definitions(database.lookups)):
        await is_stopped.wait()


class _Turns:
    """Which job a worker carries on next, and those that it is at."""

    def __init__(self) -> None:
        self._last_account_id = 0
        self._under_way: set[Entry] = set()
        self._aside: dict[Entry, float] = {}  # until when
        self._choosing = asyncio.Lock()

    async def take(self, runner: JobRunner, entry: Entry) -> Entry | None:
        """The next job in turn, which is then under way; None when that of the entry has ended.

        Raises RetryRequested when there is none but those under way and put aside.
        """
        async with self._choosing:
            now = time.monotonic()
            self._aside = {job: until for job, until in self._aside.items() if until > now}
            is_unfinished, job = await runner.next_in_turn(
                entry, self._last_account_id, self._under_way, self._aside
            )
            if not is_unfinished:
                return None
            if job is None:
                raise RetryRequested(_SHORTLY)
            self._under_way.add(job)
            self._last_account_id = job.account_id
            return job

    def end(self, job: Entry) -> None:
        """Has a job be under way no more."""
        self._under_way.remove(job)

    def put_aside(self, job: Entry) -> None:
        """Has a job passed over for a moment."""
        self._aside[job] = time.monotonic() + _SHORTLY.total_seconds()


class _Worker:
    def __init__(self, settings: Settings, url: str, definitions: Definitions) -> None:
        self._settings = settings
        self._url = url
        self._definitions = definitions
        self._is_stopping = asyncio.Event()
        self._manager: QueueManager | None = None
        self._turns = _Turns()

    def stop(self) -> None:
        """Has `run` return soon; jobs under way are put back after their chunk."""
        self._is_stopping.set()
        if self._manager is not None:
            self._manager.shutdown.set()

    async def run(self) -> None:
        """Works until it is stopped, through the loss of the database."""
        while not self._is_stopping.is_set():
            try:
                await self._run_connected()
            except Exception as error:
                if not is_unavailable(error):
                    _log.exception("the worker was lost and begins anew")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_stopping.wait(), _RECONNECT_SECONDS)

    async def _run_connected(self) -> None:
        pool = Pool(
            self._url, self._settings, size=JOBS_AT_A_TIME + 1, lock_timeout_seconds=LOCK_TIMEOUT_SECONDS
        )
        async with listening(self._settings, self._url) as connection, pool:
            runner = JobRunner(pool, self._definitions)
            manager = self._manager = job_queue.manager(connection)

            async def carry_out(job: Job) -> None:
                await self._carry_out(runner, job_queue.entry_of(job.payload))

            manager.entrypoint(ENTRYPOINT, accepts_context=False)(carry_out)
            if self._is_stopping.is_set():
                return
            requeuing = asyncio.create_task(self._requeue_stalled(runner))
            try:
                await manager.run(
                    dequeue_timeout=_POLL,
                    batch_size=1,
                    max_concurrent_tasks=JOBS_AT_A_TIME,
                    shutdown_on_listener_failure=True,
                    heartbeat_timeout=_HEARTBEAT,
                    log_aggregation_interval=timedelta(0),
                )
            finally:
                requeuing.cancel()
                await asyncio.wait([requeuing])

    async def _carry_out(self, runner: JobRunner, entry: Entry) -> None:
        """Works until the entry's job has ended. Raises RetryRequested to have the entry taken up again."""
        try:
            while (job := await self._turns.take(runner, entry)) is not None:
                try:
                    await self._carry_on(runner, job)
                finally:
                    self._turns.end(job)
                if self._is_stopping.is_set():
                    raise RetryRequested
        except ServiceUnavailable as error:
            raise RetryRequested(_SHORTLY) from error

    async def _carry_on(self, runner: JobRunner, job: Entry) -> None:
        """Carries a job on by a chunk, or puts it aside for a moment where that fails."""
        try:
            is_to_wait = await runner.step(job) is Progress.TAKEN
        except ServiceUnavailable:
            is_to_wait = True
        except Exception:
            is_to_wait = not await _is_given_up(runner, job)
        if is_to_wait:
            self._turns.put_aside(job)

    async def _requeue_stalled(self, runner: JobRunner) -> None:
        while True:
            await asyncio.sleep(_HEARTBEAT.total_seconds())
            try:
                await runner.requeue_stalled()
            except ServiceUnavailable:
                pass  # the queue's own connection will tell
            except Exception:
                _log.exception("jobs could not be looked after")


async def _is_given_up(runner: JobRunner, entry: Entry) -> bool:
    _log.exception("job %s failed", entry.job_id)
    try:
        return await runner.give_up(entry)
    except ServiceUnavailable:
        return False
