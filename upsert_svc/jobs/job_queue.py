"""The queue of bulk jobs: pgqueuer's tables, in a schema of their own, and what is put into them.

An entry holds the ids of a job and no more. It is put into the queue in the transaction that makes the job.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson
from pgqueuer.adapters.drivers.asyncpg import AsyncpgDriver
from pgqueuer.adapters.persistence.qb import QueryBuilderEnvironment, QueryQueueBuilder, QuerySchedulerBuilder
from pgqueuer.adapters.persistence.queries import Queries
from pgqueuer.core.qm import QueueManager
from pgqueuer.domain.settings import DBSettings, Durability
from pgqueuer.domain.types import Channel

from upsert_svc.db.pools import SERVICE_ROLE, Connection

ENTRYPOINT = "jobs"
SCHEMA = "pgqueuer"
# All of them, or the library would take what is left out from the environment, under names such as CHANNEL.
_SETTINGS = DBSettings(
    prefix="",
    db_schema=SCHEMA,
    channel=Channel("pgqueuer"),
    function="notify_of_change",
    statistics_table="statistics",
    queue_status_type="status",
    queue_table="queue",
    queue_table_log="log",
    trigger="notify_of_change",
    schedules_table="schedules",
    durability=Durability.durable,
    widen_id=True,
)
_GRANTS = f"""
grant usage on schema {SCHEMA} to {SERVICE_ROLE};
grant select, insert, update, delete on all tables in schema {SCHEMA} to {SERVICE_ROLE};
grant usage on all sequences in schema {SCHEMA} to {SERVICE_ROLE};
"""


class Entry(NamedTuple):
    """What the queue knows of a job."""

    account_id: int
    job_id: str


def queries(connection: Connection) -> Queries:
    """The library's statements on a connection of ours."""
    driver = AsyncpgDriver(connection)
    return Queries(
        driver,
        qbe=QueryBuilderEnvironment(_SETTINGS),
        qbq=QueryQueueBuilder(_SETTINGS),
        qbs=QuerySchedulerBuilder(_SETTINGS),
    )


def manager(connection: Connection) -> QueueManager:
    """What takes entries off the queue, over one connection that it has to itself."""
    return QueueManager(queries(connection), channel=_SETTINGS.channel)


async def put(connection: Connection, entries: Sequence[Entry]) -> None:
    """Puts jobs into the queue, in the connection's transaction; those that are in it stay as they are."""
    if entries:
        await queries(connection).enqueue(
            [ENTRYPOINT] * len(entries),
            [orjson.dumps([entry.account_id, entry.job_id]) for entry in entries],
            [0] * len(entries),
            dedupe_key=[f"{entry.account_id} {entry.job_id}" for entry in entries],
            on_conflict="skip",
        )


def entry_of(payload: bytes | None) -> Entry:
    """The entry of a payload that `put` made."""
    fields: Any = orjson.loads(payload or b"")
    return Entry(*fields)


async def install(connection: Connection) -> None:
    """Makes the queue where it is missing, for the service's role. One process at a time."""
    library = queries(connection)
    if not await library.schema_is_installed():
        await library.install()
    await connection.execute(_GRANTS)


async def is_old(connection: Connection) -> bool:
    """Whether another version of the library made the queue."""
    return bool((await queries(connection).plan_upgrade()).statements)


async def upgrade(connection: Connection) -> None:
    """Brings the queue to the library's version, a transaction a statement. One process at a time."""
    await queries(connection).upgrade()
    await connection.execute(_GRANTS)
