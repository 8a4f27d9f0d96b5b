"""The core in one piece: what the endpoints call, put together on a connected database."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from upsert_svc import idempotency
from upsert_svc.accounts.auth import Authenticator
from upsert_svc.db.pools import Connection, Database
from upsert_svc.definitions.compiled import Definitions
from upsert_svc.definitions.fields import ObjectFields
from upsert_svc.definitions.objects import Objects
from upsert_svc.heavy_work import HeavyWork
from upsert_svc.idempotency import Answer, IdempotentRequest
from upsert_svc.jobs.job_store import Jobs
from upsert_svc.memory import Memory
from upsert_svc.paging import Cursors
from upsert_svc.records.history import History
from upsert_svc.records.read_batching import ReadBatcher
from upsert_svc.records.record_store import Records
from upsert_svc.records.write_batching import Direct, WriteBatcher, Writer
from upsert_svc.search.planner import Search
from upsert_svc.search.relationships import Relationships
from upsert_svc.settings import Settings

Result = TypeVar("Result")


@dataclass(frozen=True)
class Service:
    """What the endpoints call."""

    settings: Settings
    database: Database
    authenticate: Authenticator
    cursors: Cursors
    definitions: Definitions
    objects: Objects
    object_fields: ObjectFields
    records: Records
    search: Search
    relationships: Relationships
    history: History
    jobs: Jobs
    reader: ReadBatcher
    write_batcher: WriteBatcher
    memory: Memory
    heavy_work: HeavyWork

    async def once(
        self, request: IdempotentRequest, perform: Callable[["Service"], Awaitable[Answer]]
    ) -> tuple[Answer, bool]:
        """The answer to a request of an idempotency key, and whether it had been given before.

        What it writes and its answer are committed together. Raises whatever `perform` raises, and then
        nothing is written or kept; Conflict while its twin is under way, IdempotentRequestError for a key
        that belongs to another request.
        """

        async def operation(connection: Connection) -> tuple[Answer, bool]:
            async with connection.transaction():
                if (kept := await idempotency.claim(connection, request)) is not None:
                    return kept, True
                answer = await perform(self._pinned(connection))
                await idempotency.keep(connection, request, answer)
                return answer, False

        return await self.database.idempotent.retrying(operation)

    async def tried(self, perform: Callable[["Service"], Awaitable[Result]]) -> Result:
        """What `perform` returns; nothing that it wrote stays. Raises whatever it raises."""

        async def operation(connection: Connection) -> Result:
            transaction = connection.transaction()
            await transaction.start()
            try:
                return await perform(self._pinned(connection))
            finally:
                await transaction.rollback()

        return await self.database.idempotent.retrying(operation)

    def _pinned(self, connection: Connection) -> "Service":
        """The same core, whose writes take part in the transaction of a connection."""
        return _assembled(
            self.database.pinned(connection),
            Direct(connection, self.write_batcher.lone_writes),
            settings=self.settings,
            authenticate=self.authenticate,
            cursors=self.cursors,
            definitions=self.definitions,
            reader=self.reader,
            write_batcher=self.write_batcher,
            memory=self.memory,
            heavy_work=self.heavy_work,
        )


def compose(settings: Settings, database: Database, cursor_key: bytes) -> Service:
    """The service on a connected database; its write_batcher is still to be started."""
    write_batcher = WriteBatcher(
        database.batches,
        database.main,
        connection_count=settings.batch_connections,
        queue_limit=settings.write_queue,
        wait_seconds=settings.write_wait_seconds,
    )
    return _assembled(
        database,
        write_batcher,
        settings=settings,
        authenticate=Authenticator(database.lookups, ttl_seconds=settings.token_ttl_seconds),
        cursors=Cursors(cursor_key),
        definitions=Definitions(database.lookups),
        reader=ReadBatcher(database.main, wait_seconds=settings.acquire_timeout_seconds),
        write_batcher=write_batcher,
        memory=Memory.of(settings.memory_limit_bytes),
        heavy_work=HeavyWork(),
    )


def _assembled(
    database: Database,
    writer: Writer,
    *,
    settings: Settings,
    authenticate: Authenticator,
    cursors: Cursors,
    definitions: Definitions,
    reader: ReadBatcher,
    write_batcher: WriteBatcher,
    memory: Memory,
    heavy_work: HeavyWork,
) -> Service:
    records = Records(database, definitions, writer, reader, write_batcher.lone_writes)
    return Service(
        settings=settings,
        database=database,
        authenticate=authenticate,
        cursors=cursors,
        definitions=definitions,
        objects=Objects(
            database,
            definitions,
            cursors,
            object_limit=settings.object_limit,
            record_limit=settings.record_limit,
        ),
        object_fields=ObjectFields(database, definitions, cursors, field_limit=settings.field_limit),
        records=records,
        search=Search(database, definitions, cursors),
        relationships=Relationships(database, cursors),
        history=History(database.searches, definitions, records, cursors),
        jobs=Jobs(database, definitions, cursors, job_limit=settings.job_limit),
        reader=reader,
        write_batcher=write_batcher,
        memory=memory,
        heavy_work=heavy_work,
    )
