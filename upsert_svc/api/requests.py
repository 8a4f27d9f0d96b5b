"""One request as an endpoint sees it: who asks, what the query says, where the service is reached.

Refuses an unknown caller and a query that cannot be read, before anything else is looked at.
"""

import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, KeysView, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qsl, quote

from starlette.responses import Response
from starlette.types import Receive, Scope

from upsert_svc import json_body
from upsert_svc.accounts import auth
from upsert_svc.accounts.tokens import Principal
from upsert_svc.api import request_body
from upsert_svc.asgi import TAKEN, WAITED_SECONDS
from upsert_svc.errors import BadRequest, RecordInvalid, RecordNotFound, TooManyValues, shortened
from upsert_svc.heavy_work import HEAVY_BYTES
from upsert_svc.memory import Held
from upsert_svc.paging import PAGE_SIZE_LIMIT, PageRequest
from upsert_svc.search.relationships import Relationship
from upsert_svc.service import Service
from upsert_svc.settings import Network
from upsert_svc.turns import CALLER

_PRINCIPAL = "upsert_svc.principal"  # in the scope, which is the request's own
_HELD = "upsert_svc.held"  # the memory of a page, until it is sent
# the headers that are judged by all of their lines; of any other the first counts
OVERRIDES = ("X-HTTP-Method-Override", "X-Method-Override", "X-HTTP-Method")
_LISTED_NAMES = ("Content-Type", "Content-Encoding", "If-Match", "If-None-Match", "If-Unmodified-Since")
_LISTED = frozenset(name.lower().encode() for name in (*_LISTED_NAMES, *OVERRIDES))
_UNCOUNTED_BYTES = 4 << 10  # of a body; those that are as small are bounded by the number of requests
_COPIES = 4  # of a body, at most: as it came, as a value, as it is stored, as it is sent on
_PAGE_BYTES = 4 << 20  # of a page while it is made
_QUERY_LIMIT = 200
_HOST_BYTES = 300  # of a name that can be one, with its port
_PLAIN = re.compile(r"[A-Za-z0-9_.:]+")
_PLAIN_QUERY = re.compile(rb"[A-Za-z0-9_.:\-]+=[A-Za-z0-9_.:\-]*(&[A-Za-z0-9_.:\-]+=[A-Za-z0-9_.:\-]*){0,9}")
SEPARATORS = re.compile("[;?]")  # of parameters, where somebody took one of these for &
_MISREAD = re.compile("[;?][^;?]*")
_HOST = re.compile(rb"[A-Za-z0-9.\-_]{1,253}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?")


@dataclass(slots=True)
class Call:
    """A request of a known caller."""

    scope: Scope
    receive: Receive
    headers: request_body.Headers
    service: Service
    principal: Principal
    query: "Query"
    body_limit_bytes: int
    raw: bytes | None = None  # the body, where it has been read
    held: Held | None = None  # the memory for it, where it is large

    def path(self, name: str) -> str:
        """A parameter of the path. Raises RecordNotFound for one that nothing can be called by."""
        value: str = self.scope["path_params"][name]
        if json_body.unstorable(value) is not None:
            raise RecordNotFound
        return value

    async def json(self) -> Any:
        """The body as JSON; see `raw_body`. A large one waits for its turn, see `turn`."""
        raw = await self.raw_body()
        if len(raw) > HEAVY_BYTES:
            await self.turn(raw)
        return json_body.parse(raw)

    async def json_or(self, default: Any) -> Any:
        """The body as JSON, or the default where it is empty: some clients send none."""
        raw = await self.raw_body()
        await self.turn(raw)
        return json_body.parse(raw) if raw else default

    async def turn(self, raw: bytes) -> None:
        """Waits, where the body is large, until it is the account's turn; that lasts until the next wait."""
        if len(raw) > HEAVY_BYTES:
            await self.service.heavy_work.take(self.principal.account_id)

    async def raw_body(self, *, of_any_kind: bool = False) -> bytes:
        """The body as it was sent; it announces JSON, unless it may be of any kind."""
        if self.raw is not None:
            return self.raw
        size = request_body.expected_bytes(self.headers, self.body_limit_bytes, of_any_kind=of_any_kind)
        if size > _UNCOUNTED_BYTES and self.held is None:
            self.held = await self._take_memory(size)
        return await request_body.read(
            self.receive,
            limit_bytes=self.body_limit_bytes,
            timeout_seconds=self.service.settings.body_timeout_seconds,
            waited_seconds=self.scope.get("extensions", {}).get(WAITED_SECONDS),
        )

    async def _take_memory(self, size: int) -> Held:
        """Raises ServiceUnavailable."""
        memory = self.service.memory
        lane = memory.bulk if size > self.service.settings.body_limit_bytes else memory.bodies
        return await lane.take(self.principal.account_id, size * _COPIES)

    def hold_until_sent(self, held: Held) -> None:
        """Keeps memory until the answer has been taken."""
        self.scope[_HELD] = held

    async def require_object(self) -> None:
        """Raises RecordNotFound unless there is the object that the path names."""
        await self.service.definitions.current(self.principal.account_id, self.path("key"))

    def relationship(self) -> Relationship:
        """The lookup field and the record that the path names; keys of objects are taken in any case."""
        return Relationship(
            target_type=self.path("target_type").lower(),
            target_id=self.path("target"),
            field=self.path("lookup"),
            source_type=self.path("source_type").lower(),
        )

    async def require_relationship(self) -> None:
        """Raises RecordNotFound unless there are the lookup field and the record that the path names."""
        await self.service.relationships.require(self.principal, self.relationship())

    def url(self, *parts: str) -> str:
        """An absolute address under /api/v2, as this caller reaches the service."""
        return "/".join((self.root_url(), *map(_quoted, parts)))

    def root_url(self) -> str:
        """The absolute address of /api/v2, as this caller reaches the service."""
        settings = self.service.settings
        return api_url(self.scope, self.headers, settings.trusted_proxies, settings.host_proxies)


