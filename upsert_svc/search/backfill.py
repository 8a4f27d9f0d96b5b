"""The backfill: makes the search documents of objects that were searched, in the background.

Works in small transactions, one process at an object, so that writers wait for milliseconds at most. Until
it is through, searches read the records.
"""

from upsert_svc import background
from upsert_svc.db import statements
from upsert_svc.db.pools import Connections

BATCH = 200
_IDLE_SECONDS = 1.0
_SQL = statements.load("searches")
_OBJECTS_SQL = statements.load("objects")


async def run(pool: Connections) -> None:
    """Makes documents for ever."""
    await background.repeat("backfill", _begin_or_step, pool, batch=BATCH, idle_seconds=_IDLE_SECONDS)


async def _begin_or_step(pool: Connections, batch: int) -> bool:
    return await begin(pool) or await step(pool, batch)


async def begin(pool: Connections) -> bool:
    """Has writers make the documents of one object for which they are requested; False when there is none."""
    async with pool.transaction() as connection:
        requested = await connection.fetchrow(*_SQL.claim_requested())
        if requested is None:
            return False
        ids = {"account_id": requested["account_id"], "object_id": requested["object_id"]}
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
