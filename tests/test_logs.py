"""The log of real processes: a line for each request where that is switched on, times in every line."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.harness import Cluster, owner_of
from tests.support.processes import TOKEN, free_port, start, until_ready
from upsert_svc.db import embedded

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
ADMIN = {"BOOTSTRAP_EMAIL": "a@example.com", "BOOTSTRAP_TOKEN": TOKEN}
WORKERS = pytest.mark.parametrize("workers", [1, 2])


class Served:
    """A service in processes of its own, and what it wrote, once it has ended."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.out: Sequence[str] = ()
        self.err: Sequence[str] = ()

    @property
    def requests(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out if line.startswith("{")]


@contextlib.asynccontextmanager
async def served(url: str, workers: int, **settings: str) -> AsyncIterator[Served]:
    port = free_port()
    arguments = ("serve", "--port", str(port), "--workers", str(workers), "--database-url", url)
    process = await start(*arguments, **ADMIN, **settings)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    base_url = f"http://127.0.0.1:{port}"
    try:
        async with httpx.AsyncClient(base_url=base_url, headers=headers, trust_env=False) as client:
            served = Served(client)
            await until_ready(client, process)
            assert process.stdout is not None
            while line := await asyncio.wait_for(process.stdout.readline(), 30):
                if line.startswith(b"Serving"):  # by all workers
                    break
            yield served
            process.send_signal(signal.SIGTERM)
            out, err = await asyncio.wait_for(process.communicate(), 30)
            served.out = out.decode().splitlines()
            served.err = [line for line in err.decode().splitlines() if "logs in as" not in line]
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@WORKERS
async def test_each_request_is_a_line_of_json_where_that_is_switched_on(
    cluster: Cluster, workers: int
) -> None:
    async with served(await cluster.new_database(), workers, LOG_REQUESTS="true") as service:
        for number in range(20):  # over connections of their own, so that each worker gets some
            sent = {"X-Request-Id": f"of-the-test-{number}", "Connection": "close"}
            path = "/api/v2/custom_objects/no_such_object/records?external_id=canary"
            answer = await service.client.get(path, headers=sent)
            assert answer.status_code == 404
    lines = [line for line in service.requests if line["request_id"].startswith("of-the-test-")]
    assert sorted(line["request_id"] for line in lines) == sorted(f"of-the-test-{n}" for n in range(20))
    for line in lines:
        assert re.fullmatch(TIME, line["time"])
        assert next(iter(line)) == "time"
        assert line["route"] == "/api/v2/custom_objects/{key}/records"
        assert (line["method"], line["status"], line["account_id"]) == ("GET", 404, 1)
        assert isinstance(line["user_id"], int)
    assert "canary" not in "\n".join([*service.out, *service.err])
    assert service.err == []


@WORKERS
async def test_no_request_is_logged_where_that_is_not_switched_on(cluster: Cluster, workers: int) -> None:
    async with served(await cluster.new_database(), workers) as service:
        assert (await service.client.get("/api/v2/custom_objects")).status_code == 200
    assert service.requests == []


@WORKERS
async def test_a_fault_is_logged_with_its_time_and_its_traceback_set_in(
    cluster: Cluster, workers: int
) -> None:
    url = await cluster.new_database()
    async with served(url, workers) as service, owner_of(url) as owner:
        await owner.execute("alter table objects rename column key to other")
        answer = await service.client.get("/api/v2/custom_objects", headers={"X-Request-Id": "the-fault"})
        assert answer.status_code == 500
    first, *traceback = service.err
    assert re.fullmatch(rf"{TIME} ERROR upsert_svc\.api\.middleware: request the-fault failed", first)
    assert len(traceback) > 3
    assert all(line.startswith("  ") for line in traceback)


_LOGGING = """
import logging, sys
from upsert_svc import logs
logs.configure()
logging.getLogger("upsert_svc.somewhere").warning("first\\nsecond \\x1b[31m \\x85 \\u2028 end")
logging.getLogger("upsert_svc.somewhere").info("not to be seen")
logging.getLogger("asyncpg").warning("of a library: %s", "a\\rb")
try:
    raise ValueError("line\\n2026-01-01T00:00:00.000Z ERROR forged: line\\r\\x00")
except ValueError:
    logging.getLogger("upsert_svc.somewhere").exception("failed")
"""