Endpoint = Callable[[Call], Awaitable[Response]]
Handler = Callable[[Scope, Receive], Awaitable[Response]]


class Query(Mapping[str, str]):
    """The query of a request: the last value of each name that is not empty, and how often it was given."""

    def __init__(self, raw: bytes) -> None:
        self._pairs = _pairs(raw)
        self._values = dict(self._pairs)

    @property
    def names(self) -> KeysView[str]:
        """The names of the parameters."""
        return self._values.keys()

    @property
    def pairs(self) -> Sequence[tuple[str, str]]:
        """The parameters in their order, each as often as it was given."""
        return self._pairs

    def once(self, name: str) -> str:
        """The value of a parameter that may be given once, "" when it is not. Raises BadRequest."""
        if len(self._values) < len(self._pairs) and [name for name, _ in self._pairs].count(name) > 1:
            raise BadRequest(f"{name} is given twice")
        return self._values.get(name, "")

    def flag(self, name: str) -> bool:
        """A parameter that is true or false; false when it is absent. Raises BadRequest for anything else."""
        value = self.once(name).lower()
        if value not in ("", "true", "false"):
            raise BadRequest(f"{name} must be true or false")
        return value == "true"

    def __getitem__(self, name: str) -> str:
        last = self._values[name]
        return last or next((value for given, value in self._pairs[::-1] if given == name and value), "")

    def __iter__(self) -> Any:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


@contextlib.asynccontextmanager
async def missing_first(look: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    """What the block refuses with BadRequest is refused only where `look` finds what the path names."""
    try:
        yield
    except BadRequest:
        await look()  # which raises RecordNotFound
        raise


def page_request(query: Mapping[str, str]) -> PageRequest:
    """The page that a query asks for. Raises BadRequest for a bad size, or for two cursors."""
    after, before = query.get("page[after]", ""), query.get("page[before]", "")
    if after and before:
        raise BadRequest("page[after] and page[before] cannot be used together")
    size = size_of(query, "page[size]", PAGE_SIZE_LIMIT)
    return PageRequest(size, after or before or None, is_backwards=bool(before))


def size_of(query: Mapping[str, str], name: str, limit: int) -> int:
    """How many items a page may have: the limit where nothing is said. Raises BadRequest."""
    text = query.get(name, "")
    if not text:
        return limit
    size = int(text) if text.isdecimal() and text.isascii() and len(text) <= len(str(limit)) else 0
    if not 1 <= size <= limit:
        raise BadRequest(f"{name} must be a number from 1 to {limit}")
    return size


def comma_separated(query: Mapping[str, str], name: str, limit: int = 100) -> list[str] | None:
    """The values of a parameter that lists some, blanks and tabs around them stripped; None for none.

    Raises TooManyValues.
    """
    if name not in query:
        return None
    values = [value for value in (part.strip(" \t") for part in query[name].split(",")) if value]
    if len(values) > limit:
        raise TooManyValues(name, limit)
    return values or None


def _pairs(raw: bytes) -> list[tuple[str, str]]:
    """The parameters of a query in their order.

    Raises BadRequest for a query that cannot be read, RecordInvalid for text that cannot be stored.
    """
    if _PLAIN_QUERY.fullmatch(raw):  # there is no need of the library, which takes its time
        return [(name, value) for name, _, value in [pair.partition("=") for pair in raw.decode().split("&")]]
    try:
        query = raw.decode("utf-8")
        pairs = _parsed(query)
        if b";" in raw or b"?" in raw:
            pairs += _parsed(_misread(query))
    except UnicodeDecodeError:
        raise BadRequest("The query is not UTF-8") from None
    except ValueError:
        raise BadRequest(f"The query has more than {_QUERY_LIMIT} parameters") from None
    for name, value in pairs:
        if (problem := json_body.unstorable(name + value)) is not None:
            raise RecordInvalid({shortened(name).replace("\0", "\\u0000") or "base": [problem]})
    return pairs


def _parsed(query: str) -> list[tuple[str, str]]:
    return parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=_QUERY_LIMIT)


