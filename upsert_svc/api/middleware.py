"""What surrounds every request: its id, the .json suffix, the last word on errors, the log line."""

import logging
import random
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.datastructures import State
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from upsert_svc import logs
from upsert_svc.api import health
from upsert_svc.api.rate_limits import Limiter
from upsert_svc.api.requests import Handler, known_principal, release_memory
from upsert_svc.api.responses import error_response
from upsert_svc.api.unavailable import Unavailable
from upsert_svc.errors import InternalServerError, ServiceError, ServiceUnavailable
from upsert_svc.service import Service

_SANE_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_log = logging.getLogger(__name__)
_requests = logging.getLogger(logs.REQUESTS)


class FastRouter:
    """The fast path past Starlette's router and middleware, which would cost more than most endpoints.

    As in the router the first route that has the path decides. What it does not answer, such as a method
    that it does not have, is left to the router.
    """

    def __init__(self, routes: Iterable[tuple[Route, Mapping[str, Handler]]]) -> None:
        self._routes = [(route, route.path_regex.match, handlers) for route, handlers in routes]

    def handler(self, scope: Scope) -> Handler | None:
        """What answers this request, which is made ready for it; None when it is left to the router."""
        for route, matched, handlers in self._routes:
            if (match := matched(scope["path"])) is not None:
                scope["route"] = route
                scope["path_params"] = match.groupdict()
                return handlers.get(scope["method"])
        return None


class Middleware:
    """The outermost ASGI application. Nothing raised inside leaves it but a lost connection."""

    def __init__(
        self, app: Starlette, fast_router: FastRouter, limiter: Limiter | None = None, *, log_requests: bool
    ) -> None:
        self._app = app
        self._fast_router = fast_router
        self._limiter = limiter
        self._log_requests = log_requests
        self._unavailable = Unavailable()
        self.state.is_stopping = False

    def begin_stop(self) -> None:
        """The service is not ready any more; requests are answered as before."""
        self.state.is_stopping = True

    async def refuse_waiting(self) -> None:
        """Whoever's write still waits is told 503, and may come back."""
        service: Service = self.state.service
        await service.write_batcher.stop()

    @property
    def state(self) -> State:
        """The state of the application inside, which holds the service once it has started."""
        return self._app.state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)  # until the process is to end
            self._unavailable.end()
            return
        started = time.perf_counter()
        request_id = _request_id(scope)
        if scope["path"].endswith(".json"):
            scope["path"] = scope["path"].removesuffix(".json")
        scope["app"] = self._app
        handle = self._fast_router.handler(scope)
        if self._limiter is not None:
            handle, send = await self._limiter.admit(handle, scope, send)
        if handle is not None:
            try:
                response = await self._answer_fast(handle, scope, receive, request_id)
                response.raw_headers.append((b"x-request-id", request_id))
                await response(scope, receive, send)
            finally:
                await release_memory(scope)
            status = response.status_code
        else:
            status = await self._routed(scope, receive, send, request_id)
        if self._log_requests:
            _requests.info(_line(scope, request_id, status, started))

    async def _answer_fast(
        self, handle: Handler, scope: Scope, receive: Receive, request_id: bytes
    ) -> Response:
        try:
            return await handle(scope, receive)
        except ServiceError as error:
            if isinstance(error, ServiceUnavailable) and scope["path"] not in health.ENDPOINTS:
                self._unavailable.add(error)
            return error_response(error)
        except Exception:
            _log.exception("request %s failed", request_id.decode())
            return error_response(InternalServerError())

    async def _routed(self, scope: Scope, receive: Receive, send: Send, request_id: bytes) -> int:
        """Has Starlette answer; its status, 0 where nothing was sent."""
        status = 0

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id)]
            await send(message)

        try:
            await self._app(scope, receive, send_named)
        except Exception:
            _log.exception("request %s failed", request_id.decode())
            if not status:
                await error_response(InternalServerError())(scope, receive, send_named)
        return status


def _request_id(scope: Scope) -> bytes:
    """The caller's own id for the request, or a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _SANE_ID.fullmatch(value):
            sent: bytes = value
            return sent
    return b"%032x" % random.getrandbits(128)


def _line(scope: Scope, request_id: bytes, status: int, started: float) -> str:
    """The log line of a request, JSON; never the query, a body or a credential."""
    principal = known_principal(scope)
    line: dict[str, Any] = {
        "time": logs.now(),
        "request_id": request_id.decode(),
        "account_id": principal and principal.account_id,
        "user_id": principal and principal.user_id,
        "method": scope["method"],
        "route": getattr(scope.get("route"), "path", None),
        "status": status,
        "ms": round((time.perf_counter() - started) * 1000, 1),
    }
    return orjson.dumps(line).decode()
