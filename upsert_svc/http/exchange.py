"""One request and its answer, as the application sees them: ASGI's receive and send."""

import asyncio
import logging
from typing import Any, Protocol

from starlette.types import ASGIApp, Message

from upsert_svc.errors import InternalServerError, ServiceUnavailable
from upsert_svc.http import answers
from upsert_svc.http.parser import RequestParser

DELIVERED_BYTES = (
    8 << 10
)  # of a body, before it is handed on in part; many small pieces cost more than they hold
_JOINED_BYTES = 64 << 10  # an answer that leaves in one piece; a larger one is not copied for that
_BODILESS = frozenset({204, 304})

_log = logging.getLogger("upsert_svc.http")


_BUG = answers.ready_answer(500, InternalServerError(), is_last=True)
_STOPPING = answers.ready_answer(503, ServiceUnavailable("The service is stopping"), is_last=True)


class Wire(Protocol):
    """What an exchange needs of its connection."""

    is_clogged: bool  # the client does not take what was written

    def write(self, *pieces: bytes) -> None: ...

    async def unclogged(self) -> None: ...

    def want_body(self) -> None:
        """Reads on, for the application waits for it."""

    def took_body(self, size: int) -> None: ...

    def answered(self) -> None:
        """The answer is complete."""

    def cut_off(self) -> None: ...

    def ended(self, exchange: "Exchange", task: asyncio.Task[None]) -> None:
        """The application has nothing more to do with the request."""

    def default_headers(self) -> list[tuple[bytes, bytes]]: ...


