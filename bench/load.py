"""The HTTP load, closed loop or open. Run as a process of its own.

Reads a Load as JSON from standard input; prints a line when the warm-up is over, then its Findings as JSON.
Plain sockets on one selector, prebuilt requests, one pass over the answer: it must cost little beside the
service.
"""

import dataclasses
import gc
import json
import math
import random
import select
import selectors
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, repeat

from bench.figures import Latencies, percentile, summed_up
from bench.journal import Journal
from bench.wire import Address, Answers, Errand, Unclear, requests

MEASURING = "measuring"
_DRAIN_SECONDS = 60
_RECEIVED_BYTES = 2**14
_clock = time.perf_counter


@dataclass(frozen=True)
class Load:
    """What to send, and for how long. With a rate, so many requests a second are due, answered or not."""

    address: Address
    errand: Errand
    connections: int
    warmup: float
    seconds: float
    sample: int
    rate: float = 0
    arrivals: str = "poisson"


@dataclass(frozen=True)
class Findings:
    """What came back. `standing` has, for a sample of keys, the values that may stand there now."""

    latencies: Latencies
    outcomes: dict[str, int]
    errors: dict[str, int]
    standing: dict[int, list[int]]
    cpu_seconds: float
    late_p99_ms: float


def arrivals(load: Load, begun: float) -> Iterator[float]:
    """When requests are due: never in a closed loop, which sends when it has been answered."""
    if not load.rate:
        return repeat(math.inf)
    gaps = (1 / load.rate if load.arrivals == "uniform" else random.expovariate(load.rate) for _ in repeat(0))
    return accumulate(gaps, initial=begun)


class Connection:
    """One connection and the request under way on it."""

    __slots__ = ("buffer", "due", "expected", "is_waiting", "key", "sent", "socket", "value")

    def __init__(self, address: Address) -> None:
        self.socket = socket.create_connection((address.host, address.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.buffer = b""
        self.key = self.value = 0
        self.due = self.sent = 0.0
        self.expected = ""
        self.is_waiting = False


class Client:
    """All connections of a run."""

    def __init__(self, load: Load) -> None:
        self.journal = Journal()
        self._requests = requests(load.address, load.errand)
        self._answers = Answers()
        self._selector = selectors.DefaultSelector()
        # The one that has been idle longest is next: no server then closes it for its silence.
        self._idle: deque[Connection] = deque()
        for _ in range(load.connections):
            connection = Connection(load.address)
            self._selector.register(connection.socket, selectors.EVENT_READ, connection)
            self._idle.append(connection)
        self._under_way = 0
        self._sends_on = not load.rate
        self._waiting: deque[float] = deque()
        self._arrivals = arrivals(load, _clock())
        self._next_due = next(self._arrivals)
        while self._idle and self._sends_on:
            self._send(self._idle.popleft())

    def run_until(self, moment: float) -> None:
        """Sends and receives."""
        while (now := _clock()) < moment:
            self._fall_due(now)
            self._send_waiting()
            self._receive(min(moment, self._next_due) - now)
        self._fall_due(moment)

    def drain(self) -> None:
        """Makes no new requests; sends those that were due, and waits for all answers."""
        self._sends_on = False
        deadline = _clock() + _DRAIN_SECONDS
        while self._waiting or self._under_way:
            self._send_waiting()
            self._receive(1)
            if _clock() > deadline:
                raise TimeoutError(f"{self._under_way + len(self._waiting)} requests were never answered")

    def _fall_due(self, now: float) -> None:
        while self._next_due <= now:
            self._waiting.append(self._next_due)
            self._next_due = next(self._arrivals)

    def _send_waiting(self) -> None:
        while self._waiting and self._idle:
            self._send(self._idle.popleft(), self._waiting.popleft())

    def _send(self, connection: Connection, due: float | None = None) -> None:
        request, connection.key, connection.value, connection.expected = next(self._requests)
        connection.is_waiting = True
        self._under_way += 1
        connection.sent = sent = _clock()
        connection.due = sent if due is None else due
        try:
            connection.socket.sendall(request)
        except OSError:
            self._lose(connection)

    def _receive(self, seconds: float) -> None:
        if seconds < math.inf and self._next_due < math.inf:
            # The selector itself would wait for whole milliseconds, and requests would be late.
            select.select((self._selector,), (), (), max(0, seconds))
            seconds = 0
        for ready, _ in self._selector.select(seconds):
            connection: Connection = ready.data
            try:
                data = connection.socket.recv(_RECEIVED_BYTES)
            except OSError:
                data = b""
            if data and connection.is_waiting:
                self._read(connection, connection.buffer + data if connection.buffer else data)
            else:
                self._lose(connection)

    def _read(self, connection: Connection, data: bytes) -> None:
        ended = _clock()
        try:
            word = self._answers.word(data)
        except Unclear:
            self._lose(connection, "an answer of no clear length")
            return
        if word is None:
            connection.buffer = data
            return
        connection.buffer = b""
        connection.is_waiting = False
        self._under_way -= 1
        journal = self.journal
        journal.outcomes[word] += 1
        if word == connection.expected:
            journal.note(connection.key, connection.value, connection.due, connection.sent, ended)
        else:
            journal.fail(connection.key, f"{word} where {connection.expected} was due")
        if self._sends_on:
            self._send(connection)
        else:
            self._idle.append(connection)

    def _lose(self, connection: Connection, what: str = "connection lost") -> None:
        self._selector.unregister(connection.socket)
        connection.socket.close()
        if connection.is_waiting:
            self._under_way -= 1
            self.journal.fail(connection.key, what)
        else:
            self._idle.remove(connection)


def run(load: Load) -> Findings:
    """Opens the connections, lets them warm up, measures, and waits for the last answers."""
    client = Client(load)
    client.run_until(_clock() + load.warmup)
    print(MEASURING, flush=True)
    begun, cpu_begun = _clock(), time.process_time()
    over = begun + load.seconds
    client.run_until(over)
    cpu_seconds = time.process_time() - cpu_begun
    client.drain()
    journal = client.journal
    milliseconds = (journal.due_within if load.rate else journal.ended_within)(begun, over)
    return Findings(
        latencies=summed_up(milliseconds, load.seconds),
        outcomes=dict(journal.outcomes),
        errors=dict(journal.errors),
        standing=journal.standing(load.sample),
        cpu_seconds=cpu_seconds,
        late_p99_ms=percentile(sorted(journal.lateness(begun, over)) or [0.0], 990),
    )


def main() -> None:
    gc.disable()  # its pauses would be counted as the service's
    values = json.load(sys.stdin)
    address, errand = Address(**values.pop("address")), Errand(**values.pop("errand"))
    findings = run(Load(address=address, errand=errand, **values))
    print(json.dumps(dataclasses.asdict(findings)), flush=True)


if __name__ == "__main__":
    main()
