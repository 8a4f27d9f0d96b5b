"""Runs the application under uvicorn: the loop, the workers, bounds for the headers."""

import asyncio
import contextlib
import errno
import socket
import sys
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Any

import orjson
import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors import multiprocess

from upsert_svc.errors import BadRequest
from upsert_svc.stopping import GracefulServer, StoppingConfig

BACKLOG = 2048


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


_ELSEWHERE = "Choose another address with --host or --port."
_ADVICE = {
    errno.EADDRINUSE: "Another process listens there: end it, or choose another port with --port.",
    errno.EACCES: "Ports below 1024 are for root: choose another one with --port.",
}


class AddressTaken(Exception):
    """The service cannot listen where it was told to; the message says why, and what to do."""


@contextlib.contextmanager
def bound(host: str, port: int) -> Iterator[list[socket.socket]]:
    """Sockets at all addresses of a host, taken and not yet listened at. Raises AddressTaken.

    So nothing is started, migrated or said before the port is ours, and nobody is let in before all is ready.
    """
    sockets: list[socket.socket] = []
    try:
        try:
            found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, kind, protocol, _, address in dict.fromkeys(found):
                sockets.append(one := socket.socket(family, kind, protocol))
                _bind(one, address, port or sockets[0].getsockname()[1])
        except OSError as error:
            raise _address_taken(host, port, error) from error
        yield sockets
    finally:
        for one in sockets:
            one.close()


def _bind(one: socket.socket, address: Any, port: int) -> None:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # or a restart would wait for a minute
    if one.family == socket.AF_INET6:
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # the other family has a socket of its own
    one.bind((address[0], port, *address[2:]))


def listen(sockets: Sequence[socket.socket]) -> None:
    """Lets callers in. Raises AddressTaken when another process listens there since."""
    for one in sockets:
        host, port, *_ = one.getsockname()
        try:
            one.listen(BACKLOG)
        except OSError as error:
            raise _address_taken(host, port, error) from error


def _address_taken(host: str, port: int, error: OSError) -> AddressTaken:
    reason = (error.strerror or str(error)).lower()
    return AddressTaken(
        f"Cannot listen at {host} port {port}: {reason}. {_ADVICE.get(error.errno or 0, _ELSEWHERE)}"
    )


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


def run(
    sockets: Sequence[socket.socket], *, workers: int, delay_seconds: float, shutdown_timeout_seconds: int
) -> None:
    """Serves until a signal; each worker makes the application anew, from the environment."""
    config = StoppingConfig(
        "upsert_svc.workers:create" if workers > 1 else "upsert_svc.app:create",
        factory=True,
        workers=workers,
        delay_seconds=delay_seconds,
        **options(shutdown_timeout_seconds=shutdown_timeout_seconds),
    )
    if workers > 1:
        multiprocess.Process = _Worker  # type: ignore[misc]  # what the supervisor makes its workers of
        supervisor = _Supervisor(config, list(sockets))
        supervisor.run()
        if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
            sys.exit(STARTUP_FAILURE)
        return
    server = GracefulServer(config)
    with contextlib.suppress(KeyboardInterrupt):
        server.run(list(sockets))
    if not server.started:
        sys.exit(STARTUP_FAILURE)
