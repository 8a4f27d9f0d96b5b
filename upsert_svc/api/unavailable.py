"""The requests that were told 503, as the log says it: a line for each reason, once a minute at most."""

import asyncio
import logging
import math

from upsert_svc.errors import ServiceUnavailable
from upsert_svc.logs import Notice

QUIET_SECONDS = 60.0
_REASONS = 50  # that are told apart
_OTHER = "for other reasons"
_log = logging.getLogger(__name__)


class Unavailable:
    """Counts by reason: each bound has its own words, which the caller is told as well."""

    def __init__(self, quiet_seconds: float = QUIET_SECONDS) -> None:
        self._quiet_seconds = quiet_seconds
        self._notices: dict[str, Notice] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, error: ServiceUnavailable) -> None:
        loop = asyncio.get_running_loop()
        self._notice(str(error)).add(loop.time())
        if self._timer is None:
            self._timer = loop.call_later(self._quiet_seconds, self._flush, None)

    def _notice(self, reason: str) -> Notice:
        if reason not in self._notices:
            reason = reason if len(self._notices) < _REASONS else _OTHER
        if (notice := self._notices.get(reason)) is None:
            message = f"Requests were told 503 ({reason.replace('%', '%%')}): %d"
            notice = self._notices[reason] = Notice(_log, message, self._quiet_seconds)
        return notice

    def end(self) -> None:
        """Logs what was counted since the last lines."""
        if self._timer is not None:
            self._timer.cancel()
        self._flush(math.inf)

    def _flush(self, now: float | None) -> None:
        self._timer = None
        for notice in self._notices.values():
            notice.flush(asyncio.get_running_loop().time() if now is None else now)
