"""Work in the background: a step again and again, with pauses, through failures."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from upsert_svc.db.pools import Connections
from upsert_svc.errors import ServiceError

Step = Callable[[Connections, int], Awaitable[bool]]  # does at most so much; whether there may be more to do
_log = logging.getLogger(__name__)


async def repeat(what: str, step: Step, pool: Connections, *, batch: int, idle_seconds: float) -> None:
    """Takes the step for ever; pauses when there is nothing to do, and takes less at once after a failure."""
    size = batch
    while True:
        try:
            is_busy = await step(pool, size)
            size = batch
        except ServiceError:
            is_busy, size = False, max(1, size // 2)
        except Exception:
            _log.exception("the %s failed and goes on later", what)
            is_busy = False
        if not is_busy:
            await asyncio.sleep(idle_seconds)
