"""Runs the application under uvicorn: the loop and the workers."""

from typing import Any

import uvicorn

from upsert_svc.http.limits import BACKLOG
from upsert_svc.http.protocol import BoundedHttp


def options(*, shutdown_timeout_seconds: int) -> dict[str, Any]:
    """What the service asks of uvicorn, beside an application and an address."""
    return {
        "loop": "uvloop",
        "http": BoundedHttp,
        "backlog": BACKLOG,
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
