"""Runs the application under uvicorn: the loop, the workers, bounds for the headers."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Any, Protocol

import orjson
import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.protocols.http.flow_control import CLOSE_HEADER as CLOSE
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors import multiprocess

from upsert_svc.errors import BadRequest

_TICK_SECONDS = 0.1
_LINGER_SECONDS = 0.5
_REFUSAL_SECONDS = 2.0


class _WholeAnswers:
    """A connection's transport that sends the head of an answer together with its body.

    uvicorn writes one after the other, and uvloop sends each write at once: two packets, and two wake-ups of
    the client, for every answer.
    """

    __slots__ = ("_head", "_transport", "is_closing")

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._head = b""
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 100 "):
            self._head = data
            return
        self._transport.write(data)

    def flush(self) -> None:
        """Sends a head that no body follows."""
        if self._head:
            self.write(b"")

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class BoundedHttp(HttpToolsProtocol):
    """Bounds the time and the size of a request's line and headers; uvicorn bounds neither.

    Its `limit_concurrency` is no help against slow headers: it counts silent connections too.
    """

    header_timeout_seconds = 10.0
    header_limit_bytes = 64 * 1024
    _deadline: asyncio.TimerHandle | None = None
    _chunk_bytes = 0  # received last
    _uncounted_bytes = 0  # of these, what may be headers
    _begun_in_bytes = 0  # of the chunk in which the request began
    _header_bytes = 0
    _is_reading_headers = True

    def connection_made(self, transport: Any) -> None:
        super().connection_made(_WholeAnswers(transport))  # type: ignore[arg-type]
        self._set_deadline()

    def data_received(self, data: bytes) -> None:
        self._chunk_bytes = self._uncounted_bytes = len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._is_reading_headers:
            self._header_bytes += self._uncounted_bytes
            if self._header_bytes > self.header_limit_bytes:
                self._refuse(431, "The headers are too large")
                return
        if self._deadline is None and (self._is_reading_headers or self._is_idle()):
            self._set_deadline()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_reading_headers = True
        self._header_bytes = 0
        self._begun_in_bytes = self._chunk_bytes

    def on_headers_complete(self) -> None:
        self._is_reading_headers = False
        self._uncounted_bytes = 0  # the rest is a body, or not easily told from one
        self._clear_deadline()
        at_most = self._begun_in_bytes + self._header_bytes + self._chunk_bytes
        if at_most > self.header_limit_bytes and self._are_headers_too_large():
            self._refuse(431, "The headers are too large")
        else:
            super().on_headers_complete()

    def _is_idle(self) -> bool:
        """Whether no request is under way, though something came: an empty line stops uvicorn's own clock."""
        return self.cycle is None or self.cycle.response_complete

    def _are_headers_too_large(self) -> bool:
        return sum(len(name) + len(value) for name, value in self.headers) > self.header_limit_bytes

    def on_message_complete(self) -> None:
        self._uncounted_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self.transport.flush()  # type: ignore[attr-defined]
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, msg)

    def _refuse(self, status: int, description: str) -> None:
        """Answers what never became a request, in the shape of every other error, and hangs up."""
        body = orjson.dumps(BadRequest(description).body())
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
        length = f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        self.transport.write((head + length).encode("ascii") + body)
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._clear_deadline()
        super().connection_lost(exc)

    def _set_deadline(self) -> None:
        self._deadline = self.loop.call_later(self.header_timeout_seconds, self.transport.close)

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class Application(Protocol):
    """What the server tells the application that it serves, when it is to stop."""

    def begin_stop(self) -> None:
        """No longer ready; requests are answered as before."""

    async def refuse_waiting(self) -> None:
        """Whatever still waits is refused now, and what begins from now on."""


