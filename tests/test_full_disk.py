"""A real service whose disk fills up: it says so, loses nothing, and writes again once there is room."""

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from tests.support.processes import TOKEN, free_port, until_ready
from tests.test_command_line import ADMIN, CARS, make_cars

_ISOLATED = ("unshare", "--mount", "--propagation", "private")
_SERVE = """
mount -t tmpfs -o size=400m,mode=755 tmpfs "$1"
exec "$2" -m upsert_svc serve --port "$3" --data-dir "$1/pg"
"""
_NOT_READY = {
    "The disk of the database is full",
    "The database cannot be reached just now",
    "The database is starting up or going down",
}


def can_mount() -> bool:
    if os.geteuid() != 0 or not shutil.which("unshare"):
        return False
    return subprocess.run([*_ISOLATED, "true"], check=False, capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(not can_mount(), reason="only root can make a small disk")


@contextlib.asynccontextmanager
async def serving_on_a_small_disk(folder: Path) -> AsyncIterator[tuple[httpx.AsyncClient, Path]]:
    """The service on a disk of 400 MB, and the disk as it is seen from here."""
    port = free_port()
    environment = os.environ | {f"UPSERT_SVC_{name}": value for name, value in ADMIN.items()}
    process = await asyncio.create_subprocess_exec(
        *_ISOLATED, "sh", "-c", _SERVE, "sh", str(folder), sys.executable, str(port),
        env=environment, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        address = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(
            base_url=address, headers=headers, timeout=30, trust_env=False
        ) as client:
            await until_ready(client, process)
            yield client, Path(f"/proc/{process.pid}/root{folder}")
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), 60)


def fill(disk: Path, room: int) -> Path:
    """Takes all of a disk but so many bytes."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while file.write(bytes(1 << 20)):
                pass
        file.truncate(ballast.stat().st_size - room)
    return ballast


async def write(client: httpx.AsyncClient, number: int) -> int:
    body = {"custom_object_record": {"name": f"{number}-" + "x" * 200}}
    return (await client.patch(CARS, params={"external_id": f"e{number}"}, json=body)).status_code


async def test_a_full_disk_is_told_and_a_freed_one_is_written_at_once_without_a_loss(tmp_path: Path) -> None:
    async with serving_on_a_small_disk(tmp_path) as (client, disk):
        await make_cars(client)
        ballast = await asyncio.to_thread(fill, disk, 1 << 20)
        acknowledged = 0
        while (status := await write(client, acknowledged)) == 200:
            acknowledged += 1
        assert acknowledged > 0
        assert status == 503
        answers = []
        for _ in range(4):
            answers.append(await client.get("/readyz"))
            assert (await client.get("/healthz")).status_code == 200
            await asyncio.sleep(1.1)
        assert {answer.status_code for answer in answers} == {503}
        assert {answer.json()["description"] for answer in answers} <= _NOT_READY
        begun = time.monotonic()
        ballast.unlink()
        await until_good(lambda: write(client, acknowledged))
        assert time.monotonic() - begun < 5
        await until_good(lambda: readiness(client))
        answer = await client.get(f"{CARS}/count")
        assert answer.json()["count"]["value"] >= acknowledged


async def readiness(client: httpx.AsyncClient) -> int:
    return (await client.get("/readyz")).status_code


async def until_good(ask: Callable[[], Awaitable[int]]) -> None:
    for _ in range(200):
        if await ask() == 200:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it did not become good")
