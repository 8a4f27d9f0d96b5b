"""httptools within bounds: what the head, the trailers and the framing of a request may be.

httptools keeps whatever it is given, goes on past the end of a request, and takes trailers for headers. Here
it gets a connection's bytes in slices, none of which goes beyond the end of a request.
"""

import logging
from typing import Protocol

import httptools

HEAD_LIMIT_BYTES = 64 << 10  # of the request line and the headers
HEADERS_LIMIT = 200
TRAILERS_LIMIT_BYTES = 8 << 10  # of the trailers, or of what stands around a chunk
_END = b"\r\n\r\n"  # of a head, and of a chunked body

INVALID = "Invalid HTTP request received."

_log = logging.getLogger("upsert_svc.http")


class Refused(Exception):
    """What comes is no request that can be taken. `status` is that of the answer."""

    def __init__(self, status: int, description: str) -> None:
        super().__init__(description)
        self.status = status


class Listener(Protocol):
    """What is told of a request, in this order."""

    def begin_request(self) -> None:
        """The head is complete. May raise Refused."""

    def add_body(self, piece: bytes) -> None: ...

    def end_request(self) -> None: ...


class RequestParser:
    """Parses the requests of a connection, one after the other."""

    def __init__(self, listener: Listener, head_limit_bytes: int = HEAD_LIMIT_BYTES) -> None:
        self._listener = listener
        self._head_limit_bytes = head_limit_bytes
        self._parser = httptools.HttpRequestParser(self)
        self.is_in_head = True  # of a request, or before one
        self.head_bytes = 0
        self._slice_bytes = 0  # of what the parser is at, not counted yet
        self._tail = b""  # what came last, where an end may lie across it and what comes next
        self._reset()

    def _reset(self) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []  # names in lower case
        self.credential = 0  # a hash of it; 0 for none
        self.expects_continue = False
        self.length: int | None = None  # of the body; None where it is chunked, or there is none
        self._body_left = 0
        self._framing_bytes = 0  # since a chunk began, and no body
        self._trailer_bytes = 0

    # What the connection asks

    @property
    def method(self) -> str:
        method: bytes = self._parser.get_method()
        return method.decode("ascii")

    @property
    def keeps_alive(self) -> bool:
        return self.http_version != "1.0" and bool(self._parser.should_keep_alive())

    def close(self) -> None:
        """Gives up what refers to this in turn."""
        del self._parser, self._listener

    def feed(self, data: bytes | bytearray, view: memoryview, start: int, end: int) -> int:
        """Parses some of data[start:end], of which `view` is a view, and at most to the end of a request.

        Returns where to go on. Raises Refused; then the parser is of no more use.
        """
        stop = self._end_of_slice(data, view, start, end)
        size = self._slice_bytes = stop - start
        if not self.is_in_head:
            self._framing_bytes += size
            self._body_left -= size
        try:
            self._parser.feed_data(view[start:stop])
        except httptools.HttpParserUpgrade as upgrade:  # which is declined by going on
            stop = start + upgrade.args[0]
        except httptools.HttpParserError as error:
            raise _refusal_of(error) from None
        if self.is_in_head:
            self._count_head()
            if self._trailer_bytes:
                self._forget_trailers()
        elif self.length is None and self._framing_bytes > TRAILERS_LIMIT_BYTES:
            raise Refused(431, "The trailers are too large")
        if stop == end and (self.head_bytes or not self.is_in_head):
            self._tail = (self._tail + view[max(start, end - 3) : end])[-3:]
        return stop

    def _end_of_slice(self, data: bytes | bytearray, view: memoryview, start: int, end: int) -> int:
        """Where the request ends, or the head of one with a body; `end` where neither can be told yet."""
        if not self.is_in_head and self.length is not None:
            return min(start + self._body_left, end)
        if tail := self._tail:
            place = (tail + view[start : start + 3]).find(_END)
            if place >= 0:
                self._tail = b""
                return min(start + place + 4 - len(tail), end)
        place = data.find(_END, start, end)
        return end if place < 0 else place + 4

    def _forget_trailers(self) -> None:
        """Begins anew: to httptools a trailer may say that the connection ends here."""
        self._parser = httptools.HttpRequestParser(self)
        self._trailer_bytes = 0

    def _count_head(self) -> None:
        self.head_bytes += self._slice_bytes
        self._slice_bytes = 0
        if self.head_bytes <= self._head_limit_bytes:
            return
        if len(self.url) * 2 > self._head_limit_bytes:
            raise Refused(414, "The request line is too long")
        raise Refused(431, "The headers are too large")

    # What httptools says

    def on_message_begin(self) -> None:
        self._reset()

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.is_in_head:
            self._trailer_bytes += len(name) + len(value)  # a trailer counts for nothing else
            if self._trailer_bytes > TRAILERS_LIMIT_BYTES:
                raise Refused(431, "The trailers are too large")
            return
        name = name.lower()
        if name == b"authorization":
            credential = hash(value)
            if self.credential and self.credential != credential:
                raise Refused(400, "Authorization is given twice, with different values")
            self.credential = credential
        elif name == b"content-length":
            self.length = int(value)
        elif name == b"expect":
            self.expects_continue = value.lower() == b"100-continue"
        if len(self.headers) >= HEADERS_LIMIT:
            raise Refused(431, f"The headers are too large: they are more than {HEADERS_LIMIT}")
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._count_head()
        self.is_in_head = False
        self.http_version: str = self._parser.get_http_version()
        self._body_left = self.length or 0
        self._tail = b""
        self._listener.begin_request()

    def on_body(self, body: bytes) -> None:
        self._framing_bytes -= len(body)
        self._listener.add_body(body)

    def on_chunk_header(self) -> None:
        self._framing_bytes = 0

    on_chunk_complete = on_chunk_header

    def on_message_complete(self) -> None:
        self.is_in_head = True
        self.head_bytes = self._slice_bytes = 0
        self._tail = b""
        self._listener.end_request()


def _refusal_of(error: httptools.HttpParserError) -> Refused:
    cause = error.__context__
    if isinstance(cause, Refused):
        return cause
    if isinstance(error, httptools.HttpParserCallbackError) and not isinstance(cause, ValueError):
        _log.error("a request could not be begun", exc_info=cause)
    return Refused(400, INVALID)
