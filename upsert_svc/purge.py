"""The background purge: frees records of what definitions removed, deleted objects of their records, and
forgets what has had its time.

Works in small transactions, one process at an object, so that writers wait for milliseconds at most.
"""

from upsert_svc import background
from upsert_svc.db import statements
from upsert_svc.db.pools import Connection, Connections, Row

BATCH = 500
_ANSWERS = 5000
_NOTES = 5000
_HISTORY = 1000  # changes of one record
_IDLE_SECONDS = 5.0
_SQL = statements.load("purge")


async def run(pool: Connections) -> None:
    """Purges for ever."""
    await background.repeat("purge", step, pool, batch=BATCH, idle_seconds=_IDLE_SECONDS)


async def step(pool: Connections, batch: int = BATCH) -> bool:
    """Purges one batch of records in one transaction, or forgets some; False when there was nothing to do."""
    async with pool.transaction() as connection:
        claimed = await connection.fetchrow(*_SQL.claim())
        if claimed is not None:
            await _purge(connection, claimed, batch)
            return True
    async with pool.connection() as connection:
        return await _forget(connection, batch)


async def _forget(connection: Connection, batch: int) -> bool:
    """Whether there may be more to forget. Each statement is a transaction: none keeps another from it."""
    forgotten = [
        await connection.execute(*_SQL.forget_jobs(limit=batch)) == f"DELETE {batch}",
        await connection.execute(*_SQL.forget_queue_log(limit=_NOTES)) == f"DELETE {_NOTES}",
        await connection.execute(*_SQL.forget_answers(limit=_ANSWERS)) == f"DELETE {_ANSWERS}",
        await connection.fetchval(*_SQL.forget_tombstones(limit=batch, depth_limit=_HISTORY)),
    ]
    return any(forgotten)


async def _purge(connection: Connection, claimed: Row, batch: int) -> None:
    account = {"account_id": claimed["account_id"]}
    ids = {**account, "object_id": claimed["object_id"]}
    part = {**ids, "purged_to": claimed["purged_to"], "limit": batch}
    if claimed["deleted_at"] is not None:
        last_id = await connection.fetchval(*_SQL.delete_records(**part))
        finish = _SQL.finish_object
        if last_id is None and await connection.fetchval(*_SQL.delete_history(**ids, limit=batch)) > 0:
            return
    else:
        removals = claimed["removals"]
        if await connection.fetchval(*_SQL.forget_lookups(**account, removals=removals, limit=batch)) > 0:
            return
        removed = {"version": claimed["version"], "removals": removals}
        last_id = await connection.fetchval(*_SQL.strip_removed(**part, **removed))
        finish = _SQL.finish_removals
    if last_id is None:
        await connection.execute(*finish(**ids))
    else:
        await connection.execute(*_SQL.move_on(**ids, purged_to=last_id))
