"""The log of real processes: a line for each request where that is switched on, times in every line."""

import asyncio
import contextlib
import json
import re
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest

from tests.support.harness import Cluster, owner_of
from tests.support.processes import TOKEN, free_port, start, until_ready

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


_AWAY = """
import logging
from upsert_svc import logs
logs.configure()
try:
    raise ConnectionRefusedError(111, "Connection refused")
except OSError:
    logging.getLogger("asyncpg.pool").warning("No connection for %s", "a pool", exc_info=True)
"""


async def test_a_pool_says_in_one_line_that_the_database_is_away() -> None:
    _, _, err = await _ran(_AWAY)
    said = r"WARNING asyncpg\.pool: No connection for a pool \(\[Errno 111\] Connection refused\)"
    assert re.fullmatch(rf"{TIME} {said}\n", err)
