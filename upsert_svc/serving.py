"""Runs the application under uvicorn: the loop, the workers, a deadline on slow headers."""

import asyncio
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class PunctualHttp(HttpToolsProtocol):
    """Closes a connection whose request line and headers do not arrive in time.

    uvicorn itself would hold it for ever, and its `limit_concurrency` counts such silent connections too.
    """

    header_timeout_seconds = 10.0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._set_deadline()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._deadline is None:
            self._set_deadline()

    def on_headers_complete(self) -> None:
        self._clear_deadline()
        super().on_headers_complete()

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
        "http": PunctualHttp,
        "ws": "none",
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
        "log_level": "warning",
        "timeout_graceful_shutdown": shutdown_timeout_seconds,
    }


def run(host: str, port: int, *, workers: int, shutdown_timeout_seconds: int) -> None:
    """Serves until a signal; each worker makes the application anew, from the environment."""
    uvicorn.run(
        "upsert_svc.app:create",
        factory=True,
        host=host,
        port=port,
        workers=workers,
        **options(shutdown_timeout_seconds=shutdown_timeout_seconds),
    )
