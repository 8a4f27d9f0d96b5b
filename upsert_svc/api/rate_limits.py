"""Requests of known callers under the rate limits: each is counted, and its answer says how much is left.

Refuses with 429 what is over, before its body is read. Health and unknown callers are not counted.
"""

from collections.abc import Callable
from functools import partial

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from upsert_svc.accounts.rate_limits import RateLimits, Standing
from upsert_svc.api import health
from upsert_svc.api.requests import Handler, authenticate
from upsert_svc.errors import TooManyRequests

RECORDS_PER_REQUEST = 100  # of what writes many at once
_COUNT = "upsert_svc.count_request"  # in the scope: counts one more request of its caller


class Limiter:
    """Stands between the middleware and the endpoints, where a limit is set."""

    def __init__(self, rate_limits: RateLimits) -> None:
        self._rate_limits = rate_limits

    async def admit(self, handle: Handler | None, scope: Scope, send: Send) -> tuple[Handler | None, Send]:
        """What is to answer the request, None for the router, and where its answer is sent."""
        if scope["path"] in health.ENDPOINTS:
            return handle, send
        try:
            principal = await authenticate(scope)
        except Exception as error:  # for the middleware to answer; an unknown path stays one for everybody
            return handle and _raising(error), send
        standing = self._rate_limits.count(principal)
        if standing.is_exceeded:
            handle = _raising(_refusal(standing))
        scope[_COUNT] = partial(self._rate_limits.count, principal)
        return handle, _with_headers(send, standing)


class Allowance:
    """What a request of many records may still write: each hundred counts as one request more."""

    def __init__(self, scope: Scope) -> None:
        self._count: Callable[[], Standing] | None = scope.get(_COUNT)
        self._left = RECORDS_PER_REQUEST
        self._refusal: TooManyRequests | None = None

    def take(self) -> None:
        """Takes a record. Raises TooManyRequests."""
        if self._count is None:
            return
        if not self._left:
            standing = self._count()
            self._refusal = _refusal(standing) if standing.is_exceeded else None
            self._left = RECORDS_PER_REQUEST
        self._left -= 1
        if self._refusal is not None:
            raise self._refusal


def _refusal(standing: Standing) -> TooManyRequests:
    return TooManyRequests(standing.of, standing.limit, standing.reset_seconds)


def _raising(error: Exception) -> Handler:
    async def handle(_scope: Scope, _receive: Receive) -> Response:
        raise error

    return handle


def _with_headers(send: Send, standing: Standing) -> Send:
    """Where an answer is sent so that its headers tell how the caller stands, in both of Zendesk's ways."""
    limit, remaining = b"%d" % standing.limit, b"%d" % standing.remaining
    headers = (
        (b"x-rate-limit", limit),
        (b"x-rate-limit-remaining", remaining),
        (b"ratelimit-limit", limit),
        (b"ratelimit-remaining", remaining),
        (b"ratelimit-reset", b"%d" % standing.reset_seconds),
    )

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *headers]
        await send(message)

    return send_with_headers
