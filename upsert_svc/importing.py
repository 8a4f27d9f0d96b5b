"""`upsert-svc import`: sends the rows of a file to a running service over HTTP, each as an upsert.

Rows of one key are sent one after the other, in the file's order. What is settled is noted beside the file,
so that an import that was interrupted goes on there. Raises ImportFailed for what it cannot work with.
"""

import asyncio
import contextlib
import os
import random
import sys
import time
import unicodedata
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import quote

import aiohttp
import orjson
import uvloop
from yarl import URL

from upsert_svc.import_ledger import OUTCOMES, Files, Ledger, kept_state
from upsert_svc.import_rows import Definition, ImportFailed, Row, RowRefused, Upsert, rows

if sys.platform != "win32":
    import fcntl

ATTEMPTS, FIRST_ATTEMPTS = 8, 3
_ROW_REFUSALS = frozenset({400, 413, 414, 422, 431})
_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_BACKOFF_SECONDS, _BACKOFF_LIMIT_SECONDS, _RETRY_AFTER_LIMIT_SECONDS = 0.25, 10.0, 300.0
_TIMEOUT_SECONDS = 30.0
# A page of 100 fields, each with its 2000 options, is the largest answer.
_ANSWER_LIMIT_BYTES = 64 << 20
_ROWS_AHEAD = 16  # for each request at a time, the rows read ahead of the first unsettled one


@dataclass(frozen=True)
class Options:
    """What the command line says. `key` names the column that identifies a record."""

    object_key: str
    path: Path
    key: str
    url: str
    token: str = field(repr=False)
    concurrency: int = 32
    refused_path: Path | None = None

    @property
    def files(self) -> Files:
        return Files(self.path, self.refused_path or self.path.with_name(f"{self.path.name}.refused.ndjson"))


@dataclass(frozen=True)
class Summary:
    """What became of the rows of the file; how many of them this run sent, in how many seconds."""

    counts: Mapping[str, int]
    sent: int
    seconds: float

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {outcome}" for outcome, count in self.counts.items())
        rate = self.sent / max(self.seconds, 0.001)
        return f"{sum(self.counts.values())} rows: {counts} in {self.seconds:.1f} s ({rate:.0f} rows/s)"


# The service


class _Answer(NamedTuple):
    status: int
    reason: str
    headers: Mapping[str, str]
    content: bytes

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300


