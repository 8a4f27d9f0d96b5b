"""A running service over HTTP, as the import and the export need it: patient, and never too trusting.

Retries what passes. Raises TransferFailed for what does not, and for what no upsert service answers.
"""

import asyncio
import contextlib
import random
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import quote

import aiohttp
import jiter
import orjson
from yarl import URL

ATTEMPTS, FIRST_ATTEMPTS = 8, 3
RATE_LIMITED = 429
WAITS = 100  # for a rate limit, beside the attempts: others may use up one window after the other
_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_BACKOFF_SECONDS, _BACKOFF_LIMIT_SECONDS, _RETRY_AFTER_LIMIT_SECONDS = 0.25, 10.0, 300.0
_TIMEOUT_SECONDS = 30.0
_OF_LINES = {"Content-Type": "application/x-ndjson"}
# A page of 100 fields, each with its 2000 options, is the largest answer.
_ANSWER_LIMIT_BYTES = 64 << 20
_OBJECT_KEY = re.compile(r"[A-Za-z0-9_]{1,100}")


def escaped(text: str) -> str:
    """The text as a terminal may show it: what it would act on, or not show, is written as an escape."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


class TransferFailed(Exception):
    """It cannot be done, or not to its end; the message is one line for the operator, safe for a terminal."""

    def __init__(self, message: str) -> None:
        super().__init__(escaped(message))


@dataclass(frozen=True)
class Target:
    """An object of a service: its key, where the service is, and an API token for it."""

    object_key: str
    url: str
    token: str = field(repr=False)


class Request(NamedTuple):
    """What is asked. The URL is quoted already; `what` names it to the operator."""

    method: str
    url: str
    body: bytes | None
    what: str


class Answer(NamedTuple):
    status: int
    reason: str
    headers: Mapping[str, str]
    content: bytes

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    @property
    def error(self) -> Mapping[str, Any]:
        """The body of an answer that is an error; empty where it is no JSON object."""
        try:
            body = orjson.loads(self.content)
        except ValueError:
            return {}
        return body if isinstance(body, dict) else {}

    def __str__(self) -> str:
        text = self.error.get("description") or self.error.get("error") or self.reason
        return f"{self.status} {text}"


class ServiceClient:
    """One object of a service."""

    def __init__(self, session: aiohttp.ClientSession, address: str, object_key: str) -> None:
        self._session = session
        self._address = address
        self._object_key = object_key
        self.object_url = f"{address}/api/v2/custom_objects/{quote(object_key, safe='')}"

    async def fields(self) -> list[Mapping[str, Any]]:
        """The object's fields by position, the standard ones too. Fails soon if no service answers."""
        what = f"the fields of {self._object_key}"
        request = Request("GET", f"{self.object_url}/fields?include_standard_fields=true", None, what)
        pages = self.pages(request, "custom_object_fields", FIRST_ATTEMPTS)
        return [item async for page in pages for item in page]

    async def pages(
        self, request: Request, name: str, attempts: int = ATTEMPTS
    ) -> AsyncGenerator[list[Mapping[str, Any]], None]:
        """The items of each page; numbers with a fraction are jiter's LosslessFloat, exact to the digit.

        The next page is under way while the last one is worked on.
        """
        asked = asyncio.ensure_future(self.answer(request, attempts))
        try:
            while True:
                items, cursor = _page(await asked, request, name)
                if cursor is None:
                    yield items
                    return
                after = f"{request.url}&page%5Bafter%5D={quote(cursor, safe='')}"
                asked = asyncio.ensure_future(self.answer(request._replace(url=after), attempts))
                await asyncio.sleep(0)  # so that it is sent before the work begins
                yield items
        finally:
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)

    async def count(self) -> int:
        """How many records there are. Fails soon if no service answers."""
        url = f"{self.object_url}/records/count"
        what = f"the count of {self._object_key}"
        answer = await self.answer(Request("GET", url, None, what), FIRST_ATTEMPTS)
        try:
            return int(orjson.loads(answer.content)["count"]["value"])
        except (ValueError, KeyError, TypeError):
            raise TransferFailed(f"{url} is not an upsert service") from None

    async def lines(self, request: Request) -> Answer | None:
        """The answer to one try to send lines, with as many of its lines as came; None where none did."""
        try:
            return await self._answer(request, _OF_LINES, takes_part=True)
        except (aiohttp.ClientError, OSError):
            return None

    async def answer(
        self, request: Request, attempts: int = ATTEMPTS, *, also_taken: frozenset[int] = frozenset()
    ) -> Answer:
        """A success, or one of the statuses also taken, after as many tries as it takes.

        So what is asked must be safe to ask twice. Raises TransferFailed.
        """
        kind = problem = ""
        attempt = waits = 0
        while attempt < attempts:
            wished_seconds = 0.0
            is_limited = False
            try:
                answer = await self._answer(request)
            except (aiohttp.ClientError, OSError) as error:
                kind, problem = "No answer about", f"{self._address}: {_spoken(error)}"
            else:
                if answer.is_success or answer.status in also_taken:
                    return answer
                if answer.status not in _PASSING:
                    raise self._refusal(answer, request.what)
                kind, problem = "No success with", str(answer)
                wished_seconds = retry_after_seconds(answer)
                is_limited = answer.status == RATE_LIMITED and waits < WAITS
            pause_seconds = max(_backoff_seconds(attempt), wished_seconds)
            if is_limited:
                waits += 1
            else:
                attempt += 1
            if attempt < attempts:
                await asyncio.sleep(pause_seconds)
        raise TransferFailed(f"{kind} {request.what} in {attempts} tries: {problem}")

    async def _answer(
        self, request: Request, headers: Mapping[str, str] | None = None, *, takes_part: bool = False
    ) -> Answer:
        """One try. Nothing of the URL is parsed and quoted again. `takes_part`: the beginning may be all."""
        url = URL(request.url, encoded=True)
        content = bytearray()
        async with self._session.request(
            request.method, url, data=request.body, headers=headers, allow_redirects=False
        ) as response:
            try:
                await self._receive(response, content)
            except (aiohttp.ClientError, OSError):
                if not takes_part:
                    raise
            return Answer(response.status, response.reason or "", response.headers, bytes(content))

    async def _receive(self, response: aiohttp.ClientResponse, content: bytearray) -> None:
        """Takes the body of an answer. Raises TransferFailed for one that no upsert service sends."""
        async for part in response.content.iter_any():
            content += part
            if len(content) > _ANSWER_LIMIT_BYTES:
                raise TransferFailed(f"{self._address} is not an upsert service: its answer has no end")

    def _refusal(self, answer: Answer, what: str) -> TransferFailed:
        """For an answer that would come again and again."""
        if answer.status == 404 and answer.error.get("error") == "RecordNotFound":
            return TransferFailed(f"The service has no object {self._object_key}")
        if answer.status == 401:
            return TransferFailed(f"The service did not take the token: {answer}")
        if answer.status in (404, 405):
            return TransferFailed(
                f"At {self._address} no upsert service answers; "
                f"the path of the API, /api/v2, is no part of --url: {answer}"
            )
        return TransferFailed(f"The service refused {what}: {answer}")


