"""The reader of bodies: which media types, what size, until when."""

import asyncio
import contextlib
import inspect
import re
import time
from collections.abc import Coroutine
from typing import Any

import pytest

from upsert_svc.api import request_body
from upsert_svc.errors import (
    BadRequest,
    PayloadTooLarge,
    RequestTimeout,
    ServiceError,
    UnsupportedMediaType,
)


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "application/json",
        "Application/JSON; charset=UTF-8",
        'application/json;charset="utf-8"',
        "text/plain",
        "text/plain; charset=us-ascii",
        "application/json; odata=verbose",
        'application/json; profile="a,b;c"',
        "application/json, application/json",
        "application/json; charset=utf-8, application/json; charset=utf-8",
        "application/json,text/plain;charset=us-ascii",
        "application/json, ",
        "application/json; xcharset=latin1",
        "application/json; x-charset=latin1; charset=utf-8",
        'application/json; note="a; charset=latin1"',
        "application/json; charset=",
        "application/json ; charset = utf-8 ; x",
    ],
)
def test_json_and_plain_text_are_taken(content_type: str) -> None:
    request_body.require_json(content_type.encode())
    for encoding in (b"identity", b"Identity, identity", b" "):
        request_body.require_json(content_type.encode(), encoding)


@pytest.mark.parametrize(
    ("content_type", "encoding"),
    [
        ("application/xml", ""),
        ("application/x-www-form-urlencoded", ""),
        ("multipart/form-data; boundary=x", ""),
        ("application/jsonp", ""),
        ("application/json; charset=utf-16", ""),
        ("application/json; charset=latin1", ""),
        ("application/json; charset=utf-8; charset=latin1", ""),
        ("application/json; x;charset=latin1", ""),
        ("application/json", "gzip"),
        ("application/json", "identity, gzip"),
        ("application/json", "utf-8"),
        ("application/json, text/xml", ""),
        ("text/xml, application/json", ""),
        ("application/json, application/json; charset=utf-16", ""),
        ('application/json; profile="a, text/plain', "x"),
    ],
)
def test_other_media_types_and_encodings_are_refused_by_their_value(content_type: str, encoding: str) -> None:
    with pytest.raises(UnsupportedMediaType) as caught:
        request_body.require_json(content_type.encode(), encoding.encode())
    told = str(caught.value.description)
    if encoding:
        assert f"Content-Encoding: {encoding} is not taken" in told
    elif charset := re.search(r"charset=(utf-16|latin1)", content_type):
        assert f"Content-Type says {charset[0]}" in told
    else:
        assert told == f"Content-Type must be application/json, not {content_type}"


@pytest.mark.parametrize(
    "sent",
    [b"," * 60_000, b'"' * 60_001, b'a"b",' * 10_000, b";," * 30_000, b";a" * 30_000, b";" + b" " * 60_000],
)
def test_a_long_content_type_is_judged_in_a_moment(sent: bytes) -> None:
    started = time.monotonic()
    with contextlib.suppress(UnsupportedMediaType):
        request_body.require_json(sent)
    assert time.monotonic() - started < 0.5


class Arriving:
    """The messages of a request's body, each after a pause."""

    def __init__(self, *pieces: bytes, pause: float = 0, breaks_off: bool = False) -> None:
        self._pieces = list(pieces)
        self._pause = pause
        self._breaks_off = breaks_off

    async def receive(self) -> dict[str, Any]:
        if self._pause:
            await asyncio.sleep(self._pause)
        if not self._pieces:
            assert self._breaks_off
            return {"type": "http.disconnect"}
        piece = self._pieces.pop(0)
        more = bool(self._pieces) or self._breaks_off
        return {"type": "http.request", "body": piece, "more_body": more}

    async def read(self, headers: request_body.Headers | None = None, *, seconds: float = 5) -> bytes:
        request_body.expected_bytes(headers or {}, 100)
        return await request_body.read(self.receive, limit_bytes=100, timeout_seconds=seconds)


PIECES = (b'{"a"', b"", b": 1", b"}")


@pytest.mark.parametrize("pause", [0, 0.001])
async def test_a_body_that_comes_in_pieces_is_read_whole(pause: float) -> None:
    assert await Arriving(*PIECES, pause=pause).read() == b'{"a": 1}'
    assert await Arriving(b"", pause=pause).read() == b""


async def test_a_body_that_is_there_is_read_whatever_the_time() -> None:
    assert await Arriving(*PIECES).read(seconds=0) == b'{"a": 1}'


