"""The body of a request as bytes: its media type, its size, its deadline. Nothing else reads a body."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Mapping, Set
from functools import lru_cache
from typing import Any

from starlette.types import Receive

from upsert_svc.errors import (
    BadRequest,
    PayloadTooLarge,
    RequestTimeout,
    UnsupportedMediaType,
    shortened,
)

Headers = Mapping[bytes, bytes]  # by name in lower case
Waited = Callable[[], float]  # for how many seconds the server has listened for the body

_REMEMBERED_BYTES = 200  # of headers that are looked at once
_JSON = frozenset({"", "application/json", "text/plain"})
_LINES = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl"})
_CHARSETS = frozenset({"", "utf-8", "utf8", "us-ascii"})
_ENCODINGS = frozenset({"", "identity"})
_LISTED = re.compile(r'(?:[^,"]|"[^"]*"?)+')  # a value of a list; commas in quotes separate nothing
_PARAMETER = re.compile(r';\s*([^=;\s"]+)\s*=\s*("[^"]*"?|[^;\s]*)')  # of a media type, with its value


def require_json(content_type: bytes, content_encoding: bytes = b"") -> None:
    """Raises UnsupportedMediaType unless the headers announce plain JSON in UTF-8, or nothing.

    A list is taken where each of its values is: client and framework may have set a header both.
    """
    is_short = len(content_type) + len(content_encoding) <= _REMEMBERED_BYTES
    (_require_json if is_short else _require_json.__wrapped__)(content_type, content_encoding)


def announces_lines(headers: Headers) -> bool:
    """Whether the headers announce NDJSON. Raises UnsupportedMediaType where it is not plain UTF-8."""
    content_type = headers.get(b"content-type", b"")
    if _LINES.isdisjoint(map(_media_type, _LISTED.findall(content_type.decode("latin-1")))):
        return False
    _require(content_type, headers.get(b"content-encoding", b""), _LINES, "application/x-ndjson")
    return True


@lru_cache(maxsize=256)
def _require_json(content_type: bytes, content_encoding: bytes) -> None:
    _require(content_type, content_encoding, _JSON, "application/json")


def _require(content_type: bytes, content_encoding: bytes, media_types: Set[str], name: str) -> None:
    sent_type, sent_encoding = content_type.decode("latin-1"), content_encoding.decode("latin-1")
    for listed in _LISTED.findall(sent_type):
        if _media_type(listed) not in media_types:
            raise UnsupportedMediaType(f"Content-Type must be {name}, not {shortened(sent_type)}")
        for parameter, value in _PARAMETER.findall(listed):
            if parameter.lower() == "charset" and value.strip('" ').lower() not in _CHARSETS:
                said = shortened(f"{parameter}={value}")
                raise UnsupportedMediaType(f"The body must be encoded in UTF-8, and Content-Type says {said}")
    if not {encoding.strip().lower() for encoding in sent_encoding.split(",")} <= _ENCODINGS:
        raise UnsupportedMediaType(
            f"Content-Encoding: {shortened(sent_encoding)} is not taken: the body must be sent as it is,"
            " neither compressed nor encoded (the charset of a text belongs into Content-Type)"
        )


def _media_type(listed: str) -> str:
    return listed.partition(";")[0].strip().lower()


def expected_bytes(headers: Headers, limit_bytes: int, *, of_any_kind: bool = False) -> int:
    """How large the body will be at most.

    Raises PayloadTooLarge, and UnsupportedMediaType unless it may be of any kind.
    """
    if not of_any_kind:
        require_json(headers.get(b"content-type", b""), headers.get(b"content-encoding", b""))
    announced = headers.get(b"content-length", b"")
    if announced.isdigit():
        if int(announced[:20]) > limit_bytes:
            raise PayloadTooLarge(limit_bytes)
        return int(announced)
    return limit_bytes if b"transfer-encoding" in headers else 0


async def read(
    receive: Receive, *, limit_bytes: int, timeout_seconds: float, waited_seconds: Waited | None = None
) -> bytes:
    """The whole body.

    Raises PayloadTooLarge, RequestTimeout, or BadRequest when it breaks off. Time in which the server itself
    did not listen is the client's to keep, where `waited_seconds` tells for how long it did.
    """
    try:
        return await _within(timeout_seconds, _received(receive, limit_bytes), waited_seconds)
    except TimeoutError:
        raise RequestTimeout(timeout_seconds) from None


async def _within(
    seconds: float, coroutine: Coroutine[Any, None, bytes], waited_seconds: Waited | None = None
) -> bytes:
    """What the coroutine returns. Raises TimeoutError.

    A body has nearly always come with its headers. Then there is nothing to wait for and no timer is set,
    which would cost more than all the rest of reading it.
    """
    try:
        awaited = coroutine.send(None)
    except StopIteration as returned:
        body: bytes = returned.value
        return body
    async with _deadline(seconds, waited_seconds or (lambda: seconds)):
        return await _Begun(coroutine, awaited)


@contextlib.asynccontextmanager
async def _deadline(seconds: float, waited_seconds: Waited) -> AsyncIterator[None]:
    """Raises TimeoutError in the block when the server has listened for so long."""
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle

    def look() -> None:
        nonlocal timer
        left = seconds - waited_seconds()
        if left <= 0:
            timeout.reschedule(loop.time())
        else:
            timer = loop.call_later(left, look)

    async with asyncio.timeout(None) as timeout:
        timer = loop.call_later(seconds, look)
        try:
            yield
        finally:
            timer.cancel()


class _Begun:
    """A coroutine that has run up to its first wait, to be awaited from there."""

    def __init__(self, coroutine: Coroutine[Any, None, bytes], awaited: Any) -> None:
        self._coroutine = coroutine
        self._awaited = awaited

    def __await__(self) -> Generator[Any, None, bytes]:
        try:
            yield self._awaited
        except BaseException:
            self._coroutine.close()
            raise
        return (yield from self._coroutine.__await__())


async def _received(receive: Receive, limit_bytes: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise BadRequest("The connection was closed before the body was complete")
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > limit_bytes:
            raise PayloadTooLarge(limit_bytes)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)