class Service:
    """The service as the import needs it: one object's definition, and upserts of its records."""

    def __init__(self, session: aiohttp.ClientSession, address: str, object_key: str, key: str) -> None:
        self._session = session
        self._address = address
        self._object_key = object_key
        self._key = key
        self._object = f"{address}/api/v2/custom_objects/{quote(object_key, safe='')}"
        parameter = "name" if key == "name" else "external_id"
        self._upsert_url = f"{self._object}/records?{parameter}="

    async def definition(self) -> Definition:
        """What the object's rows are judged by. Raises ImportFailed, soon if no service answers."""
        fields = [field async for field in self._fields()]
        names = next((field["properties"] for field in fields if field["key"] == "standard::name"), None)
        if self._key == "name" and not (names and names["is_unique"]):
            raise ImportFailed(f"--key name needs unique names, and those of {self._object_key} are not")
        types = {field["key"]: field["type"] for field in fields if field["active"] and not field["system"]}
        return Definition(self._object_key, self._key, types)

    async def _fields(self) -> AsyncIterator[Mapping[str, Any]]:
        url = f"{self._object}/fields"
        query = "include_standard_fields=true"
        while True:
            answer = await self._answer("GET", f"{url}?{query}", None, "the fields", FIRST_ATTEMPTS)
            try:
                page = orjson.loads(answer.content)
                found, cursor = page["custom_object_fields"], page["meta"]["after_cursor"]
            except (ValueError, KeyError, TypeError):
                raise ImportFailed(f"{url} is not an upsert service") from None
            for item in found:
                yield item
            if cursor is None:
                return
            query = f"include_standard_fields=true&page%5Bafter%5D={quote(cursor, safe='')}"

    async def upsert(self, line: int, upsert: Upsert) -> str | RowRefused:
        """What became of a row: created, updated, unchanged, or why it was refused. Raises ImportFailed."""
        url = self._upsert_url + quote(upsert.identifier, safe="")
        answer = await self._answer("PATCH", url, upsert.body, f"line {line}", ATTEMPTS)
        if answer.status in _ROW_REFUSALS:
            return RowRefused(_reasons(answer), answer.status)
        outcome = answer.headers.get("Upsert-Result", "")
        if outcome not in OUTCOMES:
            raise ImportFailed(f"The service took line {line} but did not say Upsert-Result")
        return outcome

    async def _answer(self, method: str, url: str, body: bytes | None, what: str, attempts: int) -> _Answer:
        """The answer, after as many tries as it takes: an upsert may be sent twice."""
        problem = ""
        for attempt in range(attempts):
            wished_seconds = 0.0
            try:
                answer = await self._request(method, url, body)
            except (aiohttp.ClientError, OSError) as error:
                problem = f"{self._address}: {_spoken(error)}"
            else:
                if answer.status not in _PASSING:
                    return self._taken(answer, method, what)
                problem, wished_seconds = _described(answer), _retry_after_seconds(answer)
            if attempt + 1 < attempts:
                await asyncio.sleep(max(_backoff_seconds(attempt), wished_seconds))
        raise ImportFailed(f"No success with {what} in {attempts} tries: {problem}")

    async def _request(self, method: str, url: str, body: bytes | None) -> _Answer:
        """One try. The URL is quoted already, so that nothing of it is parsed and quoted again."""
        quoted = URL(url, encoded=True)
        async with self._session.request(method, quoted, data=body, allow_redirects=False) as response:
            content = await self._content(response)
            return _Answer(response.status, response.reason or "", response.headers, content)

    async def _content(self, response: aiohttp.ClientResponse) -> bytes:
        """The body of an answer. Raises ImportFailed for one that no upsert service sends."""
        content = part = await response.content.readany()
        while part:
            if len(content) > _ANSWER_LIMIT_BYTES:
                raise ImportFailed(f"{self._address} is not an upsert service: its answer has no end")
            part = await response.content.readany()
            content += part
        return content

    def _taken(self, answer: _Answer, method: str, what: str) -> _Answer:
        """An answer to go on with. Raises ImportFailed for one that would come to every row."""
        if answer.is_success or (answer.status in _ROW_REFUSALS and method == "PATCH"):
            return answer
        if answer.status == 404 and _error(answer).get("error") == "RecordNotFound":
            raise ImportFailed(f"The service has no object {self._object_key}")
        raise ImportFailed(f"The service refused {what}: {_described(answer)}")


@contextlib.asynccontextmanager
async def _service(options: Options) -> AsyncIterator[Service]:
    """The service, over as many connections as rows are sent at a time. Raises ImportFailed.

    Neither proxies nor credentials are taken from the environment, and no redirect is followed.
    """
    if not options.token or not (options.token.isascii() and options.token.isprintable()):
        raise ImportFailed("A token is needed: --token or UPSERT_SVC_TOKEN")
    address = _address(options.url)
    headers = {"Authorization": f"Bearer {options.token}", "Content-Type": "application/json"}
    async with aiohttp.ClientSession(
        headers=headers,
        skip_auto_headers=("Accept-Encoding",),
        timeout=aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS),
        connector=aiohttp.TCPConnector(limit=options.concurrency),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
    ) as session:
        yield Service(session, address, options.object_key, options.key)


def _address(url: str) -> str:
    """Where the service is, without a slash at the end. Raises ImportFailed for what is no such URL."""
    try:
        parsed = URL(url)
    except ValueError as error:
        raise ImportFailed(f"{url}: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ImportFailed(f"{url} is not an http or https address")
    if parsed != parsed.with_user(None).with_query(None).with_fragment(None):
        raise ImportFailed("The service's address must be without user, password, query and fragment")
    return str(parsed).rstrip("/")


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


def _retry_after_seconds(answer: _Answer) -> float:
    """What Retry-After asks for: seconds, or a date."""
    text = answer.headers.get("Retry-After", "").strip()
    seconds = 0.0
    if text.isdecimal():
        seconds = float(text[:9])
    elif text:
        with contextlib.suppress(ValueError):
            seconds = (parsedate_to_datetime(text).astimezone(UTC) - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), _RETRY_AFTER_LIMIT_SECONDS)


