"""What surrounds every request: its id, the .json suffix, the last word on errors, the log line."""

import json
import logging
import os
import re
import time
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import State
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
        self._handle = handle
        self._path = route.path_regex

    def to(self, app: Starlette, scope: Scope) -> ASGIApp | None:
        """The application that answers this request by the short way; None when it is another's."""
        if scope["method"] != self._method or (match := self._path.match(scope["path"])) is None:
            return None
        scope["app"] = app
        scope["route"] = self._route
        scope["path_params"] = match.groupdict()
        return self._answer

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._handle(scope, receive)
        await response(scope, receive, send)


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
        exchange = _Exchange(scope, send)
        if scope["path"].endswith(".json"):
            scope["path"] = scope["path"].removesuffix(".json")
        inside = self._short_way.to(self._app, scope) or self._app
        try:
            await inside(scope, receive, exchange.send)
        except ServiceError as error:
            await error_response(error)(scope, receive, exchange.send)
        except Exception:
            _log.exception("request %s failed", exchange.request_id)
            if not exchange.has_begun:
                await error_response(InternalServerError())(scope, receive, exchange.send)
        finally:
            if self._log_requests:
                exchange.log()


class _Exchange:
    """One request and its answer as they pass."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self._started = time.perf_counter()
        self._status = 0
        sent_id = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        self._id = sent_id if _SANE_ID.fullmatch(sent_id) else os.urandom(16).hex().encode()

    @property
    def request_id(self) -> str:
        return self._id.decode("ascii")

    @property
    def has_begun(self) -> bool:
        return self._status != 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self._id)]
        await self._send(message)

    def log(self) -> None:
        """One JSON line; never the query, a body or a credential."""
        route = self._scope.get("route")
        line: dict[str, Any] = {
            "request_id": self.request_id,
            "account_id": self._scope.get("state", {}).get("account_id"),
            "method": self._scope["method"],
            "route": getattr(route, "path", None),
            "status": self._status,
            "ms": round((time.perf_counter() - self._started) * 1000, 1),
        }
        _log.info(json.dumps(line))
