"""The HTTP load: closed-loop connections that upsert random keys. Run as a process of its own.

Reads a Load as JSON from standard input; prints a line when the warm-up is over, then its Findings as JSON.
Speaks HTTP itself, so that it costs little beside the service: prebuilt requests, one pass over the answer.
"""

import asyncio
import dataclasses
import gc
import json
import random
import re
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import cast

import uvloop

from bench import cars
from bench.figures import Latencies, summed_up

MEASURING = "measuring"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_OUTCOME = re.compile(rb"\r\nupsert-result: *(\w+)\r\n", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True)
class Load:
    """What to send, and for how long."""

    host: str
    port: int
    authorization: str
    connections: int
    keys: int
    first_value: int
    warmup: float
    seconds: float
    sample: int


@dataclass(frozen=True)
class Findings:
    """What came back. `standing` has, for a sample of keys, the values that may stand there now."""

    latencies: Latencies
    outcomes: dict[str, int]
    errors: dict[str, int]
    standing: dict[str, list[int]]
    cpu_seconds: float


class Acknowledged:
    """Per key, the values that may stand: acknowledged ones that no later upsert is sure to have replaced."""

    def __init__(self) -> None:
        self._values: dict[int, list[tuple[int, float]]] = {}
        self._uncertain: set[int] = set()

    def note(self, key: int, value: int, sent: float, ended: float) -> None:
        """An upsert was acknowledged: it replaced what had been acknowledged before it was sent."""
        rivals = [rival for rival in self._values.get(key, ()) if rival[1] >= sent]
        self._values[key] = [*rivals, (value, ended)]

    def doubt(self, key: int) -> None:
        """An upsert failed: whether its value stands is not known."""
        self._uncertain.add(key)

    def sample(self, size: int) -> dict[str, list[int]]:
        known = [key for key in self._values if key not in self._uncertain]
        chosen = random.sample(known, min(size, len(known)))
        return {f"{key:08d}": [value for value, _ in self._values[key]] for key in chosen}


class Run:
    """What the connections share: the template, the clock, the books."""

    def __init__(self, load: Load) -> None:
        self.keys = load.keys
        self.template = _template(load)
        self.next_value = load.first_value
        self.milliseconds: list[float] = []
        self.is_measuring = False
        self.is_over = False
        self.acknowledged = Acknowledged()
        self.outcomes: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()


def _template(load: Load) -> bytes:
    """A whole request as bytes, with a place for the key, the key again and the value."""
    body = cars.body("%08d", "%d").encode()
    length = len(cars.body("0" * 8, str(cars.FIRST_VALUE)).encode())
    path = f"/api/v2/custom_objects/{cars.OBJECT_KEY}/records?external_id={cars.external_id('%08d')}"
    head = (
        f"PATCH {path} HTTP/1.1\r\nHost: {load.host}:{load.port}\r\nAuthorization: {load.authorization}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    )
    return head.encode() + body


class Caller(asyncio.Protocol):
    """One connection: sends an upsert, waits for its answer, sends the next."""

    _transport: asyncio.Transport

    def __init__(self, run: Run) -> None:
        self._run = run
        self._buffer = b""
        self._key = self._value = 0
        self._sent = 0.0
        self._is_waiting = False
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def _send(self) -> None:
        run = self._run
        self._key = key = int(random.random() * run.keys) + 1
        self._value = value = run.next_value
        run.next_value = value + 1
        request = run.template % (key, key, value)
        self._is_waiting = True
        self._sent = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer = buffer = self._buffer + data if self._buffer else data
        head_end = buffer.find(_HEAD_END)
        if head_end < 0:
            return
        length = _LENGTH.search(buffer, 0, head_end + 2)
        missing = head_end + len(_HEAD_END) + int(length[1]) - len(buffer) if length else -1
        if missing > 0:
            return
        ended = time.perf_counter()
        outcome = _OUTCOME.search(buffer, 0, head_end + 2)
        if missing < 0:
            self._fail("an answer of no clear length")
            self._transport.abort()
            return
        if buffer.startswith(b"HTTP/1.1 200 ") and outcome is not None:
            self._succeed(ended, outcome[1].decode())
        else:
            self._fail(buffer[:12].decode("latin-1"))
        self._buffer = b""
        if self._run.is_over:
            self._transport.close()
        else:
            self._send()

    def _succeed(self, ended: float, outcome: str) -> None:
        run = self._run
        self._is_waiting = False
        if run.is_measuring:
            run.milliseconds.append((ended - self._sent) * 1000)
        run.outcomes[outcome] += 1
        run.acknowledged.note(self._key, self._value, self._sent, ended)

    def _fail(self, what: str) -> None:
        self._is_waiting = False
        self._run.errors[what] += 1
        self._run.acknowledged.doubt(self._key)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_waiting:
            self._fail("connection lost")
        self.closed.set_result(None)


async def run(load: Load) -> Findings:
    """Opens the connections, lets them warm up, measures, and waits for the last answers."""
    books = Run(load)
    loop = asyncio.get_running_loop()
    callers: list[Caller] = []
    for _ in range(load.connections):
        _, caller = await loop.create_connection(lambda: Caller(books), load.host, load.port)
        callers.append(caller)
    await asyncio.sleep(load.warmup)
    print(MEASURING, flush=True)
    begun, cpu_begun = time.perf_counter(), time.process_time()
    books.is_measuring = True
    await asyncio.sleep(load.seconds)
    books.is_measuring, books.is_over = False, True
    seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - cpu_begun
    await asyncio.wait_for(asyncio.gather(*(caller.closed for caller in callers)), timeout=60)
    return Findings(
        latencies=summed_up(books.milliseconds, seconds),
        outcomes=dict(books.outcomes),
        errors=dict(books.errors),
        standing=books.acknowledged.sample(load.sample),
        cpu_seconds=cpu_seconds,
    )


def main() -> None:
    gc.disable()  # its pauses would be counted as the service's
    load = Load(**json.load(sys.stdin))
    findings = uvloop.run(run(load))
    print(json.dumps(dataclasses.asdict(findings)), flush=True)


if __name__ == "__main__":
    main()
