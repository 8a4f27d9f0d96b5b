"""What clients can make the process hold: its memory, its connections, its requests under way."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from tests.http.answering import Answering, answering
from upsert_svc.http.traffic import TICK_SECONDS

GET = b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"POST /%b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
MEGABYTE = 1 << 20
BUSY = b'{"error":"ServiceUnavailable","description":"Too many requests are under way just now"}'


@pytest.fixture(scope="module")
def service() -> Iterator[Answering]:
    with answering() as service:
        yield service


def connected(service: Answering, *, receive_bytes: int = 0) -> socket.socket:
    connection = socket.socket()
    if receive_bytes:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.settimeout(10)
    connection.connect(("127.0.0.1", service.port))
    return connection


def poured(connection: socket.socket, piece: bytes, size: int) -> int:
    """How many bytes of many such pieces the service takes, until it takes no more for a second."""
    data, sent = memoryview(piece * (size // len(piece))), 0
    connection.settimeout(1)
    with suppress(OSError):
        while sent < len(data):
            sent += connection.send(data[sent : sent + 65_536])
    return sent


def until_closed(connection: socket.socket) -> bytes:
    """All that the service says before it hangs up."""
    said = b""
    connection.settimeout(10)
    with suppress(ConnectionError):
        while chunk := connection.recv(65_536):
            said += chunk
    return said


def answers(connection: socket.socket, count: int) -> list[tuple[int, bytes]]:
    """The next answers, each with a Content-Length."""
    received = b""
    found: list[tuple[int, bytes]] = []
    connection.settimeout(10)
    while len(found) < count:
        head, end, rest = received.partition(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length")), 0
        )
        if end and len(rest) >= length:
            found.append((int(head[9:12]), rest[:length]))
            received = rest[length:]
        else:
            chunk = connection.recv(65_536)
            assert chunk, f"hung up after {len(found)} answers"
            received += chunk
    return found


# Pipelines


def test_a_flood_of_requests_that_nobody_reads_the_answers_of_takes_no_memory(service: Answering) -> None:
    before = service.megabytes()
    with connected(service) as flooding:
        sent = poured(flooding, GET % b"x", 10 * MEGABYTE)
        assert sent < 10 * MEGABYTE
        assert service.get("/y") == (200, b"/y 0")
        assert service.megabytes() < before + 4


def test_a_flood_of_requests_is_answered_in_order_and_takes_no_memory(service: Answering) -> None:
    before, count = service.megabytes(), 20_000
    with connected(service) as flooding:
        sending = threading.Thread(
            target=flooding.sendall, args=(b"".join(GET % b"%d" % number for number in range(count)),)
        )
        sending.start()
        assert answers(flooding, count) == [(200, b"/%d 0" % number) for number in range(count)]
        sending.join()
    assert service.megabytes() < before + 4


def test_others_are_answered_while_hundreds_flood(service: Answering) -> None:
    """However busy the machine is: the time is that of the process's own work before the answer."""
    with ExitStack() as stack:
        for _ in range(600):
            flooding = stack.enter_context(connected(service))
            flooding.setblocking(False)
            with suppress(BlockingIOError):
                flooding.send(GET % b"x" * 5_000)
        for _ in range(5):
            before = service.seconds_of_work()
            assert service.get("/healthz") == (200, b"/healthz 0")
            assert service.seconds_of_work() - before < 1


# Heads, trailers, chunks


@pytest.mark.parametrize(
    ("begun", "piece"),
    [
        (CHUNKED % b"x" + b"0\r\n", b"X: " + b"a" * 1000 + b"\r\n"),
        (CHUNKED % b"x" + b"0\r\n", b"X: a\r\n"),
        (CHUNKED % b"x" + b"0\r\nX: ", b"a"),
        (CHUNKED % b"x" + b"0\r\n", b"a"),
        (CHUNKED % b"x" + b"1;", b"a"),
        (CHUNKED % b"x" + b"1;a=", b"a"),
        (CHUNKED % b"x", b"0"),
        (b"", b"\r\n"),
        (b"", b"a"),
        (b"GET /", b"a"),
        (b"GET / HTTP/1.1\r\nX: ", b"a"),
        (b"GET / HTTP/1.1\r\n", b"X: a\r\n"),
    ],
    ids=[
        "trailers",
        "short trailers",
        "a trailer",
        "a trailer's name",
        "a chunk's extension",
        "an extension's value",
        "a chunk's size",
        "empty lines",
        "a method",
        "a path",
        "a header",
        "headers",
    ],
)
def test_what_never_ends_is_hung_up_on_and_not_kept(service: Answering, begun: bytes, piece: bytes) -> None:
    before = service.megabytes()
    with connected(service) as endless:
        endless.sendall(begun)
        sent = poured(endless, piece, 30 * MEGABYTE)
        assert sent < 20 * MEGABYTE
        said = until_closed(endless)
    assert said[9:12] in (b"400", b"414", b"431", b"")
    assert service.megabytes() < before + 4
    assert service.get("/y") == (200, b"/y 0")