def _misread(query: str) -> str:
    """What the values would have of parameters if these were separated so; each begins with its separator.

    The values keep it, too: `external_id=A;B` is one value.
    """
    values = (pair.partition("=")[2] for pair in query.split("&"))
    return "&".join(part for value in values for part in _MISREAD.findall(value))


async def authenticate(scope: Scope) -> Principal:
    """Who sends the request: looked up once, whoever asks. Raises NotAuthenticated."""
    principal = known_principal(scope)
    if principal is None:
        authorization = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        principal = scope[_PRINCIPAL] = await scope["app"].state.service.authenticate(authorization)
    return principal


def known_principal(scope: Scope) -> Principal | None:
    """Who sends the request, as far as that has been looked up."""
    principal: Principal | None = scope.get(_PRINCIPAL)
    return principal


def as_handler(
    endpoint: Endpoint, *, admin_only: bool, is_bulk: bool = False, has_pages: bool = False
) -> Handler:
    """The endpoint behind authentication; one that takes many things at once has a larger body."""
    if has_pages:
        endpoint = _with_memory_of_a_page(endpoint)

    async def handle(scope: Scope, receive: Receive) -> Response:
        service: Service = scope["app"].state.service
        headers = _headers(scope["headers"])
        principal = await authenticate(scope)
        CALLER.set(principal.account_id)
        parameters = scope["path_params"]
        if "key" in parameters:  # some clients ask for an object by the name of a class
            parameters["key"] = parameters["key"].lower()
        if admin_only:
            auth.require_admin(principal)
        query = Query(scope["query_string"])
        settings = service.settings
        limit = settings.job_body_limit_bytes if is_bulk else settings.body_limit_bytes
        call = Call(scope, receive, headers, service, principal, query, limit)
        try:
            return await endpoint(call)
        finally:
            if call.held is not None:
                call.held.release()

    return handle


def _headers(lines: Sequence[tuple[bytes, bytes]]) -> request_body.Headers:
    """The headers of a request by their names: of one on several lines the first, or a list of all."""
    headers = dict(reversed(lines))
    if len(headers) < len(lines):  # which is rare, and costs nothing where it is not so
        for listed in _LISTED & headers.keys():
            headers[listed] = b", ".join(value for name, value in lines if name == listed)
    return headers


def _with_memory_of_a_page(endpoint: Endpoint) -> Endpoint:
    """The endpoint, which begins when there is memory for what it answers."""

    async def answered(call: Call) -> Response:
        held = call.scope[_HELD] = await call.service.memory.pages.take(
            call.principal.account_id, _PAGE_BYTES
        )
        response = await endpoint(call)
        held.keep(len(response.body))
        return response

    return answered


async def release_memory(scope: Scope) -> None:
    """Gives back the memory of a page, once the caller has taken it or has gone."""
    held: Held | None = scope.get(_HELD)
    if held is not None:
        try:
            if (taken := scope.get("extensions", {}).get(TAKEN)) is not None:
                await taken()
        finally:
            held.release()


def api_url(
    scope: Scope,
    headers: request_body.Headers,
    trusted_proxies: tuple[Network, ...],
    host_proxies: tuple[Network, ...] = (),
) -> str:
    """The address of /api/v2 as the caller sees it.

    A trusted proxy may name its own scheme, and one of `host_proxies` its own host.
    """
    scheme, host = scope["scheme"], headers.get(b"host", b"")
    if b"x-forwarded-proto" in headers or b"x-forwarded-host" in headers:
        client = scope.get("client")
        caller = client[0] if client else ""
        if _is_among(caller, trusted_proxies):
            forwarded = _first(headers.get(b"x-forwarded-proto", b"")).lower().decode("latin-1")
            scheme = forwarded if forwarded in ("http", "https") else scheme
        if _is_among(caller, host_proxies):
            forwarded_host = _first(headers.get(b"x-forwarded-host", b""))
            host = forwarded_host if _HOST.fullmatch(forwarded_host) else host
    return _root_url(scheme, host if len(host) <= _HOST_BYTES else b"", scope.get("server"))


def _first(listed: bytes) -> bytes:
    return listed.partition(b",")[0].strip()


@lru_cache(maxsize=1024)
def _root_url(scheme: str, host: bytes, server: tuple[str, int | None] | None) -> str:
    if _HOST.fullmatch(host):
        return f"{scheme}://{host.decode('ascii')}/api/v2"
    name, port = server or ("localhost", None)
    return f"{scheme}://{name}:{port}/api/v2" if port else f"{scheme}://{name}/api/v2"


def _is_among(caller: str, proxies: tuple[Network, ...]) -> bool:
    try:
        address = ip_address(caller)
    except ValueError:
        return False
    # a socket that listens on IPv6 and IPv4 alike sees an IPv4 caller as ::ffff:a.b.c.d
    address = getattr(address, "ipv4_mapped", None) or address
    return any(address in network for network in proxies)


def _quoted(part: str) -> str:
    return part if _PLAIN.fullmatch(part) else quote(part, safe=":")
