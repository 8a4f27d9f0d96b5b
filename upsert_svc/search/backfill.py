"""The background filling: makes the search documents of objects that were searched.

Works in small transactions, one process at an object, so that writers wait for milliseconds at most. Until
it is through, searches read the records.
"""

import asyncio
import logging

from upsert_svc.db import statements
from upsert_svc.db.pools import Connections
from upsert_svc.errors import ServiceError

BATCH = 200
_IDLE_SECONDS = 1.0
_SQL = statements.load("searches")
_OBJECTS_SQL = statements.load("objects")
_log = logging.getLogger(__name__)


async def run(pool: Connections) -> None:
    """Fills for ever; pauses when there is nothing to do, and takes less at once after a failure."""
    batch = BATCH
    while True:
        try:
            is_busy = await begin(pool) or await step(pool, batch)
            batch = BATCH
        except ServiceError:
            is_busy, batch = False, max(1, batch // 2)
        except Exception:
            _log.exception("the filling of search documents failed and goes on later")
            is_busy = False
        if not is_busy:
            await asyncio.sleep(_IDLE_SECONDS)


async def begin(pool: Connections) -> bool:
    """Has writers keep the documents of one object that wants them; False when there is none."""
    async with pool.transaction() as connection:
        wanted = await connection.fetchrow(*_SQL.claim_requested())
        if wanted is None:
            return False
        ids = {"account_id": wanted["account_id"], "object_id": wanted["object_id"]}
        await connection.execute(*_OBJECTS_SQL.lock_definition(**ids))
        await connection.execute(*_SQL.begin(**ids))
        return True


async def step(pool: Connections, batch: int = BATCH) -> bool:
    """Makes one batch of documents in one transaction; False when all are made."""
    async with pool.transaction() as connection:
        claimed = await connection.fetchrow(*_SQL.claim())
        if claimed is None:
            return False
        ids = {"account_id": claimed["account_id"], "object_id": claimed["object_id"]}
        last_id = await connection.fetchval(
            *_SQL.build(
                **ids,
                built_to=claimed["search_built_to"],
                version=claimed["version"],
                searched_since=claimed["searched_since"],
                searched_fields=claimed["searched_fields"],
                removals=claimed["removals"],
                limit=batch,
            )
        )
        if last_id is None:
            await connection.execute(*_SQL.finish(**ids))
        else:
            await connection.execute(*_SQL.move_on(**ids, built_to=last_id))
        return True