def naming_of(fields: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The naming settings among an object's fields; empty where the service has none."""
    return next((field["properties"] or {} for field in fields if field["key"] == "standard::name"), {})


@contextlib.asynccontextmanager
async def connected(target: Target, *, connections: int) -> AsyncIterator[ServiceClient]:
    """A client that keeps up to so many connections. Raises TransferFailed for a target that is none.

    Neither proxies nor credentials are taken from the environment, and no redirect is followed.
    """
    if not target.token or not (target.token.isascii() and target.token.isprintable()):
        raise TransferFailed("A token is needed: --token or UPSERT_SVC_TOKEN")
    if not _OBJECT_KEY.fullmatch(target.object_key):
        raise TransferFailed("OBJECT must be the key of an object, of letters, digits and underscores")
    address = _address(target.url)
    headers = {"Authorization": f"Bearer {target.token}", "Content-Type": "application/json"}
    async with aiohttp.ClientSession(
        headers=headers,
        skip_auto_headers=("Accept-Encoding",),
        timeout=aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS),
        connector=aiohttp.TCPConnector(limit=connections),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
    ) as session:
        yield ServiceClient(session, address, target.object_key)


def _page(answer: Answer, request: Request, name: str) -> tuple[list[Mapping[str, Any]], str | None]:
    """The items of a page, and the cursor behind them. Raises TransferFailed."""
    try:
        page = jiter.from_json(answer.content, float_mode="lossless-float")
        return page[name], page["meta"]["after_cursor"]
    except (ValueError, KeyError, TypeError):
        raise TransferFailed(f"{request.url.partition('?')[0]} is not an upsert service") from None


def _address(url: str) -> str:
    """Where the service is, without a slash or the API's own path at the end.

    Raises TransferFailed for what is no such URL.
    """
    try:
        parsed = URL(url)
        host = _host(parsed)
    except UnicodeError:
        raise TransferFailed(f"{url}: no host can have such a name") from None
    except ValueError as error:
        raise TransferFailed(f"{url}: {error}") from None
    if parsed.scheme not in ("http", "https") or not host or not url.isprintable():
        raise TransferFailed(f"{url} is not an http or https address")
    if parsed != parsed.with_user(None).with_query(None).with_fragment(None):
        raise TransferFailed("The service's address must be without user, password, query and fragment")
    return str(parsed).rstrip("/").removesuffix("/api/v2").rstrip("/")


def _host(url: URL) -> str | None:
    """The host of a URL. Raises UnicodeError for what can be none: a part of it is empty or too long."""
    host = url.host
    (url.raw_host or "").encode("idna")
    return host


def _spoken(error: Exception) -> str:
    """What is wrong with a connection, on one line."""
    if isinstance(error, TimeoutError):
        return f"no answer in {_TIMEOUT_SECONDS:.0f} s"
    text = str(error)
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        text = str(error.certificate_error)
    elif isinstance(error, aiohttp.ClientConnectorError):
        text = error.strerror or str(error.os_error)
    elif isinstance(error, aiohttp.ClientResponseError):
        text = error.message
    return " ".join(text.split()) or type(error).__name__


def _backoff_seconds(attempt: int) -> float:
    """Twice as long each time, and never the same for two: they were turned away together."""
    longest: float = min(_BACKOFF_SECONDS * 2**attempt, _BACKOFF_LIMIT_SECONDS)
    return longest * random.uniform(0.5, 1)  # noqa: S311 (no secret)


def retry_after_seconds(answer: Answer) -> float:
    """What Retry-After asks for: seconds, or a date."""
    text = answer.headers.get("Retry-After", "").strip()
    seconds = 0.0
    if text.isdecimal():
        seconds = float(text[:9])
    elif text:
        with contextlib.suppress(ValueError):
            seconds = (parsedate_to_datetime(text).astimezone(UTC) - datetime.now(UTC)).total_seconds()
    return bounded_wait(seconds)


def bounded_wait(seconds: float) -> float:
    """For how long a service is waited for that asks for so many seconds."""
    return min(max(seconds, 0.0), _RETRY_AFTER_LIMIT_SECONDS)
