"""A worker: takes jobs off the queue and has them carried out, for as long as the process lives.

It has connections of its own, and takes others when they are lost. Whatever happens to it, a job that it
leaves is taken up again: its entry when the heartbeat stops, the job itself when its entry is lost.
"""

import asyncio
import contextlib
import logging
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


class _Worker:
    def __init__(self, settings: Settings, url: str, definitions: Definitions) -> None:
        self._settings = settings
        self._url = url
        self._definitions = definitions
        self._is_stopping = asyncio.Event()
        self._manager: QueueManager | None = None

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
        """Carries a job to its end. Raises RetryRequested to have it taken up again."""
        try:
            while (progress := await runner.step(entry)) is Progress.WORKING:
                if self._is_stopping.is_set():
                    raise RetryRequested
        except RetryRequested:
            raise
        except Exception as error:
            if isinstance(error, ServiceUnavailable) or not await _is_given_up(runner, entry):
                raise RetryRequested(_SHORTLY) from error
        else:
            if progress is Progress.TAKEN:
                raise RetryRequested(_SHORTLY)

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