TRAILERS = [
    b"Authorization: Bearer a",
    b"X-Forwarded-Host: evil",
    b"Idempotency-Key: a",
    b"Connection: close",
    b"Connection: upgrade\r\nUpgrade: websocket",
    b"Expect: 100-continue",
    b"Host: b",
]


@pytest.mark.parametrize("trailer", TRAILERS)
def test_a_trailer_counts_for_nothing(service: Answering, trailer: bytes) -> None:
    chunked = CHUNKED % b"headers" + b"2\r\n{}\r\n0\r\n"
    with connected(service) as connection:
        for _ in range(2):
            connection.sendall(chunked + trailer + b"\r\n" + b"X-A: a\r\n\r\n")
            assert answers(connection, 1) == [(200, json.dumps(["host", "transfer-encoding"]).encode())]
        connection.sendall(GET % b"x")
        assert answers(connection, 1) == [(200, b"/x 0")]


def test_trailers_over_the_limit_are_refused_though_they_come_at_once(service: Answering) -> None:
    for size, status in ((8_000, 200), (9_000, 431)):
        with connected(service) as connection:
            connection.sendall(CHUNKED % b"x" + b"0\r\nX-A: " + b"a" * size + b"\r\n\r\n")
            assert answers(connection, 1)[0][0] == status


@pytest.mark.parametrize("trailer", [b"Content-Length: 5", b"Transfer-Encoding: chunked"])
def test_a_trailer_about_the_body_is_refused(service: Answering, trailer: bytes) -> None:
    with connected(service) as connection:
        connection.sendall(CHUNKED % b"x" + b"0\r\n" + trailer + b"\r\n\r\n" + GET % b"y")
        assert until_closed(connection).startswith(b"HTTP/1.1 400 ")


def test_a_request_may_have_200_headers_and_no_more(service: Answering) -> None:
    for count, status in ((199, 200), (200, 431)):
        with connected(service) as connection:
            headers = b"".join(b"X-%d: a\r\n" % number for number in range(count))
            connection.sendall(b"GET /x HTTP/1.1\r\nHost: a\r\n" + headers + b"\r\n")
            assert answers(connection, 1)[0][0] == status


@pytest.mark.parametrize("piece", [b"1\r\na\r\n", b"4\r\n\r\n\r\n\r\n", b"5\r\n0\r\n\r\n\r\n"])
def test_a_body_in_tiny_chunks_is_taken(service: Answering, piece: bytes) -> None:
    before, count = service.megabytes(), 200_000
    with connected(service) as connection:
        connection.sendall(CHUNKED % b"x" + piece * count + b"0\r\n\r\n" + GET % b"y")
        assert answers(connection, 2) == [(200, b"/x %d" % (count * int(piece[:1]))), (200, b"/y 0")]
    assert service.megabytes() < before + 4


