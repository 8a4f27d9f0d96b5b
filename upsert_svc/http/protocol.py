"""HTTP/1.1 on a connection, within bounds. uvicorn runs it.

uvicorn's own protocol bounds nothing of a connection. This one has at most one request under way. It stops
reading when another one waits, when the application does not take the body, and when the client does not take
its answers. What is refused here never was a request, and costs little.
"""

import asyncio
from typing import Any
from urllib.parse import unquote
from weakref import WeakKeyDictionary

import httptools
from uvicorn.config import Config
from uvicorn.server import ServerState

from upsert_svc.asgi import AT_ONCE, TAKEN, WAITED_SECONDS
from upsert_svc.errors import BadRequest, ServiceUnavailable
from upsert_svc.http import limits
from upsert_svc.http.answers import ready_answer
from upsert_svc.http.connection import FOR_BODY, FOR_PIPELINE, FOR_REFUSAL, BoundedConnection
from upsert_svc.http.exchange import DELIVERED_BYTES, Exchange
from upsert_svc.http.parser import INVALID, Refused, RequestParser
from upsert_svc.http.traffic import HEAD_BYTES, RECEIVED_BYTES, TICK_SECONDS, Traffic

UNTAKEN_BYTES = 64 << 10  # of a body, before no more of it is read
LARGE_HEAD_BYTES = 8 << 10  # of a head, before it is counted
SMALL_BODY_BYTES = 64 << 10  # of a refused request, which is read so that the connection can be kept
SLICES_AT_A_TIME = 8  # of what one connection has sent, before others have their turn
_PROBES = frozenset({b"/healthz", b"/readyz", b"/healthz.json", b"/readyz.json"})
_ASGI = {"version": "3.0", "spec_version": "2.3"}
_OF_NOBODY = -1  # whose share a probe counts to

_BUSY = ServiceUnavailable("Too many requests are under way just now")
_REFUSED = ready_answer(503, _BUSY, is_last=False)
_REFUSED_AND_CLOSED = ready_answer(503, _BUSY, is_last=True)

_traffic: WeakKeyDictionary[ServerState, Traffic] = WeakKeyDictionary()


def traffic_of(server_state: ServerState, bounds: limits.Limits | None = None) -> Traffic:
    """What the connections of a server share; the first one brings the limits."""
    traffic = _traffic.get(server_state)
    if traffic is None:
        connections: Any = server_state.connections
        traffic = Traffic(bounds or limits.Limits(), asyncio.get_running_loop(), connections)
        _traffic[server_state] = traffic
    return traffic


