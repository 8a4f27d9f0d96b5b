"""How answers leave and requests come, by the byte: the protocol alone, on the loop that it is served on."""

import asyncio
import gc
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import pytest
import uvicorn
import uvloop
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from upsert_svc import server
from upsert_svc.http import limits
from upsert_svc.http.exchange import Exchange
from upsert_svc.http.protocol import BoundedHttp, traffic_of

HEADER_SECONDS = 0.4
EXPECTING = b"POST /%b HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
GET = b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers the path and the length of the body, in the way that the path asks for."""
    path = scope["path"].strip("/")
    read, has_more = 0, path != "unread"
    while has_more:
        message = await receive()
        read += len(message.get("body", b""))
        has_more = message.get("more_body", False)
    if path == "later":
        await asyncio.sleep(0.2)
    status, headers, pieces = 200, [], [f"{path} {read}".encode()]
    match path:
        case "empty":
            status, pieces = 204, [b""]
        case "close":
            headers = [(b"connection", b"close")]
        case "large":
            pieces = [b"x" * 300_000]
        case "pieces":
            pieces = [b"one,", b"HTTP/1.1 is what it begins with,", b"three"]
    if status != 204:
        headers.append((b"content-length", str(sum(map(len, pieces))).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    if scope["method"] == "HEAD":
        pieces = [b""]
    for place, piece in enumerate(pieces, 1):
        await send({"type": "http.response.body", "body": piece, "more_body": place < len(pieces)})
        await asyncio.sleep(0.02)


class Hasty(BoundedHttp):
    header_timeout_seconds = HEADER_SECONDS


class _Server(uvicorn.Server):
    """Runs in a thread, where there are no signals to be caught."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A server with that application, in a thread of its own."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        options = server.options(shutdown_timeout_seconds=1) | {"http": Hasty}
        http_server = _Server(uvicorn.Config(app, lifespan="off", timeout_keep_alive=1, **options))
        thread = threading.Thread(target=lambda: uvloop.run(http_server.serve(sockets=[listening])))
        thread.start()
        while not http_server.started:
            time.sleep(0.01)
        yield listening.getsockname()[1]
        http_server.should_exit = True
        thread.join()


@pytest.fixture
def line(port: int) -> Iterator["Line"]:
    with socket.create_connection(("127.0.0.1", port), timeout=3) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield Line(connection)


class Line:
    """A client that writes and reads bytes."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._rest = b""

    def send(self, *pieces: bytes, pause: float = 0) -> None:
        for piece in pieces:
            self._connection.sendall(piece)
            time.sleep(pause)

    def chunk(self) -> bytes:
        """What arrives first; nothing once the server has hung up."""
        return self._connection.recv(1 << 20)

    def answer(self, *, method: str = "GET") -> bytes:
        """The body of the next answer; with its head when it can have none."""
        while b"\r\n\r\n" not in self._rest:
            self._more()
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        lengths = [int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")]
        if method == "HEAD" or not lengths:
            return head
        while len(self._rest) < lengths[0]:
            self._more()
        body, self._rest = self._rest[: lengths[0]], self._rest[lengths[0] :]
        return body

    def _more(self) -> None:
        chunk = self.chunk()
        assert chunk, f"the server has hung up after {self._rest!r}"
        self._rest += chunk

    def seconds_until_hung_up(self) -> float:
        """How long the server goes on; it must say nothing more."""
        started = time.monotonic()
        with suppress(ConnectionResetError):
            assert self.chunk() == b""
        return time.monotonic() - started


# How answers leave


class Kept:
    """A transport that keeps what is written, a write at a time."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.is_closed = False

    def is_closing(self) -> bool:
        return self.is_closed

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def writelines(self, pieces: Sequence[bytes]) -> None:
        self.written.append(b"".join(pieces))

    def close(self) -> None:
        self.is_closed = True

    write_eof = close

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, _name: str) -> None:
        return None

    def set_write_buffer_limits(self, *, high: int, low: int) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


async def served(*chunks: bytes) -> Kept:
    """What the protocol writes when it receives these chunks."""
    kept, config = Kept(), uvicorn.Config(app, lifespan="off", **server.options(shutdown_timeout_seconds=1))
    protocol = Hasty(config, ServerState(), {})
    protocol.connection_made(kept)
    for chunk in chunks:
        for start in range(0, len(chunk), 1 << 16):
            piece = chunk[start : start + (1 << 16)]
            protocol.get_buffer(-1)[: len(piece)] = piece
            protocol.buffer_updated(len(piece))
    while (protocol._exchange or protocol._rest) and not kept.is_closed:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    protocol.connection_lost(None)
    return kept


@pytest.mark.parametrize("path", [b"x", b"empty", b"close", b"large"])
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
async def test_an_answer_leaves_in_one_piece(method: bytes, path: bytes) -> None:
    kept = await served((GET % path).replace(b"GET", method))
    (answer,) = kept.written
    assert answer.startswith(b"HTTP/1.1 20")


