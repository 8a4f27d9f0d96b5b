"""The service's commands in processes of their own."""

import asyncio
import contextlib
import os
import random
import shutil
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

_chance = random.SystemRandom()  # not that of the tests, whose seed may be the same in each worker
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed here")
TOKEN = "a-token-of-the-bootstrap-of-32-characters"


def _environment(**settings: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("UPSERT_SVC_")}
    return kept | {f"UPSERT_SVC_{key}": value for key, value in settings.items()}


async def start(*arguments: str, **settings: str) -> asyncio.subprocess.Process:
    return await start_in(None, *arguments, **settings)


async def start_in(directory: Path | None, *arguments: str, **settings: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "upsert_svc",
        *arguments,
        env=_environment(**settings),
        cwd=directory,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def run(*arguments: str, **settings: str) -> tuple[int | None, str, str]:
    process = await start(*arguments, **settings)
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out.decode(), err.decode()


def free_port() -> int:
    """A port below those that the system gives to connections: none takes it before its server does."""
    while True:
        port = _chance.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


@contextlib.asynccontextmanager
async def serving(
    *arguments: str, **settings: str
) -> AsyncIterator[tuple[httpx.AsyncClient, asyncio.subprocess.Process]]:
    port = free_port()
    process = await start("serve", "--port", str(port), *arguments, **settings)
    reading = asyncio.create_task(
        process.communicate()
    )  # or a full pipe would stop it in the middle of a line
    headers = {"Authorization": f"Bearer {TOKEN}"}
    try:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers=headers, trust_env=False
        ) as client:
            await until_ready(client, process)
            yield client, process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await asyncio.wait_for(reading, 30)


async def until_ready(client: httpx.AsyncClient, process: asyncio.subprocess.Process) -> None:
    for _ in range(300):
        assert process.returncode is None, "the service ended"
        with contextlib.suppress(httpx.TransportError):
            if (await client.get("/readyz")).status_code == 200:
                return
        await asyncio.sleep(0.05)
    raise AssertionError("the service was not ready in time")