@pytest.mark.parametrize("pause", [0, 0.001])
@pytest.mark.parametrize(
    ("pieces", "headers", "error"),
    [
        ([b"x" * 60, b"x" * 41], {}, PayloadTooLarge),
        ([b"x"], {b"content-length": b"101"}, PayloadTooLarge),
        ([b"x"], {b"content-length": b"9" * 5000}, PayloadTooLarge),
        ([b"x"], {b"content-type": b"application/xml"}, UnsupportedMediaType),
        ([b"{"], {}, BadRequest),
        ([], {}, BadRequest),
    ],
    ids=["too large", "said to be", "said to be huge", "no JSON", "broken off", "never begun"],
)
async def test_a_body_that_cannot_be_taken_is_refused_in_pieces_or_whole(
    pause: float, pieces: list[bytes], headers: dict[bytes, bytes], error: type[ServiceError]
) -> None:
    with pytest.raises(error):
        await Arriving(*pieces, pause=pause, breaks_off=True).read(headers)


@pytest.mark.parametrize("pieces", [[b"{}"], [b"{", b"}"], [b" "] * 100], ids=["whole", "half", "dripping"])
async def test_a_body_that_does_not_come_in_time_is_refused(pieces: list[bytes]) -> None:
    pause = 0.04 if len(pieces) > 2 else 5
    started = time.monotonic()
    with pytest.raises(RequestTimeout):
        await Arriving(*pieces, pause=pause).read(seconds=0.1)
    assert 0.05 < time.monotonic() - started < 1


class Reading:
    """A reading that waits twice for more, and what became of it."""

    def __init__(self) -> None:
        self.more = [asyncio.Event(), asyncio.Event()]
        self.has_ended = False
        self.coroutine = self._read()

    async def _read(self) -> bytes:
        try:
            for more in self.more:
                await more.wait()
            return b"read"
        finally:
            self.has_ended = True

    @property
    def leaves_nothing(self) -> bool:
        return self.has_ended and inspect.getcoroutinestate(self.coroutine) == inspect.CORO_CLOSED


async def test_a_reading_goes_on_from_where_it_waits() -> None:
    reading = Reading()
    task = asyncio.create_task(request_body._within(5, reading.coroutine))
    for more in reading.more:
        await asyncio.sleep(0)
        more.set()
    assert await task == b"read"
    assert reading.leaves_nothing


@pytest.mark.parametrize("waits", [1, 2])
async def test_a_reading_that_is_cancelled_leaves_nothing_behind(waits: int) -> None:
    reading = Reading()
    task = asyncio.create_task(request_body._within(5, reading.coroutine))
    await asyncio.sleep(0)
    if waits == 2:
        reading.more[0].set()
        await asyncio.sleep(0.01)
    assert not reading.has_ended
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert reading.leaves_nothing


@pytest.mark.parametrize("waits", [1, 2])
async def test_a_reading_that_takes_too_long_leaves_nothing_behind(waits: int) -> None:
    reading = Reading()
    if waits == 2:
        asyncio.get_running_loop().call_later(0.02, reading.more[0].set)
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(request_body._within(0.1, reading.coroutine), 2)
    assert time.monotonic() - started < 1
    assert reading.leaves_nothing


async def test_a_reading_that_fails_while_it_waits_fails_alone() -> None:
    more = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.01, more.set_exception, ConnectionResetError())

    async def read() -> bytes:
        await more
        return b""

    coroutine: Coroutine[Any, Any, bytes] = read()
    with pytest.raises(ConnectionResetError):
        await request_body._within(5, coroutine)
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


async def test_time_in_which_the_server_does_not_listen_counts_in_no_timeout() -> None:
    waited = iter([0.0, 0.0, 0.05])
    looks: list[float] = []

    def waited_seconds() -> float:
        looks.append(next(waited))
        return looks[-1]

    arriving = Arriving(*PIECES, pause=5)
    with pytest.raises(RequestTimeout):
        await request_body.read(
            arriving.receive, limit_bytes=100, timeout_seconds=0.05, waited_seconds=waited_seconds
        )
    assert looks == [0.0, 0.0, 0.05]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, 0),
        ({b"content-length": b"7"}, 7),
        ({b"transfer-encoding": b"chunked"}, 100),
        ({b"transfer-encoding": b"chunked", b"content-length": b"9"}, 9),
    ],
)
def test_the_largest_body_that_may_come_is_known_before_it_is_read(
    headers: request_body.Headers, expected: int
) -> None:
    assert request_body.expected_bytes(headers, 100) == expected
