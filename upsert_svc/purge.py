"""The background purge: frees records of what definitions removed, and deleted objects of their records.

Works in small transactions, one process at an object, so that writers wait for milliseconds at most.
"""

import asyncio
import logging

from upsert_svc import sql
from upsert_svc.database import Connection, Pool
from upsert_svc.errors import ServiceError

BATCH = 500
_IDLE_SECONDS = 5.0
_SQL = sql.load("purge")
_log = logging.getLogger(__name__)


async def run(pool: Pool) -> None:
    """Purges for ever; pauses when there is nothing to do, or no database."""
    while True:
        try:
            is_busy = await step(pool)
        except ServiceError:
            is_busy = False
        except Exception:
            _log.exception("the purge failed and goes on later")
            is_busy = False
        if not is_busy:
            await asyncio.sleep(_IDLE_SECONDS)


async def step(pool: Pool) -> bool:
    """Purges one batch in one transaction; False when there was nothing to purge."""
    async with pool.transaction() as connection:
        claimed = await connection.fetchrow(*_SQL.claim())
        if claimed is None:
            await connection.execute(*_SQL.forget_tombstones())
            return False
        ids = {"account_id": claimed["account_id"], "object_id": claimed["object_id"]}
        if claimed["deleted_at"] is not None:
            await _delete_records(connection, ids)
            return True
        last_id = await connection.fetchval(
            *_SQL.strip_removed(
                **ids,
                version=claimed["version"],
                removals=claimed["removals"],
                purged_to=claimed["purged_to"],
                limit=BATCH,
            )
        )
        if last_id is None:
            await connection.execute(*_SQL.finish_removals(**ids))
        else:
            await connection.execute(*_SQL.move_on(**ids, purged_to=last_id))
        return True


async def _delete_records(connection: Connection, ids: dict[str, int]) -> None:
    if await connection.fetchval(*_SQL.delete_records(**ids, limit=BATCH)) is None:
        await connection.execute(*_SQL.finish_object(**ids))
