"""A connection without what is said on it: its time, its pauses, what is unsent, how it ends."""

import asyncio
import contextlib
import fcntl
import socket
import struct
import sys
import termios
from abc import ABC, abstractmethod
from typing import Any

from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl

from upsert_svc.errors import ServiceUnavailable
from upsert_svc.http.answers import ready_answer
from upsert_svc.http.traffic import RECEIVED_BYTES, Traffic, ticks

HIGH_WATER_BYTES = 16 << 10  # of unsent answers, before nothing more is read
SYSTEM_BYTES = 128 << 10  # of an answer, not sent by the system, before it takes no more
LINGER_SECONDS = 1
LINGER_BYTES = 1 << 20

# Why reading is paused; a sum of these
FOR_PIPELINE, FOR_BODY, FOR_ANSWER, FOR_REFUSAL = 1, 2, 4, 8

_AT_ONCE = struct.pack("ii", 1, 0)
_TURNED_AWAY = ready_answer(503, ServiceUnavailable("Too many connections are open just now"), is_last=True)


class BoundedConnection(asyncio.BufferedProtocol, ABC):
    """What the counts of all connections need of one. A subclass says what becomes of the bytes."""

    header_timeout_seconds = 10.0

    def __init__(self, traffic: Traffic, connections: set[Any], keep_alive_seconds: float) -> None:
        self._traffic = traffic
        self._connections = connections
        self._header_ticks = ticks(self.header_timeout_seconds)
        self._keep_alive_ticks = ticks(keep_alive_seconds)
        self._transport: Any = None
        self._idle: dict[Any, int] | None = None  # of those that may make room, where this is one
        self._deadline = 0  # the tick at which it is hung up on; 0 for none
        self._is_resting = False  # nothing of another request has come since the last one
        self._is_closed = False  # nothing that comes counts any more
        self._pauses = 0
        self._rest = b""  # received, and not parsed yet
        self._rest_start = 0
        self._lingered_bytes = 0
        self._written_bytes = 0  # last
        self.is_clogged = False
        self._is_clear = asyncio.Event()

    # The subclass

    @abstractmethod
    def _consume(self, data: bytes | bytearray, view: memoryview, start: int, end: int) -> None:
        """Does what is to be done with data[start:end], of which `view` is a view, or keeps it."""

    @abstractmethod
    def go_on(self) -> None:
        """Takes up some of what was kept."""

    @abstractmethod
    def refuse(self) -> None:
        """Answers what was refused a moment ago."""

    @abstractmethod
    def refuse_and_close(self) -> None:
        """The same, as the last answer."""

    @abstractmethod
    def _lost(self) -> None:
        """Ends what is under way; nobody is there any more."""

    # How it begins and ends

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._server, self._client = get_local_addr(transport), get_remote_addr(transport)
        self._scheme = "https" if is_ssl(transport) else "http"
        has_room = self._traffic.has_room()
        self._connections.add(self)
        self._traffic.start()
        transport.set_write_buffer_limits(high=HIGH_WATER_BYTES, low=0)
        self._bound_what_the_system_holds()
        if has_room:
            self._deadline = self._traffic.tick + self._header_ticks
            self._be_idle(self._traffic.silent)
        else:
            transport.write(_TURNED_AWAY)
            self._linger()

    def connection_lost(self, _error: Exception | None) -> None:
        self._is_closed = True
        self._connections.discard(self)
        self._traffic.lingering.discard(self)
        self._traffic.unsent.forget(self)
        self._traffic.forget_refused(self)
        self._leave_idle()
        self._drop_rest()
        self.is_clogged = False
        self._is_clear.set()
        self._lost()

    def eof_received(self) -> None:
        """The transport closes of itself; what is unsent still has its time."""
        self._watch_unsent()

    def hang_up(self) -> None:
        self._is_closed = True
        self._deadline = 0
        self._watch_unsent()
        self._transport.close()

    def cut_off(self) -> None:
        self._is_closed = True
        with contextlib.suppress(OSError):  # the system has nothing to keep for the client either
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self._transport.abort()

    def _linger(self) -> None:
        """Says that nothing more comes, and reads on for a moment.

        To close while the client still sends would reset the connection, and the answer could be lost.
        """
        if not self._traffic.may_linger() or not self._transport.can_write_eof():
            self.hang_up()
            return
        self._is_closed = True
        self._leave_idle()
        self._traffic.forget_refused(self)
        self._drop_rest()
        self._traffic.lingering.add(self)
        self._deadline = self._traffic.tick + ticks(LINGER_SECONDS)
        self._watch_unsent()
        self._transport.write_eof()
        self._resume(FOR_PIPELINE | FOR_BODY | FOR_ANSWER | FOR_REFUSAL)

    # Time

    def on_tick(self, tick: int) -> None:
        """Hangs up when the time is over. Time in which nothing is read counts for nothing."""
        if self._pauses:
            self._deadline += self._deadline > 0
        if self._deadline and tick >= self._deadline:
            self.hang_up()

    def _await_request(self) -> None:
        """Gives the client its time for another request."""
        self._deadline = self._traffic.tick + self._keep_alive_ticks
        self._is_resting = True
        self._be_idle(self._traffic.kept)

    def _await_the_rest(self) -> None:
        """Gives the client its time for what it has begun."""
        self._deadline = self._traffic.tick + self._header_ticks
        self._is_resting = False

    def _await_unwanted_body(self) -> None:
        """Gives the client its time for a body that is dropped; meanwhile it may make room for others."""
        self._await_the_rest()
        self._be_idle(self._traffic.kept)

    def _be_idle(self, idle: dict[Any, int]) -> None:
        self._leave_idle()  # to be the latest
        idle[self] = self._traffic.tick
        self._idle = idle

    def _leave_idle(self) -> None:
        if self._idle is not None:
            self._idle.pop(self, None)
            self._idle = None

    # Reading

    def get_buffer(self, _size_hint: int) -> memoryview:
        """Where the next bytes go; there is room for few where all connections hold much."""
        traffic = self._traffic
        return traffic.view if traffic.received_bytes <= RECEIVED_BYTES else traffic.small_view

    def buffer_updated(self, count: int) -> None:
        if self._is_closed:
            self._lingered_bytes += count
            if self._lingered_bytes > LINGER_BYTES:
                self.hang_up()
        elif self._rest:  # the loop has read once more
            data = self._rest[self._rest_start :] + self._traffic.view[:count]
            self._drop_rest()
            self._keep(data, 0)
        else:
            self._consume(self._traffic.buffer, self._traffic.view, 0, count)

    def _keep(self, rest: bytes, start: int) -> None:
        """Stops reading until what has come is parsed."""
        self._rest, self._rest_start = rest, start
        self._traffic.received_bytes += len(rest)
        self._pause(FOR_PIPELINE)

    def _drop_rest(self) -> None:
        self._traffic.received_bytes -= len(self._rest)
        self._rest = b""

    def _pause(self, reason: int) -> None:
        if not self._pauses:
            self._transport.pause_reading()
        self._pauses |= reason

    def _resume(self, reasons: int) -> None:
        if self._pauses:
            self._pauses &= ~reasons
            if not self._pauses:
                self._transport.resume_reading()

    # Writing

    def write(self, *pieces: bytes) -> None:
        if self._is_closed:
            return
        self._written_bytes = len(pieces[-1])
        if len(pieces) == 1:
            self._transport.write(pieces[0])
        else:
            self._transport.writelines(pieces)

    async def unclogged(self) -> None:
        """Waits until the client has taken what was written."""
        await self._is_clear.wait()

    def pause_writing(self) -> None:
        """The transport holds more than a little of what was written."""
        self.is_clogged = True
        self._is_clear.clear()
        self._pause(FOR_ANSWER)
        self._watch_unsent()

    def resume_writing(self) -> None:
        self.is_clogged = False
        self._is_clear.set()
        self._traffic.unsent.forget(self)
        self._resume(FOR_ANSWER)
        if self._rest:
            self._traffic.take_turn(self)

    def untaken_bytes(self) -> int:
        return self._unsent_bytes() + self._bytes_of_the_system()

    def held_bytes(self) -> int:
        return max(self._unsent_bytes(), self._written_bytes)

    def _unsent_bytes(self) -> int:
        size: int = self._transport.get_write_buffer_size()
        return size

    def _bytes_of_the_system(self) -> int:
        """What the system has not sent or not heard of; else a slow client would seem to stand still."""
        size = bytearray(4)
        try:
            fcntl.ioctl(self._transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, size)
        except OSError:
            return 0
        return int.from_bytes(size, sys.byteorder)

    def _bound_what_the_system_holds(self) -> None:
        with contextlib.suppress(OSError, AttributeError):  # not every kind of socket has it
            self._transport.get_extra_info("socket").setsockopt(
                socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, SYSTEM_BYTES
            )

    def _watch_unsent(self) -> None:
        if self._unsent_bytes():
            self._traffic.unsent.watch(self, self._traffic.tick)