class BoundedHttp(BoundedConnection):
    """A connection: what uvicorn expects of a protocol, and an exchange of its connection."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        if not config.loaded:
            config.load()
        connections: set[Any] = server_state.connections
        traffic = traffic_of(server_state, app_state.get(limits.STATE))
        super().__init__(traffic, connections, config.timeout_keep_alive)
        self._app: Any = config.loaded_app
        self._app_state = app_state
        self._server_state = server_state
        self._loop = _loop or asyncio.get_running_loop()
        self._extensions: dict[str, Any] = {
            WAITED_SECONDS: self.waited_seconds,
            TAKEN: self.taken,
            AT_ONCE: self.hand_on_at_once,
        }
        self._parser = RequestParser(self)
        self._exchange: Exchange | None = None  # which is under way
        self._refusal = b""  # to be sent when the request has come to its end
        self._counted_head_bytes = 0

    def shutdown(self) -> None:
        """Ends with the request that is under way; uvicorn asks for it when it stops."""
        if self._exchange is not None:
            self._exchange.keep_alive = False
        elif self._refusal:
            self.refuse_and_close()
        else:
            self.hang_up()

    def end_with_answer(self) -> None:
        """Has the answer to the request that is under way be the last."""
        if self._exchange is not None:
            self._exchange.keep_alive = False

    def give_up(self) -> None:
        """Cuts off a client that has yet to take its answer, or to send its request."""
        if self._exchange is None or self._exchange.is_begun:
            self.cut_off()

    def on_tick(self, tick: int) -> None:
        if self._exchange is not None and self._exchange.has_more and not self._pauses:
            self._exchange.wait_longer()
        super().on_tick(tick)

    def waited_seconds(self) -> float:
        """For how long the rest of the body of the request under way was waited for, and read."""
        return 0 if self._exchange is None else self._exchange.waited_ticks * TICK_SECONDS

    def hand_on_at_once(self) -> None:
        """Has what comes of the body under way handed on piece by piece."""
        if self._exchange is not None:
            self._exchange.hand_on_at_once()

    async def taken(self) -> None:
        """Waits until the client has taken what was written, or is gone."""
        if self.is_clogged:
            await self.unclogged()

    def _lost(self) -> None:
        self._count_head(0)
        self._lose_exchange()
        self._parser.close()
        self._extensions = {}  # which refer to this in turn

    def _lose_exchange(self) -> None:
        if self._exchange is not None:
            self._traffic.received_bytes -= self._exchange.drop_body()
            self._exchange.lose()
            self._exchange = None

    # What comes

    def _consume(self, data: bytes | bytearray, view: memoryview, start: int, end: int) -> None:
        """Parses as far as one request; the rest waits until that one is answered."""
        parser = self._parser
        try:
            for _ in range(SLICES_AT_A_TIME):
                if parser.is_in_head and self._is_busy():
                    break
                start = parser.feed(data, view, start, end)
                if self._is_closed:
                    return
                if parser.head_bytes > LARGE_HEAD_BYTES:
                    self._count_head(parser.head_bytes)
                if start == end:
                    if self._is_resting and parser.head_bytes:
                        self._await_the_rest()
                    return
            else:
                self._traffic.take_turn(self)
            self._keep(*((data, start) if isinstance(data, bytes) else (bytes(view[start:end]), 0)))
        except Refused as refused:
            self._refuse(refused)

    def _is_busy(self) -> bool:
        """Whether the next request has to wait: for the end of another one, or until its answer is taken."""
        return self._exchange is not None or self.is_clogged or bool(self._refusal)

    def go_on(self) -> None:
        if self._is_closed or not self._rest or (self._parser.is_in_head and self._is_busy()):
            return
        rest, start = self._rest, self._rest_start
        self._drop_rest()
        self._consume(rest, memoryview(rest), start, len(rest))
        if not self._rest:
            self._resume(FOR_PIPELINE)

    def _count_head(self, size: int) -> None:
        """Counts a large head with those of all connections. Raises Refused where they are too much."""
        traffic = self._traffic
        traffic.head_bytes += size - self._counted_head_bytes
        self._counted_head_bytes = size
        if size and traffic.head_bytes > HEAD_BYTES:
            raise Refused(503, "Too many large headers are read just now")

    # What the parser says

    def begin_request(self) -> None:
        parser, traffic = self._parser, self._traffic
        if parser.head_bytes > LARGE_HEAD_BYTES:
            self._count_head(parser.head_bytes)
        path, query = _target(parser.url)
        self._leave_idle()
        self._deadline, self._is_resting = 0, False
        owner = traffic.admission.admit(parser.credential)
        if owner is None:
            if path not in _PROBES:
                self._refuse_for_now()
                return
            owner = _OF_NOBODY
        exchange = self._exchange = Exchange(self, self._scope_of(path, query), parser, owner)
        exchange.keep_alive = parser.keeps_alive and not traffic.is_draining
        task = self._loop.create_task(exchange.run(self._app))
        task.add_done_callback(exchange.done)
        self._server_state.tasks.add(task)

    def _scope_of(self, path: bytes, query: bytes) -> dict[str, Any]:
        decoded = path.decode("ascii")
        return {
            "type": "http",
            "asgi": _ASGI,
            "http_version": self._parser.http_version,
            "server": self._server,
            "client": self._client,
            "scheme": self._scheme,
            "method": self._parser.method,
            "root_path": "",
            "path": unquote(decoded) if "%" in decoded else decoded,
            "raw_path": path,
            "query_string": query,
            "headers": self._parser.headers,
            "state": self._app_state.copy(),
            "extensions": self._extensions,
        }

    def add_body(self, piece: bytes) -> None:
        exchange, traffic = self._exchange, self._traffic
        if exchange is None:
            return  # answered already
        traffic.received_bytes += len(piece)
        exchange.add_body(piece)
        untaken = exchange.untaken_bytes
        if untaken >= UNTAKEN_BYTES or (
            # what the application waits for is read in any case, or all could wait for each other
            traffic.received_bytes > RECEIVED_BYTES
            and (untaken >= DELIVERED_BYTES or not exchange.is_waiting)
        ):
            self._pause(FOR_BODY)

    def end_request(self) -> None:
        if self._is_closed:
            return
        if self._exchange is not None:
            self._exchange.end_body()
            return
        self._count_head(0)
        if not self._refusal:
            self._await_request()
        elif not self._pauses & FOR_REFUSAL:
            self._finish_refusal()

    def _refuse_for_now(self) -> None:
        """Answers without the application, after a moment.

        Until then no more is read: callers who ask again at once would have themselves refused by the
        thousand, in the time of those whose requests can be handled.
        """
        parser, traffic = self._parser, self._traffic
        traffic.refused.add(traffic.tick)
        can_be_kept = parser.keeps_alive and not traffic.is_draining and not parser.expects_continue
        # a small body is read, so that the connection can be kept
        is_kept = can_be_kept and parser.method != "HEAD" and (parser.length or 0) <= SMALL_BODY_BYTES
        self._refusal = _REFUSED if is_kept else _REFUSED_AND_CLOSED
        self._await_unwanted_body()
        self._pause(FOR_REFUSAL)
        traffic.refuse_soon(self)

    def refuse(self) -> None:
        """Answers a request that was refused, as soon as it has come to its end."""
        if self._is_closed:
            return
        self._resume(FOR_REFUSAL)
        if self._refusal is _REFUSED_AND_CLOSED:
            self._write_refusal()
            self._linger()
        elif self._parser.is_in_head:
            self._finish_refusal()

    def refuse_and_close(self) -> None:
        """Answers a request that was refused at once, though it may not have come to its end."""
        self._refusal = _REFUSED_AND_CLOSED
        self.refuse()

    def _write_refusal(self) -> None:
        refusal, self._refusal = self._refusal, b""
        self.write(refusal)

    def _finish_refusal(self) -> None:
        self._write_refusal()
        self._await_request()
        if self._rest:
            self._traffic.take_turn(self)

    def _refuse(self, refused: Refused) -> None:
        """Answers what is no request, or no longer one, in the shape of every other error, and hangs up."""
        self._traffic.broken.add(self._traffic.tick)
        self._refusal = b""
        exchange = self._exchange
        if exchange is not None:
            self._lose_exchange()
            if exchange.is_begun:
                self.cut_off()
                return
        error = (BadRequest if refused.status < 500 else ServiceUnavailable)(str(refused))
        self.write(ready_answer(refused.status, error, is_last=True))
        self._linger()

    # What the exchange says

    def want_body(self) -> None:
        self._resume(FOR_BODY)

    def took_body(self, size: int) -> None:
        self._traffic.received_bytes -= size
        self._resume(FOR_BODY)

    def default_headers(self) -> list[tuple[bytes, bytes]]:
        return self._server_state.default_headers

    def answered(self) -> None:
        """Makes ready for the next request."""
        exchange = self._exchange
        self._server_state.total_requests += 1
        if exchange is None or self._is_closed:
            return
        self._exchange = None
        self._traffic.received_bytes -= exchange.drop_body()
        self._count_head(0)
        self._resume(FOR_BODY)
        if not exchange.keep_alive:
            if exchange.has_more or self._rest:
                self._linger()
            else:
                self.hang_up()
        elif exchange.has_more:
            self._await_unwanted_body()
        elif self._rest:
            self._is_resting = True
            self._traffic.take_turn(self)
        else:
            self._await_request()

    def ended(self, exchange: Exchange, task: asyncio.Task[None]) -> None:
        self._server_state.tasks.discard(task)
        if exchange.owner == _OF_NOBODY:
            return
        admission = self._traffic.admission
        admission.release(exchange.owner)
        if exchange.credential and exchange.owner != exchange.credential:
            if exchange.is_welcome and exchange.raw_path not in _PROBES:
                admission.trust(exchange.credential)
        elif exchange.status == 401:
            admission.distrust(exchange.credential)


def _target(url: bytes) -> tuple[bytes, bytes]:
    """The path and the query that a request line names. Raises Refused."""
    try:
        parsed = httptools.parse_url(url)
    except httptools.HttpParserInvalidURLError:
        raise Refused(400, INVALID) from None
    if parsed.path is None or not parsed.path.isascii():
        raise Refused(400, INVALID)
    return parsed.path, parsed.query or b""


def close_after_answers(server_state: ServerState) -> None:
    """Has every answer from now on be the last of its connection."""
    traffic_of(server_state).is_draining = True
    connections: set[Any] = server_state.connections
    for connection in connections:
        connection.end_with_answer()