class GracefulServer(uvicorn.Server):
    """Stops without cutting off anybody whose request was taken.

    After SIGTERM it serves on for the delay of `config`, told as not ready and each answer the last of its
    connection, so that load balancers turn to others. Then it accepts no more and ends what is under way;
    what waits at the end of its time is told 503.
    """

    config: "StoppingConfig"
    _is_stopping = False

    async def on_tick(self, counter: int) -> bool:
        is_over = await super().on_tick(counter)
        if self._is_stopping:
            self.server_state.default_headers = [*self.server_state.default_headers, CLOSE]
        return is_over

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        application: Application = self.config.loaded_app
        self._is_stopping = True
        application.begin_stop()
        delay_seconds = 0 if self._is_interrupted() else self.config.delay_seconds
        await self._serve_on(delay_seconds)
        await self._accept_no_more(sockets or [])
        await self._has_ended(min(_LINGER_SECONDS, delay_seconds))  # some have yet to send what they came for
        for connection in list(self.server_state.connections):
            connection.shutdown()
        if not await self._has_ended(self.config.timeout_graceful_shutdown or 0):
            await application.refuse_waiting()
            if not await self._has_ended(_REFUSAL_SECONDS):
                await self._cut_off()
        if not self.force_exit:
            await self.lifespan.shutdown()

    def _is_interrupted(self) -> bool:
        """Whether somebody at the keyboard waits for the end."""
        return signal.SIGINT in self._captured_signals

    async def _serve_on(self, seconds: float) -> None:
        for tick in range(round(seconds / _TICK_SECONDS)):
            await self.on_tick(tick)
            self._end_connections_with_their_answers()
            await asyncio.sleep(_TICK_SECONDS)
        await self.on_tick(0)  # whose header those bear that are accepted last
        self._end_connections_with_their_answers()

    def _end_connections_with_their_answers(self) -> None:
        for connection in self.server_state.connections:
            cycle: Any = connection.cycle  # type: ignore[union-attr]
            if cycle is not None and not cycle.response_started:
                cycle.keep_alive = False

    async def _accept_no_more(self, sockets: Sequence[socket.socket]) -> None:
        """Takes over whoever has connected, and closes the sockets that others would connect to."""
        listening = list(sockets) or [each for server in self.servers for each in server.sockets]
        accepted = [connection for each in listening for connection in _accepted(each)]
        for server in self.servers:
            server.close()
        for each in sockets:
            each.close()
        loop = asyncio.get_running_loop()
        for connection in accepted:
            with contextlib.suppress(OSError):
                await loop.connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> Any:
        protocol: Any = self.config.http_protocol_class
        return protocol(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    async def _has_ended(self, seconds: float) -> bool:
        """Whether all that is under way has ended within a time."""
        try:
            async with asyncio.timeout(seconds):
                while self._is_busy():  # noqa: ASYNC110 (uvicorn tells nobody)
                    await asyncio.sleep(_TICK_SECONDS / 4)
        except TimeoutError:
            return False
        return True

    def _is_busy(self) -> bool:
        return not self.force_exit and bool(self.server_state.connections or self.server_state.tasks)

    async def _cut_off(self) -> None:
        """Gives up who does not take an answer, and tells the rest 503."""
        for connection in list(self.server_state.connections):
            cycle: Any = connection.cycle  # type: ignore[union-attr]
            if cycle is None or cycle.response_started:
                connection.transport.abort()
        await asyncio.sleep(0)  # or their requests would be taken for failed ones
        for task in self.server_state.tasks:
            task.cancel()
        await self._has_ended(_REFUSAL_SECONDS)


def _accepted(listening: Any) -> Iterator[socket.socket]:
    """The connections that nobody has accepted yet."""
    with socket.socket(fileno=os.dup(listening.fileno())) as own:
        own.setblocking(False)
        with contextlib.suppress(OSError):  # there are no more
            while True:
                connection, _ = own.accept()
                connection.setblocking(False)
                yield connection


class StoppingConfig(uvicorn.Config):
    """uvicorn's configuration, and how long to serve on after a signal to stop."""

    def __init__(self, app: Any, *, delay_seconds: float, **options: Any) -> None:
        super().__init__(app, **options)
        self.delay_seconds = delay_seconds


class _Worker(multiprocess.Process):
    """A worker process; it stops as a server alone does."""

    @property
    def server(self) -> uvicorn.Server:
        if self._server is None:
            self._server = GracefulServer(self.config)
        return self._server


class _Supervisor(multiprocess.Multiprocess):
    """Keeps worker processes alive, and ends them."""

    def terminate_all(self) -> None:
        for each in self.sockets:  # or what connects when all workers have closed theirs waits for nobody
            each.close()
        super().terminate_all()


def options(*, shutdown_timeout_seconds: int) -> dict[str, Any]:
    """What the service asks of uvicorn, beside an application and an address."""
    return {
        "loop": "uvloop",
        "http": BoundedHttp,
        "ws": "none",
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
        "log_level": "warning",
        "timeout_graceful_shutdown": shutdown_timeout_seconds,
    }


def run(host: str, port: int, *, workers: int, shutdown_timeout_seconds: int, delay_seconds: float) -> None:
    """Serves until a signal; each worker makes the application anew, from the environment."""
    config = StoppingConfig(
        "upsert_svc.app:create",
        factory=True,
        host=host,
        port=port,
        workers=workers,
        delay_seconds=delay_seconds,
        **options(shutdown_timeout_seconds=shutdown_timeout_seconds),
    )
    if workers == 1:
        server = GracefulServer(config)
        server.run()
        if not server.started:
            sys.exit(STARTUP_FAILURE)
        return
    multiprocess.Process = _Worker  # type: ignore[misc]  # what the supervisor makes its workers of
    _Supervisor(config, sockets=[config.bind_socket()]).run()
