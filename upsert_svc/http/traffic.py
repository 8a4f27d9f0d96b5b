"""What the connections of a process hold together, and the clock that ends those that do not move.

The bounds of one connection are in `connection.py`; what must hold for all of them is counted here.
"""

import asyncio
import contextlib
import logging
import math
import os
import resource
from collections import OrderedDict, deque
from collections.abc import Collection
from typing import Protocol

from upsert_svc import logs
from upsert_svc.http.limits import LINGERING_CONNECTIONS, Limits

TICK_SECONDS = 0.25
READ_BYTES = 64 << 10  # at a time
SMALL_READ_BYTES = 4 << 10  # the same, where RECEIVED_BYTES are held
RECEIVED_BYTES = 16 << 20  # of bodies and waiting requests that are not taken yet
HEAD_BYTES = 16 << 20  # of the request lines and headers that are large
REFUSALS_AT_A_TICK = 50  # told to their callers, who may send the next request at once
REFUSAL_TICKS = 4  # before all are told
TURNS_AT_A_TIME = 4  # uvloop accepts one connection between two of them
UNSENT_BYTES = 32 << 20  # of the answers that clients do not take
LEAST_BYTES_PER_SECOND = 64 << 10  # of an answer that a client must take
_KEPT_IDLE_TICKS = 4  # before a connection that has been of use makes room for another
_STUCK_TICKS = 8  # before a connection whose client takes nothing does
_KNOWN_CREDENTIALS = 10_000
_LOG_TICKS = round(60 / TICK_SECONDS)
_FILES_TICKS = round(5 / TICK_SECONDS)

_log = logging.getLogger("upsert_svc.http")


def ticks(seconds: float) -> int:
    """How many ticks are at least that long."""
    return math.ceil(seconds / TICK_SECONDS) + 1


class Connection(Protocol):
    """What the counts need of a connection."""

    def on_tick(self, tick: int) -> None: ...

    def untaken_bytes(self) -> int:
        """What the client has still to take."""

    def held_bytes(self) -> int:
        """The memory of that: an answer is freed when all of it was sent."""

    def hang_up(self) -> None:
        """Closes it; what is unsent may still arrive."""

    def cut_off(self) -> None:
        """Closes it and frees at once what it holds."""

    def go_on(self) -> None:
        """Takes up some of what has come and is not parsed yet."""

    def refuse(self) -> None:
        """Answers what was refused a moment ago."""

    def refuse_and_close(self) -> None:
        """The same, as the last answer."""


class Notice(logs.Notice):
    """A notice that goes by ticks, once a minute."""

    def __init__(self, message: str) -> None:
        super().__init__(_log, message, _LOG_TICKS)


