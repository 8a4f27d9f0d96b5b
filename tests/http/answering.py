"""A small application behind the protocol: `python -m tests.http.answering PORT SETTINGS`."""

import asyncio
import contextlib
import json
import resource
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psutil
import uvicorn
from starlette.types import Receive, Scope, Send

from tests.support.processes import free_port
from upsert_svc import server
from upsert_svc.asgi import WAITED_SECONDS
from upsert_svc.http import limits
from upsert_svc.settings import Settings

_released = asyncio.Event()
_held: set[int] = set()


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await _live(scope, receive, send)
        return
    status, answer = await _answer(scope, receive)
    headers = [(b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


async def _live(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    scope["state"][limits.STATE] = _limits(json.loads(sys.argv[2]))
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


def _limits(wanted: dict[str, Any]) -> limits.Limits:
    return limits.of(Settings(**wanted))


async def _answer(scope: Scope, receive: Receive) -> tuple[int, bytes]:
    kind, _, argument = scope["path"].strip("/").partition("/")
    match kind:
        case "headers":
            await _read(receive)
            return 200, json.dumps([name.decode() for name, _ in scope["headers"]]).encode()
        case "large":
            return 200, b"x" * int(argument)
        case "hold":  # until released, without a look at the body
            _held.add(id(scope))
            await asyncio.wait_for(_released.wait(), 30)
            _held.discard(id(scope))
            return 200, b"%d" % await _read(receive)
        case "release":
            _released.set()
            await asyncio.sleep(0)
            _released.clear()
        case "held":
            return 200, b"%d" % len(_held)
        case "waited":
            before = scope["extensions"][WAITED_SECONDS]()
            await asyncio.sleep(float(argument))
            return 200, json.dumps([before, scope["extensions"][WAITED_SECONDS]()]).encode()
        case "unauthorized":
            return 401, b""
    return 200, b"%b %d" % (scope["path"].encode(), await _read(receive))


async def _read(receive: Receive) -> int:
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return -1
        size += len(message["body"])
        if not message["more_body"]:
            return size


@dataclass(frozen=True)
class Answering:
    """That process, and what it says."""

    port: int
    process: subprocess.Popen[bytes]

    def megabytes(self) -> float:
        return psutil.Process(self.process.pid).memory_info().rss / (1 << 20)

    def sinks_to(self, megabytes: float) -> bool:
        """Whether no more than that is held a moment later; memory is freed when the loop turns again."""
        until = time.monotonic() + 1
        while (is_over := self.megabytes() >= megabytes) and time.monotonic() < until:
            time.sleep(0.02)
        return not is_over

    def seconds_of_work(self) -> float:
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        """One request on a connection of its own."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def until(self, path: str, answer: tuple[int, bytes], **headers: str) -> None:
        """Asks until the answer is that one."""
        for _ in range(100):
            got = self.get(path, **headers)
            if got == answer:
                return
            time.sleep(0.05)
        raise AssertionError(f"{path} is answered {got}")

    def log(self) -> str:
        """What it has said, after its end."""
        self.process.terminate()
        return self.process.communicate(timeout=20)[0].decode()


@contextlib.contextmanager
def answering(*, files: int | None = None, **settings: Any) -> Iterator[Answering]:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.http.answering", str(port), json.dumps(settings)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=None if files is None else lambda: _allow(files),
    )
    started = Answering(port, process)
    try:
        _await(started)
        yield started
    finally:
        process.kill()
        process.communicate()


def _allow(files: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))


def _await(started: Answering) -> None:
    for _ in range(400):
        assert started.process.poll() is None, started.log()
        with contextlib.suppress(OSError):
            started.get("/headers")
            return
        time.sleep(0.05)
    raise AssertionError("it did not start")


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), **server.options(shutdown_timeout_seconds=1))
