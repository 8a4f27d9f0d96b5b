"""The log of a process: a line for each request on the standard output, all else on the standard error.

Every line says when. What a caller sent can neither end a line nor begin one.
"""

import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any

REQUESTS = "upsert_svc.requests"
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def configure() -> None:
    """Sets up the log of this process; each that serves or works does so.

    Warnings and what is worse are written, those of libraries too, and the lines of requests.
    """
    others = _Handler(sys.stderr)
    others.setFormatter(_Lines("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[others], force=True)
    requests = logging.getLogger(REQUESTS)
    requests.handlers = [_Handler(sys.stdout)]
    requests.setLevel(logging.INFO)
    requests.propagate = False


def now() -> str:
    """The time as the log says it: ISO 8601, UTC, by the millisecond."""
    return _said(datetime.now(UTC))


def _said(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Notice:
    """A warning that is logged at once, and then with how often there was cause since, after a pause each.

    The times are of any clock: the caller's.
    """

    def __init__(self, log: logging.Logger, message: str, pause: float) -> None:
        self._log = log
        self._message = message
        self._pause = pause
        self._count = 0
        self._quiet_until = 0.0

    def add(self, now: float) -> None:
        self._count += 1
        self.flush(now)

    def flush(self, now: float) -> None:
        if self._count and now >= self._quiet_until:
            self._log.warning(f"{self._message} (since the last such line)", self._count)
            self._count = 0
            self._quiet_until = now + self._pause


class _Handler(logging.StreamHandler[Any]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Whoever read the log has gone: the service goes on without."""


class _Lines(logging.Formatter):
    """A line for each message, its control characters escaped; a traceback in lines of its own, set in."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        return _said(datetime.fromtimestamp(record.created, UTC))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        record.message = _escaped(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return _set_in(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802
        return _set_in(super().formatStack(stack_info))


def _set_in(text: str) -> str:
    return "\n".join(f"  {_escaped(line)}" for line in text.split("\n"))


def _escaped(text: str) -> str:
    return _CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
