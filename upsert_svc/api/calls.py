"""One request as an endpoint sees it: who asks, what the query says, where the service is reached.

Refuses an unknown caller and a query that cannot be read, before anything else is looked at.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qsl, quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from upsert_svc import auth, body
from upsert_svc.errors import BadRequest, RecordInvalid, RecordNotFound
from upsert_svc.service import Service
from upsert_svc.settings import Network
from upsert_svc.tokens import Principal

_QUERY_LIMIT = 200
_PLAIN = re.compile(r"[A-Za-z0-9_.:]+")
_HOST = re.compile(r"[A-Za-z0-9.\-_]+(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?")


@dataclass(frozen=True)
class Call:
    """A request of a known caller."""

    request: Request
    headers: Mapping[str, str]
    service: Service
    principal: Principal
    query: "Query"

    def path(self, name: str) -> str:
        """A parameter of the path. Raises RecordNotFound for one that nothing can be called by."""
        value: str = self.request.path_params[name]
        if body.unstorable(value) is not None:
            raise RecordNotFound
        return value

    async def json(self) -> Any:
        """The body as JSON; see `body`."""
        return body.parse(await self._body())

    async def json_or(self, default: Any) -> Any:
        """The body as JSON, or the default where it is empty: some clients send none."""
        raw = await self._body()
        return body.parse(raw) if raw else default

    async def _body(self) -> bytes:
        settings = self.service.settings
        return await body.read(
            self.headers,
            self.request.receive,
            limit_bytes=settings.body_limit_bytes,
            timeout_seconds=settings.body_timeout_seconds,
        )

    def url(self, *parts: str) -> str:
        """An absolute address under /api/v2, as this caller reaches the service."""
        return "/".join((self._root, *map(_quoted, parts)))

    @cached_property
    def _root(self) -> str:
        return api_url(self.request.scope, self.headers, self.service.settings.trusted_proxies)


Endpoint = Callable[[Call], Awaitable[Response]]


class Query(Mapping[str, str]):
    """The query of a request: the last value of each name, and how often it was given."""

    def __init__(self, raw: bytes) -> None:
        try:
            pairs = parse_qsl(
                raw.decode("utf-8"), keep_blank_values=True, errors="strict", max_num_fields=_QUERY_LIMIT
            )
        except UnicodeDecodeError:
            raise BadRequest("The query is not UTF-8") from None
        except ValueError:
            raise BadRequest(f"The query has more than {_QUERY_LIMIT} parameters") from None
        self._values = dict(pairs)
        self._names = [name for name, _ in pairs]
        for name, value in pairs:
            if (problem := body.unstorable(name + value)) is not None:
                raise RecordInvalid({name.replace("\0", "\\u0000") or "base": [problem]})

    def once(self, name: str) -> str:
        """The value of a parameter that may be given once, "" when it is not. Raises BadRequest."""
        if self._names.count(name) > 1:
            raise BadRequest(f"{name} is given twice")
        return self._values.get(name, "")

    def flag(self, name: str) -> bool:
        """A parameter that is true or false; false when it is absent. Raises BadRequest for anything else."""
        value = self.once(name).lower()
        if value not in ("", "true", "false"):
            raise BadRequest(f"{name} must be true or false")
        return value == "true"

    def __getitem__(self, name: str) -> str:
        return self._values[name]

    def __iter__(self) -> Any:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def called(endpoint: Endpoint, *, admin_only: bool) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint behind authentication, as Starlette calls it."""

    async def handle(request: Request) -> Response:
        service: Service = request.app.state.service
        headers = _headers(request.scope)
        principal = await service.authenticate(headers.get("authorization", ""))
        request.state.account_id = principal.account_id
        if admin_only:
            auth.require_admin(principal)
        return await endpoint(
            Call(request, headers, service, principal, Query(request.scope["query_string"]))
        )

    return handle


def _headers(scope: Scope) -> dict[str, str]:
    """The headers by name in lower case, read once; of one that is given twice the first."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(scope["headers"])}


def api_url(scope: Scope, headers: Mapping[str, str], trusted_proxies: tuple[Network, ...]) -> str:
    """The address of /api/v2 as the caller sees it; a trusted proxy may name its own scheme and host."""
    scheme, host = scope["scheme"], headers.get("host", "")
    client = scope.get("client")
    if _is_trusted(client[0] if client else "", trusted_proxies):
        forwarded = headers.get("x-forwarded-proto", "").split(",")[0].strip().lower()
        scheme = forwarded if forwarded in ("http", "https") else scheme
        forwarded = headers.get("x-forwarded-host", "").split(",")[0].strip()
        host = forwarded if _HOST.fullmatch(forwarded) else host
    if not _HOST.fullmatch(host):
        server = scope.get("server") or ("localhost", None)
        host = f"{server[0]}:{server[1]}" if server[1] else str(server[0])
    return f"{scheme}://{host}/api/v2"


@lru_cache(maxsize=1024)
def _is_trusted(caller: str, trusted_proxies: tuple[Network, ...]) -> bool:
    try:
        address = ip_address(caller)
    except ValueError:
        return False
    # a socket that listens on IPv6 and IPv4 alike sees an IPv4 caller as ::ffff:a.b.c.d
    address = getattr(address, "ipv4_mapped", None) or address
    return any(address in network for network in trusted_proxies)


def _quoted(part: str) -> str:
    return part if _PLAIN.fullmatch(part) else quote(part, safe=":")