async def _ran(text: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", text, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_nothing_that_is_logged_can_end_its_line_or_begin_another() -> None:
    _, out, err = await _ran(_LOGGING)
    assert out == ""
    lines = err.split("\n")[:-1]
    assert lines[0].endswith(r"upsert_svc.somewhere: first\u000asecond \u001b[31m \u0085 \u2028 end")
    assert lines[1].endswith(r"asyncpg: of a library: a\u000db")
    assert lines[2].endswith("upsert_svc.somewhere: failed")
    assert all(line.startswith("  ") for line in lines[3:])
    assert sum(re.match(TIME, line) is not None for line in lines) == 3
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", err)


async def test_a_log_that_nobody_reads_any_more_stops_nothing() -> None:
    code, _, err = await _ran(
        "import os, logging; from upsert_svc import logs; logs.configure()\n"
        "reader, writer = os.pipe(); os.close(reader); os.dup2(writer, 1)\n"
        "for _ in range(3): logging.getLogger(logs.REQUESTS).info('{}')\n"
        "os.dup2(os.open(os.devnull, os.O_WRONLY), 1)\n"
    )
    assert (code, err) == (0, "")


@WORKERS
async def test_a_database_that_goes_away_and_comes_back_is_a_line_each_of_a_process(
    tmp_path: Path, workers: int
) -> None:
    with embedded.start(tmp_path / "data") as server:
        owner = {"MIGRATION_DATABASE_URL": server.url}
        async with served(server.service_url, workers, **owner) as service:
            postmaster = tmp_path / "data/cluster/data/postmaster.pid"
            os.kill(int(postmaster.read_text().split()[0]), signal.SIGKILL)
            await asyncio.sleep(2)  # for the server's other processes, which end a little later
            statuses = []
            for _ in range(12):
                statuses.append((await service.client.get("/api/v2/custom_objects")).status_code)
                await asyncio.sleep(0.25)
            with embedded.start(tmp_path / "data"):
                await asyncio.sleep(5)  # for the workers that nobody asks
                statuses.append((await service.client.get("/api/v2/custom_objects")).status_code)
    assert statuses == [503] * 12 + [200], "\n".join(service.err)
    others = [line for line in service.err if "told 503" not in line]
    said = rf"{TIME} WARNING upsert_svc\.db\.outages: The database is"
    gone = [line for line in others if re.match(f"{said} out of reach: .", line)]
    back = [line for line in others if re.match(rf"{said} back after \d", line)]
    assert (len(gone), len(back), len(others)) == (workers, workers, 2 * workers), others


async def test_who_is_told_503_is_counted_in_the_log_by_reason(cluster: Cluster) -> None:
    url = await cluster.new_database()
    async with served(url, 1, WRITE_QUEUE="2", LOCK_TIMEOUT_SECONDS="0.3") as service:
        car = {"custom_object": {"key": "car", "title": "Car"}}
        assert (await service.client.post("/api/v2/custom_objects", json=car)).status_code == 201
        async with owner_of(url) as owner, owner.transaction():
            await owner.execute("lock table records in share row exclusive mode")
            records = "/api/v2/custom_objects/car/records"
            body = {"custom_object_record": {"name": "a"}}
            answers = await asyncio.gather(
                *(service.client.patch(f"{records}?external_id={n}", json=body) for n in range(12))
            )
            assert {answer.status_code for answer in answers} == {503}
    reasons = {answer.json()["description"] for answer in answers}
    assert "Too many writes are waiting" in reasons
    for reason in reasons:
        lines = [line for line in service.err if f"Requests were told 503 ({reason}): " in line]
        told = sum(answer.json()["description"] == reason for answer in answers)
        assert sum(int(line.partition("): ")[2].split()[0]) for line in lines) == told
        assert len(lines) == min(told, 2)  # the first at once, and the rest at the end
