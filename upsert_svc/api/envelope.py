"""What surrounds every request: its id, the .json suffix, the last word on errors, the log line."""

import json
import logging
import random
import re
import time
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import State
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from upsert_svc.api.answers import error_response
from upsert_svc.api.calls import Handler
from upsert_svc.errors import InternalServerError, ServiceError

_SANE_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_log = logging.getLogger("upsert_svc.requests")


class ShortWay:
    """The way of one route past Starlette's router and middleware, which would cost more than its endpoint.

    The route stays in the router too; by either way it answers alike.
    """

    def __init__(self, route: Route, method: str, handle: Handler) -> None:
        self._route = route
        self._method = method
        self._path = route.path_regex
        self.handle = handle

    def takes(self, scope: Scope) -> bool:
        """Whether it is the way of this request, which is then made ready for its handler."""
        if scope["method"] != self._method or (match := self._path.match(scope["path"])) is None:
            return False
        scope["route"] = self._route
        scope["path_params"] = match.groupdict()
        return True


class Envelope:
    """The outermost ASGI application. Nothing raised inside leaves it but a lost connection."""

    def __init__(self, app: Starlette, short_way: ShortWay, *, log_requests: bool) -> None:
        self._app = app
        self._short_way = short_way
        self._log_requests = log_requests

    @property
    def state(self) -> State:
        """The state of the application inside, which holds the service once it has started."""
        return self._app.state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = _request_id(scope)
        if scope["path"].endswith(".json"):
            scope["path"] = scope["path"].removesuffix(".json")
        if self._short_way.takes(scope):
            scope["app"] = self._app
            response = await self._shortly_answered(scope, receive, request_id)
            response.raw_headers.append((b"x-request-id", request_id))
            await response(scope, receive, send)
            status = response.status_code
        else:
            status = await self._routed(scope, receive, send, request_id)
        if self._log_requests:
            _log.info(_line(scope, request_id, status, started))

    async def _shortly_answered(self, scope: Scope, receive: Receive, request_id: bytes) -> Response:
        try:
            return await self._short_way.handle(scope, receive)
        except ServiceError as error:
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
    line: dict[str, Any] = {
        "request_id": request_id.decode(),
        "account_id": scope.get("state", {}).get("account_id"),
        "method": scope["method"],
        "route": getattr(scope.get("route"), "path", None),
        "status": status,
        "ms": round((time.perf_counter() - started) * 1000, 1),
    }
    return json.dumps(line)
