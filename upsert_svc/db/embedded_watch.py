"""Starts the embedded server again whenever it has ended, for as long as a process serves on it.

A crash, `kill -9`, the kernel's want of memory, a full disk: after each of them PostgreSQL has every
committed row, and needs only to be started. Every process that serves watches; one at a time starts.
"""

import logging
import os
import shutil
import signal
import sys
import threading
import time

from upsert_svc.db.embedded_cluster import find_postgres
from upsert_svc.db.embedded_home import EmbeddedError, Home, Stopped

POLL_SECONDS = 0.1 if sys.platform == "linux" else 0.5  # elsewhere a look is a process
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 5.0
GIVE_UP_SECONDS = 120.0  # of failing with room on the disk
ROOM_BYTES = 64 << 20  # with less the disk counts as full: a segment of WAL has 16 MB
_log = logging.getLogger(__name__)


class Watch:
    """A thread that starts a server again, with pauses between failures of 0.1 s to 5 s.

    While the disk is full it never gives up, and tries at once when there is room. Otherwise it does after
    120 s of failures: then `failure` says why, and the process gets a SIGTERM.
    """

    def __init__(self, home: Home, *, durable: bool) -> None:
        self.failure: EmbeddedError | None = None
        self._home = home
        self._durable = durable
        self._thread = threading.Thread(target=self._run, name="watch of the embedded server", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Watch no more; a start that is under way is let go of."""
        self._home.stopping.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._home.stopping.wait(POLL_SECONDS):
                if not _lives(self._home):
                    self._bring_back()
        except Stopped:
            pass
        except EmbeddedError as error:
            self.failure = error
            _log.critical("The embedded server cannot be brought back; the process ends")
            os.kill(os.getpid(), signal.SIGTERM)

    def _bring_back(self) -> None:
        _log.warning("The embedded server has ended and is started again (%s)", self._home.log)
        begun, failing_since, told, pause = time.monotonic(), None, "", FIRST_PAUSE_SECONDS
        while (failure := self._attempt()) is not None:
            free_bytes = self._free_bytes()
            if free_bytes < ROOM_BYTES:
                failing_since = None
            elif failing_since is None:
                failing_since = time.monotonic()
            elif time.monotonic() - failing_since > GIVE_UP_SECONDS:
                raise failure
            if (what := str(failure).split("\n", 1)[0]) != told:
                _log.warning("The embedded server does not start, which is tried again: %s", failure)
                told = what
            self._pause(pause, free_bytes)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        _log.warning("The embedded server runs again after %.1f s", time.monotonic() - begun)

    def _attempt(self) -> EmbeddedError | None:
        """What kept the server from running; None when it runs. Raises Stopped."""
        try:
            with self._home.turn_on_what_is_there():
                find_postgres(self._home).run(self._durable)
        except EmbeddedError as error:
            # a recovery that takes its time is no failure
            return None if _lives(self._home) else error
        return None

    def _pause(self, seconds: float, free_bytes: int) -> None:
        """Wait before the next attempt, not longer than until there is room on a disk that had none."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._home.stopping.wait(min(left, POLL_SECONDS)):
                raise Stopped
            if free_bytes < ROOM_BYTES <= self._free_bytes():
                return

    def _free_bytes(self) -> int:
        try:
            return shutil.disk_usage(self._home.pgdata).free
        except OSError:  # it is gone, which no room will mend
            return ROOM_BYTES


def _lives(home: Home) -> bool:
    try:
        return home.server_pid() is not None
    except OSError:  # it cannot be told without its directory
        return False
