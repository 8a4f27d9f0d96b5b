"""Callers over raw sockets, who know what became of each request; and a service in processes of its own."""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil

from tests.support import processes
from upsert_svc.accounts import tokens
from upsert_svc.db.pools import owner_transaction

OBJECT = "/api/v2/custom_objects/car"
RECORDS = f"{OBJECT}/records"
CUT = "cut"  # no answer to a request that had been sent whole
NO_CONNECTION = "no connection"  # so that nothing was sent
LIMIT_BYTES = 400 << 20
ROUNDS = int(os.environ.get("ROUNDS", "3"))  # of what is stopped or killed


def request(
    method: str, path: str, token: str = "", body: bytes = b"", headers: Mapping[str, str] | None = None
) -> bytes:
    """A whole request as bytes."""
    lines = [f"{method} {path} HTTP/1.1", "Host: bounds"]
    lines += [f"Authorization: Bearer {token}"] if token else []
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([*lines, "", ""]).encode() + body


def upsert(token: str, external_id: str, fields: Mapping[str, Any], name: str = "Ada") -> bytes:
    """An upsert of the demo's kind of object."""
    body = json.dumps({"custom_object_record": {"name": name, "custom_object_fields": fields}}).encode()
    return request("PATCH", f"{RECORDS}?external_id={external_id}", token, body)


@dataclass(frozen=True)
class Answer:
    """What came back: a status, or a word for why there is none."""

    status: int | str
    seconds: float = 0.0
    head: bytes = b""
    body: bytes = b""

    @property
    def is_last(self) -> bool:
        """Whether the connection is of no use any more."""
        return isinstance(self.status, str) or b"connection: close" in self.head.lower()


