"""What the log says of a database that goes away and comes back: a line each, whoever notices first."""

import logging
import time

from upsert_svc.mistakes import first_line

QUIET_SECONDS = 10.0  # after a line on its loss, where connections come and go
_log = logging.getLogger(__name__)


class Outages:
    """Whether the database is out of reach, as the connections of this process see it."""

    def __init__(self, quiet_seconds: float = QUIET_SECONDS) -> None:
        self._quiet_seconds = quiet_seconds
        self._since: float | None = None
        self._told_at = -quiet_seconds

    def begin(self, error: BaseException) -> None:
        """A connection could not be made."""
        now = time.monotonic()
        if self._since is None and now - self._told_at >= self._quiet_seconds:
            self._since = self._told_at = now
            _log.warning(
                "The database is out of reach: %s", first_line(error) or "it does not answer in time"
            )

    def end(self) -> None:
        """A connection was made."""
        if self._since is not None:
            _log.warning("The database is back after %.1f s", time.monotonic() - self._since)
            self._since = None


outages = Outages()  # of the one database that a process has


def _is_other(record: logging.LogRecord) -> bool:
    """Whether a pool's warning is another one than that it cannot connect, which it says again and again."""
    if record.exc_info and record.exc_info[1] is not None:
        outages.begin(record.exc_info[1])
        return False
    return True


logging.getLogger("asyncpg.pool").addFilter(_is_other)
