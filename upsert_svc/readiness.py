"""Whether the service can do its work: read and write, just now."""

import asyncio
import time

from upsert_svc.db import statements
from upsert_svc.db.pools import Pool
from upsert_svc.errors import ServiceError, ServiceUnavailable

INTERVAL_SECONDS = 1.0  # between two looks, however many ask
WAIT_SECONDS = 2.0  # for a look, before the answer is no
_SQL = statements.load("readiness")
_REASONS = {
    "25006": "The database is read-only",
    "53100": "The disk of the database is full",
    "53300": "The database has no connection left",
    "57P03": "The database is starting up or going down",
}


class Readiness:
    """Looks by writing. One look serves all who ask within a second; nobody waits for it over two seconds."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._begun = 0.0
        self._look: asyncio.Task[str | None] | None = None

    async def check(self) -> None:
        """Raises ServiceUnavailable, whose description says what is wrong."""
        now = time.monotonic()
        if self._look is None or (self._look.done() and now - self._begun >= INTERVAL_SECONDS):
            self._begun, self._look = now, asyncio.create_task(self._write())
        done, _ = await asyncio.wait({self._look}, timeout=max(0.0, self._begun + WAIT_SECONDS - now))
        if not done:
            raise ServiceUnavailable(f"The database did not take a write within {WAIT_SECONDS:g} seconds")
        if (reason := self._look.result()) is not None:
            raise ServiceUnavailable(reason)

    async def _write(self) -> str | None:
        """What is wrong; None when a write was committed."""
        try:
            async with self._pool.connection() as connection:
                await connection.execute(*_SQL.write())
        except Exception as error:
            sqlstate = getattr(error.__cause__ or error, "sqlstate", None)
            other = str(error) if isinstance(error, ServiceError) else f"A write failed ({sqlstate})"
            return _REASONS.get(sqlstate or "", other)
        return None