class Connection:
    """A caller's connection, which is made anew when it has ended."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, sent: bytes) -> Answer:
        """The answer to a request. Never raises for what the service does."""
        begun = time.perf_counter()
        if self._streams is None:
            try:
                self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 26)
            except OSError:
                return Answer(NO_CONNECTION)
        reader, writer = self._streams
        try:
            writer.write(sent)
            await writer.drain()
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(_length(head))
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            return Answer(CUT)
        answer = Answer(int(head[9:12]), time.perf_counter() - begun, head, body)
        if answer.is_last:
            self.close()
        return answer

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            return int(line.split(b":")[1])
    return 0


async def keep_asking(
    port: int, sent: Callable[[], bytes], until: asyncio.Event, answers: list[Answer], pause: float = 0.0
) -> None:
    """One request after another, until the event."""
    connection = Connection(port)
    while not until.is_set():
        answer = await connection.ask(sent())
        answers.append(answer)
        if answer.status == NO_CONNECTION:
            await asyncio.sleep(0.01)
        await asyncio.sleep(pause)
    connection.close()


@contextlib.asynccontextmanager
async def asking(
    port: int, sent: Callable[[], bytes], *, callers: int, pause: float = 0.0
) -> AsyncIterator[list[Answer]]:
    """Callers who ask for as long as the block lasts; all their answers."""
    is_over = asyncio.Event()
    answers: list[Answer] = []
    tasks = [asyncio.create_task(keep_asking(port, sent, is_over, answers, pause)) for _ in range(callers)]
    try:
        yield answers
    finally:
        is_over.set()
        await asyncio.gather(*tasks)


def counts(answers: Iterable[Answer]) -> Counter[int | str]:
    """How many answers there were of each kind."""
    return Counter(answer.status for answer in answers)


@dataclass(frozen=True)
class Figures:
    """Times of answers, in milliseconds."""

    p50: float
    p99: float
    most: float

    @classmethod
    def of(cls, answers: Iterable[Answer]) -> "Figures":
        times = sorted(answer.seconds * 1000 for answer in answers if isinstance(answer.status, int))
        if len(times) < 2:
            return cls(float("inf"), float("inf"), float("inf"))
        return cls(statistics.median(times), times[min(len(times) - 1, len(times) * 99 // 100)], times[-1])

    def __str__(self) -> str:
        return f"p50 {self.p50:.1f} ms, p99 {self.p99:.1f} ms, longest {self.most:.1f} ms"


@dataclass
class Served:
    """A service that runs in processes of its own, with an object `car` and two accounts."""

    port: int
    process: asyncio.subprocess.Process
    database_url: str
    token: str
    other_token: str = ""
    log: list[str] = field(default_factory=list)
    peak_bytes: int = 0

    def rss_bytes(self) -> int:
        """What the service holds, with its workers and other direct children."""
        held = 0
        with contextlib.suppress(psutil.NoSuchProcess):
            leader = psutil.Process(self.process.pid)
            for each in (leader, *leader.children()):
                with contextlib.suppress(psutil.NoSuchProcess):
                    held += each.memory_info().rss
        self.peak_bytes = max(self.peak_bytes, held)
        return held

    async def watch_memory(self) -> None:
        """Notes the most that is held, for ever."""
        while True:
            self.rss_bytes()
            await asyncio.sleep(0.02)

    async def stop(self, signal_number: int = signal.SIGTERM) -> int:
        """Its exit code."""
        if self.process.returncode is None:
            self.process.send_signal(signal_number)
        return await asyncio.wait_for(self.process.wait(), 60)

    def longest_hold_ms(self) -> float:
        """The longest time for which the loop was held, as far as the log tells."""
        holds = [line.split("held for ")[1].split(" ")[0] for line in self.log if "held for " in line]
        return max(map(float, holds), default=0.0)


@contextlib.asynccontextmanager
async def served(database_url: str, *arguments: str, **settings: str) -> AsyncIterator[Served]:
    """A service on a database, in processes of its own."""
    port = processes.free_port()
    environment = {"BOOTSTRAP_EMAIL": "admin@example.com", "BOOTSTRAP_TOKEN": processes.TOKEN} | settings
    if database_url:
        environment["DATABASE_URL"] = database_url
    process = await processes.start("serve", "--port", str(port), *arguments, **environment)
    service = Served(port, process, database_url, processes.TOKEN)
    reading = [
        asyncio.create_task(_note_lines(stream, service.log)) for stream in (process.stdout, process.stderr)
    ]
    watching = asyncio.create_task(service.watch_memory())
    try:
        await _set_up(service)
        yield service
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGTERM)
        await asyncio.wait_for(process.wait(), 60)
        watching.cancel()
        await asyncio.gather(*reading, watching, return_exceptions=True)


async def _note_lines(stream: asyncio.StreamReader | None, log: list[str]) -> None:
    assert stream is not None
    while line := await stream.readline():
        log.append(line.decode(errors="replace").rstrip("\n"))


async def _set_up(service: Served) -> None:
    """An object in each of the two accounts."""
    headers = {"Authorization": f"Bearer {service.token}"}
    url = f"http://127.0.0.1:{service.port}"
    async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=30) as client:
        await processes.until_ready(client, service.process)
        if service.database_url:
            async with owner_transaction(service.database_url) as connection:
                service.other_token = await tokens.create(
                    connection, account="other", email="other@example.com", role="admin"
                )
        for token in filter(None, (service.token, service.other_token)):
            client.headers["Authorization"] = f"Bearer {token}"
            body = {"custom_object": {"key": "car", "title": "Car", "title_pluralized": "Cars"}}
            (await client.post("/api/v2/custom_objects", json=body)).raise_for_status()
            for key, type_ in (
                ("color", "text"),
                ("year", "integer"),
                ("text", "textarea"),
                ("more", "json"),
            ):
                described = {"custom_object_field": {"key": key, "type": type_, "title": key}}
                (await client.post(f"{OBJECT}/fields", json=described)).raise_for_status()


@dataclass
class Neighbours:
    """What others see meanwhile: an upsert and a look at a record of another account, and /healthz."""

    upserts: list[Answer] = field(default_factory=list)
    shows: list[Answer] = field(default_factory=list)
    health: list[Answer] = field(default_factory=list)

    def __str__(self) -> str:
        told = counts([*self.upserts, *self.shows, *self.health])
        return (
            f"upserts of another account {Figures.of(self.upserts)}; its reads {Figures.of(self.shows)}; "
            f"/healthz {Figures.of(self.health)}; {dict(told)}"
        )


@contextlib.asynccontextmanager
async def neighbours(service: Served) -> AsyncIterator[Neighbours]:
    """Callers of the other account, who come one after the other for as long as the block lasts."""
    connection = Connection(service.port)
    made = await connection.ask(upsert(service.other_token, "mine", {"year": 1}))
    connection.close()
    record_id = json.loads(made.body)["custom_object_record"]["id"]
    show = request("GET", f"{RECORDS}/{record_id}", service.other_token)
    health = request("GET", "/healthz")
    years = itertools.count()

    def write() -> bytes:
        return upsert(service.other_token, "mine", {"year": next(years)})

    async with (
        asking(service.port, write, callers=1, pause=0.01) as upserts,
        asking(service.port, lambda: show, callers=1, pause=0.01) as shows,
        asking(service.port, lambda: health, callers=1, pause=0.01) as lives,
    ):
        yield Neighbours(upserts, shows, lives)


def report(what: str, service: Served, seen: Neighbours, answers: Iterable[Answer] = ()) -> None:
    """Prints what happened, and holds it to what is promised whatever was done."""
    held = service.peak_bytes >> 20
    found = counts(answers)
    print(f"\n{what}: at most {held} MB; {seen}; asked for {dict(found)}", flush=True)
    assert service.peak_bytes < LIMIT_BYTES
    everything = found + counts([*seen.upserts, *seen.shows, *seen.health])
    assert not [
        status for status in everything if isinstance(status, int) and status >= 500 and status != 503
    ]
    assert not [line for line in service.log if "Traceback" in line], service.log[-20:]


def pour(port: int, pieces: Iterable[bytes], limit_bytes: int, seconds: float = 10) -> int:
    """Sends without reading, until the service hangs up, takes no more, or the limit; what was taken."""
    sent = 0
    with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
        until = time.monotonic() + seconds
        with contextlib.suppress(OSError):
            for piece in pieces:
                connection.sendall(piece)
                sent += len(piece)
                if sent >= limit_bytes or time.monotonic() > until:
                    break
    return sent