async def test_answers_to_requests_sent_at_once_leave_in_one_piece_each() -> None:
    kept = await served(GET % b"later" + GET % b"x" + GET % b"empty", GET % b"y")
    ends = [answer.rpartition(b"\r\n\r\n")[2] for answer in kept.written]
    assert ends == [b"later 0", b"x 0", b"", b"y 0"]


def test_a_large_answer_and_one_in_pieces_arrive_whole(line: Line) -> None:
    line.send(GET % b"large")
    assert line.answer() == b"x" * 300_000
    line.send(GET % b"pieces")
    assert line.answer() == b"one,HTTP/1.1 is what it begins with,three"
    line.send(GET % b"x")
    assert line.answer() == b"x 0"


def test_a_piece_of_an_answer_does_not_wait_for_the_next(line: Line) -> None:
    line.send(GET % b"pieces")
    assert line.chunk().endswith(b"\r\n\r\none,")


def test_answers_without_a_body_arrive_and_the_next_behind_them(line: Line) -> None:
    for _ in range(3):
        line.send(b"HEAD /x HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"content-length: 3" in line.answer(method="HEAD")
        line.send(GET % b"empty")
        assert line.answer().startswith(b"HTTP/1.1 204 ")
        line.send(GET % b"x")
        assert line.answer() == b"x 0"


@pytest.mark.parametrize(
    ("sent", "end"),
    [
        (GET % b"close", b"\r\n\r\nclose 0"),
        (b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", b"\r\n\r\nx 0"),
        (b"GET /x HTTP/1.0\r\n\r\n", b"\r\n\r\nx 0"),
        (b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", b"x" * 300_000),
        (b"HEAD /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", b"\r\n\r\n"),
        (b"GET /empty HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", b"\r\n\r\n"),
        (b"no HTTP\r\n\r\n", b'{"error":"BadRequest","description":"Invalid HTTP request received."}'),
    ],
    ids=["the service closes", "the client closes", "HTTP/1.0", "large", "HEAD", "empty", "refused"],
)
def test_the_last_answer_of_a_connection_arrives_whole(line: Line, sent: bytes, end: bytes) -> None:
    line.send(sent)
    arrived = b""
    while chunk := line.chunk():
        arrived += chunk
    assert arrived.startswith(b"HTTP/1.1 ")
    assert arrived.endswith(end)
    assert b"connection: close" in arrived.lower()


# How requests come


def test_who_expects_100_continue_is_told_at_once_and_answered_later(line: Line) -> None:
    line.send(EXPECTING % b"later")
    started = time.monotonic()
    assert line.chunk() == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert time.monotonic() - started < 1
    line.send(b"12345")
    assert line.answer() == b"later 5"


def test_who_expects_100_continue_and_is_refused_is_told_that_alone(line: Line) -> None:
    line.send(EXPECTING % b"unread")
    assert line.chunk().endswith(b"\r\n\r\nunread 0")


def test_requests_sent_at_once_are_answered_in_order(line: Line) -> None:
    paths = [b"later", b"x", b"empty", b"pieces", b"y"]
    line.send(b"".join(GET % path for path in paths))
    answers = [line.answer() for _ in paths]
    assert answers[:2] == [b"later 0", b"x 0"]
    assert answers[2].startswith(b"HTTP/1.1 204 ")
    assert answers[3:] == [b"one,HTTP/1.1 is what it begins with,three", b"y 0"]


def test_requests_that_arrive_byte_by_byte_are_answered(line: Line) -> None:
    posted = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
    line.send(*((posted + GET % b"y")[place : place + 1] for place in range(len(posted + GET % b"y"))))
    assert [line.answer(), line.answer()] == [b"x 3", b"y 0"]


@pytest.mark.parametrize(
    "before", [b"", GET % b"x", b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"]
)
@pytest.mark.parametrize("sent", [b"G", b"GET /y HTTP/1.1\r\n", b"GET /y HTTP/1.1\r\nHost: a\r\nX-A: "])
def test_headers_that_never_end_are_hung_up_on(line: Line, before: bytes, sent: bytes) -> None:
    if before:
        line.send(before)
        line.answer()
    line.send(sent)
    assert HEADER_SECONDS / 2 < line.seconds_until_hung_up() < HEADER_SECONDS + 1


def test_a_body_that_nobody_wants_is_not_awaited_for_ever(line: Line) -> None:
    line.send(b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n")
    assert line.answer() == b"unread 0"
    assert HEADER_SECONDS / 2 < line.seconds_until_hung_up() < HEADER_SECONDS + 1


@pytest.mark.parametrize("before", [b"", GET % b"x"], ids=["new", "kept alive"])
def test_a_connection_that_says_nothing_is_hung_up_on(line: Line, before: bytes) -> None:
    if before:
        line.send(before)
        line.answer()
    assert line.seconds_until_hung_up() < 1.5


def test_headers_that_drip_in_are_hung_up_on(line: Line) -> None:
    line.send(GET % b"x", b"GET /y HTTP/1.1\r\nX-A: ")
    line.answer()
    started = time.monotonic()
    with suppress(ConnectionError):
        while time.monotonic() - started < 3:
            line.send(b"a", pause=0.02)
    assert HEADER_SECONDS / 2 < time.monotonic() - started < HEADER_SECONDS + 1


def test_headers_behind_a_request_that_is_under_way_are_hung_up_on(line: Line) -> None:
    line.send(GET % b"later" + b"GET /y HTTP/1.1\r\nX-A: ")
    assert line.answer() == b"later 0"
    assert line.seconds_until_hung_up() < HEADER_SECONDS + 1


@pytest.mark.parametrize("pause", [0, HEADER_SECONDS * 1.5])
def test_a_request_that_has_come_whole_has_all_its_time(line: Line, pause: float) -> None:
    """No timer of the headers is left running, whether the body comes with them or later."""
    head, piece = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n", b"abc"
    for _ in range(2):
        line.send(*([head, piece] if pause else [head + piece]), pause=pause)
        assert line.answer() == b"x 3"


def test_an_idle_connection_is_hung_up_on_though_it_sends_empty_lines(line: Line) -> None:
    line.send(GET % b"x")
    line.answer()
    line.send(b"\r\n")
    assert line.seconds_until_hung_up() < 3


@pytest.mark.parametrize("size", [1000, 60_000, 100_000, 250_000])
def test_a_large_body_leaves_the_next_headers_their_room(line: Line, size: int) -> None:
    head = f"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n".encode()
    line.send(head + b"x" * size, b"GET /y HTTP/1.1\r\nHo", pause=0.1)
    line.send(b"st: a\r\n\r\n")
    assert [line.answer(), line.answer()] == [f"x {size}".encode(), b"y 0"]


@pytest.mark.parametrize(
    "cut",
    ["nowhere", "in the head", "behind the head", "in the body", "behind the body"],
)
async def test_a_large_body_in_one_chunk_with_the_next_headers_leaves_them_their_room(cut: str) -> None:
    size = 100_000
    head = f"POST /later HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n".encode()
    sent = head + b"x" * size + b"GET /y HTTP/1.1\r\nHo"
    place = {
        "nowhere": 0,
        "in the head": 20,
        "behind the head": len(head),
        "in the body": len(head) + 1000,
        "behind the body": len(head) + size,
    }[cut]
    kept = await served(sent[:place], sent[place:], b"st: a\r\n\r\n")
    ends = [answer.rpartition(b"\r\n\r\n")[2] for answer in kept.written]
    assert ends == [f"later {size}".encode(), b"y 0"]


async def test_headers_that_begin_in_the_chunk_of_a_body_are_bounded_too() -> None:
    head = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n"
    large = b"GET /y HTTP/1.1\r\nHost: a\r\nX-A: " + b"a" * 200_000
    kept = await served(head, b"abc" + large, b"a\r\n\r\n")
    assert b"y 0" not in b"".join(kept.written)


PIPELINE = (
    b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n\r\n\r\n"
    b"POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n\r\n\r\n\r\n0\r\nX-A: b\r\n\r\n"
    b"\r\n\r\nGET /c HTTP/1.1\r\nHost: a\r\n\r\n"
    b"POST /d HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
    b"GET /e HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"
    b"GET /f HTTP/1.1\r\nHost: a\r\n\r\n"
)


async def test_wherever_a_pipeline_is_cut_its_requests_are_answered_one_by_one() -> None:
    for place in range(len(PIPELINE)):
        kept = await served(PIPELINE[:place], PIPELINE[place:])
        ends = [answer.rpartition(b"\r\n\r\n")[2] for answer in kept.written]
        assert ends == [b"a 4", b"b 4", b"c 0", b"d 0", b"e 0", b"f 0"], place


async def test_a_pipeline_that_comes_byte_by_byte_is_answered_one_by_one() -> None:
    kept = await served(*(PIPELINE[place : place + 1] for place in range(len(PIPELINE))))
    ends = [answer.rpartition(b"\r\n\r\n")[2] for answer in kept.written]
    assert ends == [b"a 4", b"b 4", b"c 0", b"d 0", b"e 0", b"f 0"]


# What the application does wrong, and what ends it


async def failing(scope: Scope, receive: Receive, send: Send) -> None:
    match scope["path"]:
        case "/raises":
            raise LookupError
        case "/nothing":
            return
        case "/injects":
            headers = [(b"location", b"/\r\nset-cookie: a=b")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
        case "/lies":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
            await send({"type": "http.response.body", "body": b"abc"})
        case "/body":
            await send({"type": "http.response.body", "body": b"abc"})
        case "/waits":
            await asyncio.Event().wait()


async def failed(path: bytes) -> tuple[bytes, ServerState]:
    kept, state = Kept(), ServerState()
    config = uvicorn.Config(failing, lifespan="off", **server.options(shutdown_timeout_seconds=1))
    protocol = Hasty(config, state, {})
    protocol.connection_made(kept)
    piece = GET % path
    protocol.get_buffer(-1)[: len(piece)] = piece
    protocol.buffer_updated(len(piece))
    if path == b"waits":
        for task in state.tasks:
            task.cancel()
    while state.tasks:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    protocol.connection_lost(None)
    return b"".join(kept.written), state


@pytest.mark.parametrize("path", [b"raises", b"nothing", b"injects", b"lies", b"body"])
async def test_a_bug_of_the_application_is_a_500_that_ends_the_connection(path: bytes) -> None:
    said, _ = await failed(path)
    assert said.startswith(b"HTTP/1.1 500 ")
    assert b"connection: close\r\n" in said
    assert b"cookie" not in said
    assert b'"error":"InternalServerError"' in said


async def test_a_request_that_is_cancelled_is_told_503(caplog: pytest.LogCaptureFixture) -> None:
    said, _ = await failed(b"waits")
    assert said.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 1\r\n" in said
    assert b"connection: close\r\n" in said
    assert not caplog.records


async def test_a_connection_that_has_ended_leaves_nothing_for_the_collector() -> None:
    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            await served(GET % b"x" + EXPECTING % b"y" + b"12345")
        await asyncio.sleep(0.6)  # the clock has seen that nothing is left
        left = [thing for thing in gc.get_objects() if isinstance(thing, BoundedHttp | Exchange)]
    finally:
        gc.enable()
    assert left == []


ENDS = [
    b"",
    GET % b"later",
    GET % b"later" + GET % b"x" * 100,
    EXPECTING % b"later" + b"123",
    EXPECTING % b"unread" + b"123",
    b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n" + b"x" * 300_000,
    b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n" + b"x" * 300_000,
    b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\nno size",
    b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-A: " + b"a" * 20_000,
    b"GET /x HTTP/1.1\r\nX-A: " + b"a" * 30_000,
    b"GET /later HTTP/1.1\r\nX-A: " + b"a" * 30_000 + b"\r\n\r\n" + GET % b"x",
    b"GET /x HTTP/1.1\r\nX-A: " + b"a" * 70_000,
    b"no HTTP\r\n\r\n" + GET % b"x",
    GET % b"close" + GET % b"x",
]


@pytest.mark.parametrize("requests", [1000, 0], ids=["taken", "refused"])
@pytest.mark.parametrize("sent", ENDS)
async def test_however_a_connection_ends_nothing_of_it_is_counted_any_more(
    sent: bytes, requests: int
) -> None:
    kept, state = Kept(), ServerState()
    config = uvicorn.Config(app, lifespan="off", **server.options(shutdown_timeout_seconds=1))
    protocol = Hasty(config, state, {limits.STATE: limits.Limits(requests=requests)})
    traffic = traffic_of(state)
    protocol.connection_made(kept)
    for start in range(0, len(sent), 1 << 16):
        room = protocol.get_buffer(-1)
        piece = sent[start : start + len(room)]
        room[: len(piece)] = piece
        protocol.buffer_updated(len(piece))
        await asyncio.sleep(0)
    protocol.connection_lost(None)
    await asyncio.gather(*state.tasks)
    await asyncio.sleep(0)  # what is done when a task has ended
    assert (traffic.received_bytes, traffic.head_bytes, traffic.admission.count) == (0, 0, 0)
    assert not any((traffic.silent, traffic.kept, traffic.lingering, state.connections, state.tasks))


@pytest.mark.parametrize("sent", [GET % b"x", b"POST /x HTTP/1.1\r\nContent-Length: 5\r\n\r\nab"])
async def test_who_is_still_to_be_told_of_a_refusal_is_told_when_the_connection_ends(sent: bytes) -> None:
    kept, state = Kept(), ServerState()
    config = uvicorn.Config(app, lifespan="off", **server.options(shutdown_timeout_seconds=1))
    protocol = Hasty(config, state, {limits.STATE: limits.Limits(requests=0)})
    protocol.connection_made(kept)
    protocol.get_buffer(-1)[: len(sent)] = sent
    protocol.buffer_updated(len(sent))
    assert not kept.written
    protocol.shutdown()
    protocol.shutdown()
    assert kept.is_closed
    assert [said[:13] for said in kept.written] == [b"HTTP/1.1 503 "]
    protocol.connection_lost(None)
