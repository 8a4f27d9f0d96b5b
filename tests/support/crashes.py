"""Crashes of the processes that carry out jobs: each is killed in the middle of one."""

import asyncio
import contextlib
import random
from typing import Any

import httpx

from tests.support import processes
from tests.support.harness import Api, owner_of

_SETTINGS = {"BOOTSTRAP_EMAIL": "a@example.com", "BOOTSTRAP_TOKEN": processes.TOKEN}
_LONGEST_SECONDS = 0.6  # after which most jobs have ended


class _Deployment:
    """A service that answers, and a process that carries out jobs: the same one, or one beside it."""

    def __init__(self, url: str, victim: str) -> None:
        self._url = url
        self._victim = victim
        self._port = processes.free_port()
        self._processes: list[asyncio.subprocess.Process] = []
        self.api = Api.__new__(Api)
        self.api.token = processes.TOKEN
        self.api.client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self._port}/api/v2",
            headers={"Authorization": f"Bearer {processes.TOKEN}"},
            timeout=30,
            trust_env=False,
        )

    async def serve(self) -> asyncio.subprocess.Process:
        settings = _SETTINGS | {"RUN_JOBS": str(self._victim == "serve")}
        process = await self._start("serve", "--port", str(self._port), **settings)
        address = f"http://127.0.0.1:{self._port}"
        async with httpx.AsyncClient(base_url=address, trust_env=False) as client:
            await processes.until_ready(client, process)
        return process

    async def work(self) -> asyncio.subprocess.Process:
        process = await self._start("work")
        assert process.stdout is not None
        while b"Working" not in await asyncio.wait_for(process.stdout.readline(), 30):
            assert process.returncode is None
        return process

    async def victim(self) -> asyncio.subprocess.Process:
        return await (self.serve() if self._victim == "serve" else self.work())

    async def _start(self, *arguments: str, **settings: str) -> asyncio.subprocess.Process:
        process = await processes.start(*arguments, DATABASE_URL=self._url, **settings)
        self._processes.append(process)
        return process

    async def stop(self) -> None:
        """Every process that still runs ends in order."""
        await self.api.client.aclose()
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await asyncio.wait_for(process.communicate(), 30)


async def kill(process: asyncio.subprocess.Process) -> None:
    process.kill()
    await process.wait()


async def survive_crashes(url: str, victim: str, *, rounds: int, seed: int) -> None:
    """Kills whoever carries out jobs at a moment of chance, round after round, and counts what was done."""
    chance = random.Random(seed)
    deployment = _Deployment(url, victim)
    api = deployment.api
    try:
        if victim == "work":
            await deployment.serve()
        process = await deployment.victim()
        numbered = await api.new_object(naming={"autoincrement_enabled": True})
        cars = await api.new_object({"key": "round", "type": "integer"})
        made = await api.finished_job(cars, "create", [{"name": str(number)} for number in range(100)])
        ids = [result["id"] for result in made["results"]]
        for number in range(rounds):
            fields = {"custom_object_fields": {"round": number}}
            started = [
                await api.job(numbered, "create", [{}] * 100),
                await api.job(cars, "update", [{"id": record_id, **fields} for record_id in ids]),
                await api.job(numbered, "create", [{}] * 30),
            ]
            await asyncio.sleep(chance.uniform(0, _LONGEST_SECONDS))
            await kill(process)
            process = await deployment.victim()
            for response in started:
                await _require_all_done(api, response)
        await _require_each_once(api, numbered, cars, rounds)
        await _require_versions(url, rounds)
    finally:
        await deployment.stop()


async def _require_all_done(api: Api, response: httpx.Response) -> None:
    assert response.status_code == 201, response.text
    job: dict[str, Any] = await api.finished(response.json()["job_status"]["id"])
    assert (job["status"], job["progress"]) == ("completed", job["total"]), job
    assert [result["index"] for result in job["results"]] == list(range(job["total"]))
    assert all(result["success"] for result in job["results"]), job


async def _require_each_once(api: Api, numbered: str, cars: str, rounds: int) -> None:
    names = sorted(int(record["name"]) for record in await api.records(numbered))
    assert names == list(range(1, rounds * 130 + 1))
    last = {record["custom_object_fields"]["round"] for record in await api.records(cars)}
    assert last == {rounds - 1}


async def _require_versions(url: str, rounds: int) -> None:
    """Each car was changed once a round."""
    async with owner_of(url) as connection:
        rows = await connection.fetch("select version, count(*) from records where number is null group by 1")
    assert [tuple(row) for row in rows] == [(1 + rounds, 100)]