class Admission:
    """How many requests are under way, and whose.

    A credential is one that was good lately; all others count as one. So nobody gets more by making some up.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._count = 0
        self._shares: dict[int, int] = {}
        self._good: dict[int, None] = {}  # the latest last

    def admit(self, credential: int) -> int | None:
        """Whose share one more request counts to; None where it must be refused.

        Over half of the limit only who has less than an equal share is admitted.
        """
        owner = credential if credential in self._good else 0
        share = self._shares.get(owner, 0)
        if self._count * 2 >= self._limit and (
            self._count >= self._limit or share * (len(self._shares) + 1) >= self._limit
        ):
            return None
        self._count += 1
        self._shares[owner] = share + 1
        return owner

    @property
    def count(self) -> int:
        """How many requests are under way."""
        return self._count

    def release(self, owner: int) -> None:
        """Ends what was admitted."""
        self._count -= 1
        share = self._shares[owner] - 1
        if share:
            self._shares[owner] = share
        else:
            del self._shares[owner]

    def trust(self, credential: int) -> None:
        """Gives a credential that was good a share of its own."""
        if len(self._good) >= _KNOWN_CREDENTIALS:
            del self._good[next(iter(self._good))]
        self._good[credential] = None

    def distrust(self, credential: int) -> None:
        self._good.pop(credential, None)


class _Unsent:
    """How much a client has still to take, since when it has not, and until when it must have."""

    __slots__ = ("held", "moved_at", "size", "until")

    def __init__(self, size: int, held: int, tick: int, timeout_ticks: int) -> None:
        self.size = size
        self.held = held
        self.moved_at = tick
        self.until = tick + timeout_ticks + math.ceil(size / LEAST_BYTES_PER_SECOND / TICK_SECONDS)


class UnsentAnswers:
    """The connections whose clients do not take their answers as fast as they come."""

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout_ticks = ticks(timeout_seconds)
        self._by_connection: dict[Connection, _Unsent] = {}
        self._held = 0
        self._notice = Notice("clients that did not take their answers were cut off: %d")

    def watch(self, connection: Connection, tick: int) -> None:
        """Gives a connection its time; where all hold too much, whoever has not moved for longest goes."""
        if connection in self._by_connection:
            return
        unsent = _Unsent(connection.untaken_bytes(), connection.held_bytes(), tick, self._timeout_ticks)
        self._by_connection[connection] = unsent
        self._held += unsent.held
        while self._held > UNSENT_BYTES:
            every = self._by_connection
            self._cut_off(min(every, key=lambda one: (every[one].moved_at, -every[one].held)), tick)

    def forget(self, connection: Connection) -> None:
        if (unsent := self._by_connection.pop(connection, None)) is not None:
            self._held -= unsent.held

    def make_room(self, tick: int) -> bool:
        """Cuts off whoever has not moved for longest, where that is long enough."""
        slowest = min(self._by_connection.items(), key=lambda item: item[1].moved_at, default=None)
        if slowest is None or tick - slowest[1].moved_at < _STUCK_TICKS:
            return False
        self._cut_off(slowest[0], tick)
        return True

    def on_tick(self, tick: int) -> None:
        """Cuts off who has taken nothing for too long, or too little in all."""
        for connection, unsent in list(self._by_connection.items()):
            size = connection.untaken_bytes()
            if size < unsent.size:
                unsent.size, unsent.moved_at = size, tick
            if tick >= min(unsent.until, unsent.moved_at + self._timeout_ticks):
                self._cut_off(connection, tick)
        self._notice.flush(tick)

    def _cut_off(self, connection: Connection, tick: int) -> None:
        self.forget(connection)
        self._notice.add(tick)
        connection.cut_off()


class Traffic:
    """All connections of a server, and what they share.

    Its clock counts the ticks in which the loop could read. One that comes late is one tick all the same: no
    client pays for time in which the process did not listen.
    """

    def __init__(
        self, limits: Limits, loop: asyncio.AbstractEventLoop, connections: Collection[Connection]
    ) -> None:
        self.tick = 1
        self.is_draining = False  # then every answer is the last of its connection
        self.buffer = bytearray(READ_BYTES)  # what comes is read into it, from one connection after the other
        self.view = memoryview(self.buffer)
        self.small_view = self.view[:SMALL_READ_BYTES]
        self.received_bytes = 0  # and kept, in bodies that are not taken and requests that wait
        self.head_bytes = 0
        self.silent: dict[Connection, int] = {}  # have sent no request, since which tick; the oldest first
        self.kept: dict[Connection, int] = {}  # may send another one
        self.lingering: set[Connection] = set()
        self.admission = Admission(limits.requests)
        self.unsent = UnsentAnswers(limits.write_timeout_seconds)
        self.broken = Notice("requests that were no HTTP, or too large, were refused: %d")
        self.refused = Notice(f"{limits.requests} requests are under way, or a caller's share; told 503: %d")
        self._turned_away = Notice(f"{limits.connections} connections are open; turned away: %d")
        self._made_room = Notice(f"{limits.connections} connections are open; idle ones that were closed: %d")
        self._files = Notice("nearly all files that may be open are open; times seen: %d")
        self._notices = (self.broken, self.refused, self._turned_away, self._made_room, self._files)
        self._limit = limits.connections
        self._loop = loop
        self._connections = connections
        self._is_ticking = False
        self._refused: OrderedDict[Connection, int] = OrderedDict()  # are to be told, since which tick
        self._waiting: deque[Connection] = deque()  # have more to parse
        self._gives_turns = False

    def take_turn(self, connection: Connection) -> None:
        """Has a connection go on, after those that asked before.

        Few do between two looks at the others: a thousand that send what they can keep nobody waiting.
        """
        self._waiting.append(connection)
        if not self._gives_turns:
            self._gives_turns = True
            self._loop.call_soon(self._give_turns)

    def _give_turns(self) -> None:
        for _ in range(min(len(self._waiting), TURNS_AT_A_TIME)):
            self._waiting.popleft().go_on()
        self._gives_turns = bool(self._waiting)
        if self._gives_turns:
            self._loop.call_soon(self._give_turns)

    def refuse_soon(self, connection: Connection) -> None:
        """Has a connection tell at a next tick that its request is refused."""
        self._refused[connection] = self.tick

    def forget_refused(self, connection: Connection) -> None:
        self._refused.pop(connection, None)

    def start(self) -> None:
        """Has the clock run while there are connections."""
        if not self._is_ticking:
            self._is_ticking = True
            self._loop.call_later(TICK_SECONDS, self.on_tick)

    def on_tick(self) -> None:
        """Ends what has had its time; the loop calls it again and again."""
        self._is_ticking = False
        self.tick += 1
        if self._connections:
            self.start()
        self._tell_refused()
        for connection in list(self._connections):
            connection.on_tick(self.tick)
        self.unsent.on_tick(self.tick)
        for notice in self._notices:
            notice.flush(self.tick)
        if self.tick % _FILES_TICKS == 0 and _are_files_used_up():
            self._files.add(self.tick)

    def end(self) -> None:
        """Logs what was counted since the last lines."""
        for notice in self._notices:
            notice.flush(math.inf)

    def _tell_refused(self) -> None:
        """Tells those who came first, and all who have waited for long."""
        told = 0
        while self._refused and (
            told < REFUSALS_AT_A_TICK or self.tick - next(iter(self._refused.values())) >= REFUSAL_TICKS
        ):
            connection, _ = self._refused.popitem(last=False)
            connection.refuse()
            told += 1

    def has_room(self) -> bool:
        """Whether one more connection may stay. If need be the one that has been idle for longest goes."""
        if len(self._connections) - len(self.lingering) < self._limit or self._make_room():
            return True
        self._turned_away.add(self.tick)
        return False

    def may_linger(self) -> bool:
        """Whether one more refused connection may stay open for a moment."""
        return len(self.lingering) < LINGERING_CONNECTIONS

    def _make_room(self) -> bool:
        if self._refused:
            connection, _ = self._refused.popitem(last=False)
            connection.refuse_and_close()
            return True
        for idle, least_ticks in ((self.silent, 1), (self.kept, _KEPT_IDLE_TICKS)):
            oldest = next(iter(idle), None)
            if oldest is not None and self.tick - idle[oldest] > least_ticks:
                del idle[oldest]
                self._made_room.add(self.tick)
                oldest.hang_up()
                return True
        return self.unsent.make_room(self.tick)


def _are_files_used_up() -> bool:
    """Whether a file that is opened now gets one of the last numbers; they are given from the lowest on."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        number = os.open(os.devnull, os.O_RDONLY)
    except OSError:
        return True
    with contextlib.suppress(OSError):
        os.close(number)
    return soft != resource.RLIM_INFINITY and number >= soft - 16
