"""The core in one piece: what the endpoints call, put together on a connected database."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from upsert_svc import idempotency
from upsert_svc.auth import Authenticator
from upsert_svc.changes import Changes
from upsert_svc.coalesce import Direct, Gatherer, Writer
from upsert_svc.database import Connection, Database
from upsert_svc.idempotency import Answer, IdempotentRequest
from upsert_svc.jobs import Jobs
from upsert_svc.listing import Cursors
from upsert_svc.object_fields import ObjectFields
from upsert_svc.object_types import ObjectTypes
from upsert_svc.objects import Objects
from upsert_svc.pages import Pages
from upsert_svc.reads import Reader
from upsert_svc.records import Records
from upsert_svc.settings import Settings


@dataclass(frozen=True)
class Service:
    """What the endpoints call."""

    settings: Settings
    database: Database
    authenticate: Authenticator
    cursors: Cursors
    object_types: ObjectTypes
    objects: Objects
    object_fields: ObjectFields
    records: Records
    pages: Pages
    changes: Changes
    jobs: Jobs
    reader: Reader
    gatherer: Gatherer

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

        return await self.database.keyed.retrying(operation)

    def _pinned(self, connection: Connection) -> "Service":
        """The same core, whose writes take part in the transaction of a connection."""
        return _assembled(
            self.database.pinned(connection),
            Direct(connection),
            settings=self.settings,
            authenticate=self.authenticate,
            cursors=self.cursors,
            object_types=self.object_types,
            reader=self.reader,
            gatherer=self.gatherer,
        )


def composed(settings: Settings, database: Database, cursor_key: bytes) -> Service:
    """The service on a connected database; its gatherer is still to be started."""
    gatherer = Gatherer(
        database.lanes, database.records, lane_count=settings.lanes, queue_limit=settings.write_queue
    )
    return _assembled(
        database,
        gatherer,
        settings=settings,
        authenticate=Authenticator(database.lookups, ttl_seconds=settings.token_ttl_seconds),
        cursors=Cursors(cursor_key),
        object_types=ObjectTypes(database.lookups),
        reader=Reader(database.records),
        gatherer=gatherer,
    )


def _assembled(
    database: Database,
    writer: Writer,
    *,
    settings: Settings,
    authenticate: Authenticator,
    cursors: Cursors,
    object_types: ObjectTypes,
    reader: Reader,
    gatherer: Gatherer,
) -> Service:
    records = Records(database, object_types, writer, reader)
    return Service(
        settings=settings,
        database=database,
        authenticate=authenticate,
        cursors=cursors,
        object_types=object_types,
        objects=Objects(
            database, object_types, object_limit=settings.object_limit, record_limit=settings.record_limit
        ),
        object_fields=ObjectFields(database, object_types, field_limit=settings.field_limit),
        records=records,
        pages=Pages(database, object_types),
        changes=Changes(database.records, object_types, records),
        jobs=Jobs(database, object_types, job_limit=settings.job_limit),
        reader=reader,
        gatherer=gatherer,
    )
