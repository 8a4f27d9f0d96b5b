"""Runs the application under uvicorn: the loop, the workers, bounds for the headers."""

import asyncio
from http import HTTPStatus
from typing import Any

import orjson
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from upsert_svc.errors import BadRequest


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
        "log_config": None,  # that of `logs`
        "server_header": False,
        "proxy_headers": False,
        "log_level": "warning",
        "timeout_graceful_shutdown": shutdown_timeout_seconds,
    }


def run(host: str, port: int, *, workers: int, shutdown_timeout_seconds: int) -> None:
    """Serves until a signal; each worker makes the application anew, from the environment."""
    uvicorn.run(
        "upsert_svc.app:serving",
        factory=True,
        host=host,
        port=port,
        workers=workers,
        **options(shutdown_timeout_seconds=shutdown_timeout_seconds),
    )