def test_large_heads_are_bounded_for_all_connections_together(service: Answering) -> None:
    before = service.megabytes()
    with ExitStack() as stack:
        begun = [stack.enter_context(connected(service)) for _ in range(500)]
        for connection in begun:
            connection.sendall(b"GET /x HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 60_000)
        assert service.megabytes() < before + 60
        assert service.get("/y") == (200, b"/y 0")
        last = until_closed(begun[-1])
        assert last.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1\r\n" in last


# Bodies


def test_a_body_that_is_not_taken_is_not_read_either(service: Answering) -> None:
    before = service.megabytes()
    with ExitStack() as stack:
        sending = [stack.enter_context(connected(service)) for _ in range(300)]
        for connection in sending:
            connection.sendall(
                b"POST /hold HTTP/1.1\r\nHost: a\r\nContent-Length: 150000\r\n\r\n" + b"x" * 50_000
            )
        sent = [poured(connection, b"x", 100_000) for connection in sending[:1]]
        assert sent == [100_000]  # the rest is the system's to hold
        assert service.get("/y") == (200, b"/y 0")
        assert service.megabytes() < before + 40
        for connection in sending[1:]:
            connection.close()
        service.get("/release")
        assert answers(sending[0], 1) == [(200, b"150000")]


def test_what_all_connections_hold_does_not_keep_a_body_from_who_waits_for_it(service: Answering) -> None:
    with ExitStack() as stack:
        holding = [stack.enter_context(connected(service)) for _ in range(300)]
        for connection in holding:
            connection.sendall(
                b"POST /hold HTTP/1.1\r\nHost: a\r\nContent-Length: 62000\r\n\r\n" + b"x" * 62_000
            )
        with connected(service) as connection:
            size = 5 * MEGABYTE
            connection.sendall(
                b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size
            )
            assert answers(connection, 1) == [(200, b"/x %d" % size)]
        service.get("/release")
        assert all(answers(connection, 1) == [(200, b"62000")] for connection in holding)


def test_time_in_which_nothing_is_read_is_no_waiting(service: Answering) -> None:
    head = b"POST /waited/2 HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"
    with connected(service) as reading, connected(service) as paused:
        reading.sendall(head + b"x")
        paused.sendall(head + b"x" * 200_000)
        assert json.loads(answers(paused, 1)[0][1])[1] <= 0.5
        assert json.loads(answers(reading, 1)[0][1])[1] >= 1.25


# Answers


def read_slowly(connection: socket.socket, *, size: int, seconds: float) -> int:
    """How much arrives, taken piece by piece for that long at most."""
    read, end = 0, time.monotonic() + seconds
    with suppress(ConnectionError):
        while time.monotonic() < end and (chunk := connection.recv(size)):
            read += len(chunk)
            time.sleep(0.02)
    return read


@pytest.fixture(scope="module")
def hasty() -> Iterator[Answering]:
    """A service that waits a second for clients that take nothing."""
    with answering(write_timeout_seconds=1) as service:
        yield service


def is_cut_off(connection: socket.socket) -> bool:
    """Whether the service resets the connection within a few seconds."""
    connection.settimeout(0.1)
    for _ in range(60):
        try:
            connection.send(b"G")
        except ConnectionError:
            return True
        except OSError:
            pass
        time.sleep(0.1)
    return False


def test_who_does_not_take_an_answer_is_cut_off_and_its_memory_given_back(hasty: Answering) -> None:
    before = hasty.megabytes()
    with connected(hasty, receive_bytes=4096) as connection:
        connection.sendall(GET % b"large/20000000")
        time.sleep(0.5)
        assert hasty.megabytes() > before + 10
        assert is_cut_off(connection)
    assert hasty.sinks_to(before + 4)


def test_who_takes_an_answer_slowly_gets_all_of_it(hasty: Answering) -> None:
    with connected(hasty, receive_bytes=4096) as connection:
        connection.sendall(b"GET /large/1000000 HTTP/1.0\r\n\r\n")
        assert read_slowly(connection, size=65_536, seconds=60) > 1_000_000


def test_what_is_left_of_an_answer_when_a_connection_ends_has_an_end_too(hasty: Answering) -> None:
    with connected(hasty, receive_bytes=4096) as connection:
        connection.sendall(b"GET /large/20000000 HTTP/1.0\r\n\r\n")
        assert is_cut_off(connection)


def test_answers_that_are_not_taken_are_bounded_for_all_connections_together(service: Answering) -> None:
    before = service.megabytes()
    with ExitStack() as stack:
        unread = [stack.enter_context(connected(service, receive_bytes=4096)) for _ in range(40)]
        for connection in unread:
            connection.sendall(GET % b"large/4000000")
        assert service.get("/y") == (200, b"/y 0")
        assert service.sinks_to(before + 50)


# Connections


def test_silent_connections_keep_nobody_out(service: Answering) -> None:
    with ExitStack() as stack:
        silent = [stack.enter_context(connected(service)) for _ in range(1000)]
        time.sleep(0.6)  # two ticks, in which each could have spoken
        silent += [stack.enter_context(connected(service)) for _ in range(100)]
        assert [service.get("/y") for _ in range(5)] == [(200, b"/y 0")] * 5
        silent[0].settimeout(2)
        assert silent[0].recv(1) == b""
        silent[-1].sendall(GET % b"x")
        assert answers(silent[-1], 1) == [(200, b"/x 0")]


def test_with_few_files_silent_connections_keep_nobody_out_either() -> None:
    with answering(files=1024) as service, ExitStack() as stack:
        for _ in range(1100):
            stack.enter_context(connected(service))
        time.sleep(0.6)
        assert [service.get("/y") for _ in range(5)] == [(200, b"/y 0")] * 5
        log = service.log()
    assert "1024 files may be open: at most " in log
    assert " connections are open; idle ones that were closed: 1 " in log
    assert "accept" not in log.lower()


def test_a_connection_over_the_limit_is_told_so_and_those_under_way_go_on() -> None:
    with answering(connection_limit=10) as service, ExitStack() as stack:
        busy = [stack.enter_context(connected(service)) for _ in range(10)]
        for connection in busy:
            connection.sendall(GET % b"hold")
        time.sleep(0.6)  # two ticks: none of them makes room
        with connected(service) as refused:
            said = until_closed(refused)
        assert said.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1\r\n" in said
        assert b"connection: close\r\n" in said
        assert said.endswith(
            b'{"error":"ServiceUnavailable","description":"Too many connections are open just now"}'
        )
        assert service.get("/y")[0] == 503
        busy[0].close()
        service.until("/y", (200, b"/y 0"))
        log = service.log()
    assert log.count("10 connections are open; turned away: 1 ") == 1


def test_a_kept_connection_makes_room_when_it_has_been_idle_for_a_while() -> None:
    with answering(connection_limit=10) as service, ExitStack() as stack:
        kept = [stack.enter_context(connected(service)) for _ in range(10)]
        for connection in kept:
            connection.sendall(GET % b"x")
            answers(connection, 1)
        assert service.get("/y")[0] == 503
        time.sleep(1.5)
        assert service.get("/y") == (200, b"/y 0")
        assert until_closed(kept[0]) == b""
        kept[-1].sendall(GET % b"x")
        assert answers(kept[-1], 1) == [(200, b"/x 0")]


# Requests under way


@pytest.fixture
def busy() -> Iterator[Answering]:
    """A service that has half of the four requests that it takes under way, of one good credential."""
    with answering(request_limit=4) as service, ExitStack() as stack:
        assert service.get("/x", Authorization="one")[0] == 200
        assert service.get("/x", Authorization="two")[0] == 200
        for _ in range(2):
            connection = stack.enter_context(connected(service))
            connection.sendall(b"GET /hold HTTP/1.1\r\nHost: a\r\nAuthorization: one\r\n\r\n")
        service.until("/held", (200, b"2"), Authorization="two")
        yield service


def test_who_has_an_equal_share_of_the_requests_is_refused_and_others_are_not(busy: Answering) -> None:
    assert busy.get("/x", Authorization="one")[0] == 503
    assert busy.get("/x", Authorization="two")[0] == 200
    assert busy.get("/x")[0] == 200
    busy.get("/release")
    busy.until("/x", (200, b"/x 0"), Authorization="one")


def test_credentials_that_were_never_good_have_one_share_together(busy: Answering) -> None:
    with ExitStack() as stack:
        for number in range(2):
            connection = stack.enter_context(connected(busy))
            connection.sendall(b"GET /hold HTTP/1.1\r\nHost: a\r\nAuthorization: bad%d\r\n\r\n" % number)
        busy.until("/x", (503, BUSY), Authorization="bad3")


def test_a_refused_request_leaves_its_connection_fit_for_the_next(busy: Answering) -> None:
    posted = b"POST /x HTTP/1.1\r\nHost: a\r\nAuthorization: one\r\nContent-Length: 5\r\n\r\nabcde"
    with connected(busy) as connection:
        connection.sendall(posted * 2 + GET % b"healthz" + posted + GET % b"readyz.json")
        found = answers(connection, 5)
    assert [status for status, _ in found] == [503, 503, 200, 503, 200]
    assert json.loads(found[0][1])["error"] == "ServiceUnavailable"


def test_who_asks_again_at_once_is_refused_a_few_times_a_second(busy: Answering) -> None:
    with connected(busy) as connection:
        begun = time.monotonic()
        for _ in range(4):
            connection.sendall(b"GET /x HTTP/1.1\r\nHost: a\r\nAuthorization: one\r\n\r\n")
            assert answers(connection, 1)[0][0] == 503
    assert time.monotonic() - begun > 3 * TICK_SECONDS


@pytest.mark.parametrize(
    "head",
    [b"HEAD /x HTTP/1.1", b"POST /x HTTP/1.1\r\nContent-Length: 10000000", b"GET /x HTTP/1.0"],
    ids=["HEAD", "a large body", "HTTP/1.0"],
)
def test_a_refused_request_that_ends_its_connection_is_told_so(busy: Answering, head: bytes) -> None:
    with connected(busy) as connection:
        connection.sendall(head + b"\r\nHost: a\r\nAuthorization: one\r\n\r\n")
        said = until_closed(connection)
    assert said.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 1\r\n" in said
    assert b"connection: close\r\n" in said
