"""A watchdog over the event loop: how long it was held, and by what. Nobody is served meanwhile.

Refuses nothing. It says so in the log, at most once in ten seconds, and keeps the longest hold.
"""

import asyncio
import logging
import sys
import threading
import time
from pathlib import Path
from types import FrameType

LIMIT_SECONDS = 0.25  # of a hold that is told
INTERVAL_SECONDS = 0.05
QUIET_SECONDS = 10.0  # from one line in the log to the next
_PLACES = 4  # of the code that held the loop, the innermost first
_PACKAGE = Path(__file__).parent
_log = logging.getLogger(__name__)


class Watchdog:
    """Watches the loop that it runs in. `longest_hold_seconds` is of all its time."""

    def __init__(self, limit_seconds: float = LIMIT_SECONDS, quiet_seconds: float = QUIET_SECONDS) -> None:
        self._limit_seconds = limit_seconds
        self._quiet_seconds = quiet_seconds
        self._beat = 0.0  # when the loop was seen to turn
        self._places = ""  # where it stood when the limit was over
        self._cpu_seconds = 0.0  # of the loop's thread
        self._untold = (0.0, 0.0, "")
        self._told_at = -quiet_seconds
        self._is_stopped = threading.Event()
        self.longest_hold_seconds = 0.0

    async def run(self) -> None:
        """Watches until it is cancelled."""
        self._beat, self._cpu_seconds = time.monotonic(), time.thread_time()
        thread = threading.Thread(
            target=self._look, args=(threading.get_ident(),), name="watchdog", daemon=True
        )
        thread.start()
        try:
            while True:
                await asyncio.sleep(INTERVAL_SECONDS)
                self._note(time.monotonic(), time.thread_time())
        finally:
            self._is_stopped.set()

    def _note(self, now: float, cpu_seconds: float) -> None:
        hold, computed, places = (
            now - self._beat - INTERVAL_SECONDS,
            cpu_seconds - self._cpu_seconds,
            self._places,
        )
        self._beat, self._cpu_seconds, self._places = now, cpu_seconds, ""
        self.longest_hold_seconds = max(self.longest_hold_seconds, hold)
        if hold > self._limit_seconds:
            self._untold = max(self._untold, (hold, computed, places))
        if self._untold[0] and now - self._told_at >= self._quiet_seconds:
            self._tell(*self._untold)
            self._untold, self._told_at = (0.0, 0.0, ""), now

    def _tell(self, hold: float, computed: float, places: str) -> None:
        """Where the loop computed for much less time than it was held, the machine had no time for it."""
        where = f", in {places}" if places else ""
        _log.warning("the event loop was held for %d ms, computing %d%s", hold * 1000, computed * 1000, where)

    def _look(self, thread_id: int) -> None:
        """Looks at the loop from a thread of its own, for where it stands when it does not turn."""
        while not self._is_stopped.wait(INTERVAL_SECONDS):
            is_late = time.monotonic() - self._beat - INTERVAL_SECONDS > self._limit_seconds
            if is_late and not self._places:
                self._places = places_of(sys._current_frames().get(thread_id))


def places_of(frame: FrameType | None, folder: Path = _PACKAGE) -> str:
    """The innermost calls of code in the folder, by file and line; never what they are called with."""
    places: list[str] = []
    while frame is not None and len(places) < _PLACES:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(folder):
            places.append(f"{path.relative_to(folder)}:{frame.f_lineno} ({frame.f_code.co_name})")
        frame = frame.f_back
    return ", called by ".join(places)
