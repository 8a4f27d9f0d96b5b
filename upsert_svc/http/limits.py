"""What a worker process takes from its clients at a time, within the files that it may open."""

import contextlib
import logging
import resource
from dataclasses import dataclass

from upsert_svc.settings import Settings

BACKLOG = 512  # connections that wait to be accepted, and so may come at once
LINGERING_CONNECTIONS = 100  # refused ones that stay open for a moment, so that the refusal arrives
STATE = "http_limits"  # the name of the Limits in the application's state
_FILES = 65_536  # asked of the system at most
_FILES_OF_OUR_OWN = 64

_log = logging.getLogger("upsert_svc.http")


@dataclass(frozen=True)
class Limits:
    """Bounds of one worker process: connections, requests under way, seconds to take an answer."""

    connections: int = 1000
    requests: int = 1000
    write_timeout_seconds: float = 10.0


def of(settings: Settings) -> Limits:
    """What is set; fewer connections where the process may not open as many files.

    Raises the number of files that may be open as far as the system lets it.
    """
    files = _files()
    room = max(files - _reserve(settings), files // 4)
    if room < settings.connection_limit:
        _log.warning("%d files may be open: at most %d connections are taken", files, room)
    connections = min(settings.connection_limit, room)
    return Limits(connections, settings.request_limit, settings.write_timeout_seconds)


def _files() -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # some systems allow less than they say
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return wanted
    return _FILES if soft == resource.RLIM_INFINITY else soft


def _reserve(settings: Settings) -> int:
    """Files that are no connections of clients: the database's, and what comes before it can be refused."""
    database = 2 * settings.pool_size + settings.batch_connections
    return BACKLOG + LINGERING_CONNECTIONS + database + _FILES_OF_OUR_OWN