class Exchange:
    """A request that is under way. There is one at most on a connection."""

    __slots__ = (
        "_body",
        "_expects_continue",
        "_head",
        "_is_chunked",
        "_is_due",
        "_is_taken",
        "_least_bytes",
        "_left",
        "_reader",
        "_scope",
        "_wire",
        "credential",
        "has_more",
        "is_answered",
        "is_begun",
        "is_lost",
        "keep_alive",
        "owner",
        "status",
        "waited_ticks",
    )

    def __init__(self, wire: Wire, scope: dict[str, Any], request: RequestParser, owner: int) -> None:
        self._wire = wire
        self._scope = scope
        self.keep_alive = True
        self.credential = request.credential
        self.owner = owner  # whose share of the requests under way it counts to
        self.waited_ticks = 0
        self._expects_continue = request.expects_continue
        self._body: bytes | bytearray = b""  # received and not taken
        self._least_bytes = DELIVERED_BYTES
        self._is_due = False  # however little there is of it
        self._is_taken = False  # to its end
        self._reader: asyncio.Future[None] | None = None
        self.has_more = True  # of the body, not received yet
        self.is_lost = False  # nobody is there to be answered
        self.is_begun = False  # some of the answer was written
        self.is_answered = False
        self.status = 0
        self._head = b""  # of the answer, not written yet
        self._is_chunked = False
        self._left = 0  # bytes of the answer's body still to come

    @property
    def untaken_bytes(self) -> int:
        return len(self._body)

    @property
    def is_waiting(self) -> bool:
        """Whether the application waits for more of the body."""
        return self._reader is not None

    @property
    def is_welcome(self) -> bool:
        """Whether the application did what was asked."""
        return 200 <= self.status < 300

    @property
    def raw_path(self) -> bytes:
        path: bytes = self._scope["raw_path"]
        return path

    # What the connection says

    def add_body(self, piece: bytes) -> None:
        """Keeps a piece of the body; small ones in one buffer, for each would be an object."""
        if not self._body:
            self._body = piece
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += piece
        if len(self._body) >= self._least_bytes:
            self._wake()

    def end_body(self) -> None:
        self.has_more = False
        self._wake()

    def wait_longer(self) -> None:
        """Says that a tick has gone by, and more could have come. What has come is handed on."""
        self.waited_ticks += 1
        if self._body:
            self._is_due = True
            self._wake()

    def lose(self) -> None:
        """Says that the client has gone."""
        self.is_lost = True
        self._wake()

    def drop_body(self) -> int:
        """Forgets what was not taken; how many bytes that was."""
        size, self._body = len(self._body), b""
        return size

    def hand_on_at_once(self) -> None:
        """Has every piece of the body handed on as it comes: somebody waits for an answer to it.

        The answer may begin before the body is taken, so whoever waits to be asked for it is asked now.
        """
        self._least_bytes = 1
        self._ask_for_body()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    # The application

    async def run(self, app: ASGIApp) -> None:
        """Has the application answer. Whatever it raises, the client is told or the connection closed."""
        try:
            await app(self._scope, self.receive, self.send)
        except Exception:
            _log.exception("the application failed")
            self._fail(_BUG)
        else:
            if not (self.is_answered or self.is_lost):
                _log.error("the application ended without an answer")
                self._fail(_BUG)

    def done(self, task: asyncio.Task[None]) -> None:
        """Ends the exchange with its task, which may have been cancelled before it began."""
        if task.cancelled():
            self._fail(_STOPPING)
        self._wire.ended(self, task)

    def _fail(self, answer: bytes) -> None:
        if self.is_answered or self.is_lost:
            return
        self.is_answered = True
        self.keep_alive = False
        if self.is_begun:
            self._wire.cut_off()  # half an answer must not look like a whole one
        else:
            self._wire.write(answer)
            self._wire.answered()

    async def receive(self) -> Message:
        """The next piece of the body: the end of it, or enough to be worth the while."""
        self._ask_for_body()
        while not self._is_readable():
            self._wire.want_body()
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        if self.is_lost or self.is_answered:
            return {"type": "http.disconnect"}
        self._is_taken, self._is_due = not self.has_more, False
        body, self._body = bytes(self._body), b""
        self._wire.took_body(len(body))
        return {"type": "http.request", "body": body, "more_body": self.has_more}

    def _ask_for_body(self) -> None:
        if self._expects_continue and not (self.is_lost or self.is_begun):
            self._wire.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._expects_continue = False

    def _is_readable(self) -> bool:
        if self.is_lost or self.is_answered:
            return True
        return not self._is_taken and (
            not self.has_more or len(self._body) >= self._least_bytes or self._is_due
        )

    async def send(self, message: Message) -> None:
        """Writes the answer; its head leaves with the first of its body, in one packet where it can."""
        if self._wire.is_clogged and not self.is_lost:
            await self._wire.unclogged()
        if self.is_lost:
            return
        expected = "http.response.body" if self.status else "http.response.start"
        if message["type"] != expected or self.is_answered:
            raise RuntimeError(f"{message['type']} was sent out of turn")
        if not self.status:
            self._begin(message)
        else:
            self._continue(message.get("body", b""), is_last=not message.get("more_body", False))

    def _begin(self, message: Message) -> None:
        status: int = message["status"]
        headers = [*self._wire.default_headers(), *message.get("headers", ())]
        is_sized = closes = False
        for name, value in headers:
            if name == b"content-length":
                self._left, is_sized = int(value), True
            elif name == b"connection":
                closes = value.lower() == b"close"
        if closes:
            self.keep_alive = False
        elif not self.keep_alive:
            headers.append((b"connection", b"close"))
        if not is_sized and self._scope["method"] != "HEAD" and status not in _BODILESS:
            self._is_chunked = True
            headers.append((b"transfer-encoding", b"chunked"))
        self._head = answers.head(status, headers)
        self.status = status

    def _continue(self, body: bytes, *, is_last: bool) -> None:
        if self._scope["method"] == "HEAD":
            body, self._left = b"", 0
        elif self._is_chunked:
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + (b"0\r\n\r\n" if is_last else b"")
        else:
            self._left -= len(body)
        if self._left < 0 or (is_last and self._left):
            raise RuntimeError("The body of the answer has not the announced length")
        self._write(body)
        if is_last:
            self.is_answered = True
            self._wake()
            self._wire.answered()

    def _write(self, body: bytes) -> None:
        head, self._head = self._head, b""
        self.is_begun = True
        if not head:
            self._wire.write(body)
        elif len(body) > _JOINED_BYTES:
            self._wire.write(head, body)
        else:
            self._wire.write(head + body)
