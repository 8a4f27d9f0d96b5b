"""The core in one piece: what the endpoints call, put together on a connected database."""

from dataclasses import dataclass

from upsert_svc.auth import Authenticator
from upsert_svc.coalesce import Gatherer
from upsert_svc.database import Database
from upsert_svc.listing import Cursors
from upsert_svc.object_fields import ObjectFields
from upsert_svc.object_types import ObjectTypes
from upsert_svc.objects import Objects
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
    objects: Objects
    object_fields: ObjectFields
    records: Records
    gatherer: Gatherer


def composed(settings: Settings, database: Database, cursor_key: bytes) -> Service:
    """The service on a connected database; its gatherer is still to be started."""
    object_types = ObjectTypes(database.lookups)
    gatherer = Gatherer(
        database.lanes, database.records, lane_count=settings.lanes, queue_limit=settings.write_queue
    )
    return Service(
        settings=settings,
        database=database,
        authenticate=Authenticator(database.lookups, ttl_seconds=settings.token_ttl_seconds),
        cursors=Cursors(cursor_key),
        objects=Objects(
            database, object_types, object_limit=settings.object_limit, record_limit=settings.record_limit
        ),
        object_fields=ObjectFields(database, object_types, field_limit=settings.field_limit),
        records=Records(database, object_types, gatherer, Reader(database.records)),
        gatherer=gatherer,
    )