def _error(answer: _Answer) -> Mapping[str, Any]:
    try:
        body = orjson.loads(answer.content)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _described(answer: _Answer) -> str:
    body = _error(answer)
    text = body.get("description") or body.get("error") or answer.reason
    return f"{answer.status} {text}"


def _reasons(answer: _Answer) -> Mapping[str, list[str]]:
    """The sentences of an error's details, else its description."""
    try:
        details = {
            key: [problem["description"] for problem in problems]
            for key, problems in _error(answer)["details"].items()
        }
    except (KeyError, TypeError, AttributeError):
        details = {}
    return details or {"base": [_described(answer)]}


# The import

_Queue = asyncio.Queue[tuple[int, Row, Upsert] | None]


def run(options: Options) -> Summary:
    """Imports the file; answers what became of its rows. Raises ImportFailed."""
    try:
        with options.path.open("rb") as file:
            _lock(file, options.path)
            return uvloop.run(_imported(file, options))
    except OSError as error:
        raise ImportFailed(f"{error.filename or options.path}: {error.strerror or error}") from None


def _lock(file: BinaryIO, path: Path) -> None:
    """Two imports of one file would write the same state; the lock goes with the process."""
    if sys.platform != "win32":
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ImportFailed(f"{path} is being imported already") from None


def _source(file: BinaryIO, options: Options) -> dict[str, Any]:
    """What a state holds for; when any of it differs, the import begins anew."""
    status = os.fstat(file.fileno())
    return {
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "object": options.object_key,
        "key": options.key,
        "url": options.url,
        "refused": str(options.files.refused.absolute()),
    }


async def _imported(file: BinaryIO, options: Options) -> Summary:
    started = time.monotonic()
    async with _service(options) as service:
        definition = await service.definition()
        state = kept_state(_source(file, options), options.files)
        source = rows(file, options.path, definition, state.position)
        with Ledger(options.files, state, rows_ahead=options.concurrency * _ROWS_AHEAD) as ledger:
            await _send_all(source, service, options.concurrency, ledger)
            ledger.publish()
    sent = sum(ledger.counts.values()) - sum(state.counts.values())
    return Summary(ledger.counts, sent, time.monotonic() - started)


async def _send_all(source: Iterator[Row], service: Service, concurrency: int, ledger: Ledger) -> None:
    """Each key has one sender, which takes its rows one by one: so the later row of a key wins."""
    queues: list[_Queue] = [asyncio.Queue() for _ in range(concurrency)]
    try:
        async with asyncio.TaskGroup() as senders:
            for queue in queues:
                senders.create_task(_send(queue, service, ledger))
            failure = await _hand_out(source, queues, ledger)
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    if failure is not None:
        raise failure


async def _hand_out(source: Iterator[Row], queues: list[_Queue], ledger: Ledger) -> ImportFailed | None:
    """Gives each row to the sender of its key; answers why the file could not be read to its end, if so."""
    failure = None
    try:
        for row in source:
            number = await ledger.admit()
            if isinstance(row.upsert, RowRefused):
                ledger.settle(number, row, row.upsert)
                await asyncio.sleep(0)  # a file of refused rows alone must not shut out Ctrl-C
            else:
                queue = queues[hash(_folded(row.upsert.identifier)) % len(queues)]
                queue.put_nowait((number, row, row.upsert))
    except ImportFailed as error:
        failure = error
    for queue in queues:
        queue.put_nowait(None)
    return failure


def _folded(identifier: str) -> str:
    """Alike for all that a service may take for one name: its rule is NFC and casefold."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", identifier).casefold())


async def _send(queue: _Queue, service: Service, ledger: Ledger) -> None:
    while (item := await queue.get()) is not None:
        number, row, upsert = item
        ledger.settle(number, row, await service.upsert(row.line, upsert))
