"""The commands as an operator types them, in processes of their own."""

import asyncio
import contextlib
import re
import signal
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.support.harness import Cluster
from tests.support.processes import TOKEN, free_port, run, serving, start_in, until_ready


async def test_serve_makes_the_bootstrap_admin_and_stops_cleanly_on_sigterm(cluster: Cluster) -> None:
    url = await cluster.new_database(empty=True)
    settings = {"BOOTSTRAP_EMAIL": "Admin@Example.com", "BOOTSTRAP_TOKEN": TOKEN}
    for _ in range(2):
        async with serving("--database-url", url, **settings) as (client, process):
            answer = await client.get("/api/v2/custom_objects", auth=("admin@example.com/token", TOKEN))
            assert answer.status_code == 200
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 20) == 0


async def test_several_workers_share_one_embedded_server(tmp_path: Path) -> None:
    settings = {"BOOTSTRAP_EMAIL": "a@example.com", "BOOTSTRAP_TOKEN": TOKEN}
    async with serving("--workers", "2", "--data-dir", str(tmp_path / "data"), **settings) as (client, _):
        body = {"custom_object": {"key": "car", "title": "Car"}}
        assert (await client.post("/api/v2/custom_objects", json=body)).status_code == 201
        upsert = {"custom_object_record": {"name": "x"}}
        answers = await asyncio.gather(
            *(
                client.patch("/api/v2/custom_objects/car/records?external_id=1", json=upsert)
                for _ in range(20)
            )
        )
    outcomes = sorted(answer.headers["Upsert-Result"] for answer in answers)
    assert outcomes == ["created", *["unchanged"] * 19]
    assert not (tmp_path / "data" / "cluster" / "data" / "postmaster.pid").exists()


async def test_the_demo_prints_requests_that_work_when_pasted_anywhere_and_no_token(tmp_path: Path) -> None:
    data = tmp_path / "it's data"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    async with _demo(data) as (text, client):
        token = (data / "demo-token").read_text().strip()
        assert stat.S_IMODE((data / "demo-token").stat().st_mode) == 0o600
        assert token not in text
        assert len(token) > 40
        headers = {"Authorization": f"Bearer {token}"}
        assert (await client.get("/api/v2/custom_objects", headers=headers)).status_code == 200
        for command, outcome in zip(
            re.findall(r"^ +(curl .*)$", text, re.M), ("created", "unchanged"), strict=True
        ):
            pasted = await asyncio.create_subprocess_shell(
                command, stdout=asyncio.subprocess.PIPE, cwd=elsewhere
            )
            out, _ = await pasted.communicate()
            assert "HTTP/1.1 200" in out.decode()
            assert f"upsert-result: {outcome}" in out.decode()
    (data / "demo-token").chmod(0o644)
    async with _demo(data, "--show-token") as (text, _):
        assert f"Token of an admin: {token}" in text
        assert stat.S_IMODE((data / "demo-token").stat().st_mode) == 0o600


@contextlib.asynccontextmanager
async def _demo(data: Path, *arguments: str) -> AsyncIterator[tuple[str, httpx.AsyncClient]]:
    """The demo, and what it prints until it serves."""
    port = free_port()
    named = ("--port", str(port), "--data-dir", data.name)
    process = await start_in(data.parent, "serve", "--demo", *named, *arguments)
    try:
        text = ""
        while text.count("curl") < 2 or ("--show-token" in arguments and "Token of" not in text):
            assert process.stdout is not None
            text += (await asyncio.wait_for(process.stdout.readline(), 30)).decode()
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            await until_ready(client, process)
            yield text, client
    finally:
        process.terminate()
        out, _ = await asyncio.wait_for(process.communicate(), 30)
    assert b"upsert_" not in out


async def test_a_token_is_printed_once_listed_without_its_text_and_revoked(cluster: Cluster) -> None:
    url = await cluster.new_database()
    create = ("token", "create", "--email", "e@example.com", "--role", "agent", "--name", "sync")
    code, out, _ = await run(*create, "--database-url", url)
    token = out.strip().splitlines()[-1]
    assert (code, token[:7], len(token)) == (0, "upsert_", 50)
    code, out, _ = await run("token", "list", DATABASE_URL=url)
    assert code == 0
    assert "e@example.com" in out
    assert token[-4:] in out
    assert token not in out
    token_id = re.search(r"│ (\d+) ", out)
    assert token_id is not None
    assert (await run("token", "revoke", token_id[1], DATABASE_URL=url))[0] == 0
    code, _, err = await run("token", "revoke", token_id[1], DATABASE_URL=url)
    assert code == 1
    assert "not revoked" in err


async def test_migrate_says_when_there_is_nothing_to_do(cluster: Cluster) -> None:
    url = await cluster.new_database(empty=True)
    assert "Applied migration" in (await run("migrate", "--database-url", url))[1]
    assert (await run("migrate", DATABASE_URL=url))[1] == "The schema is up to date\n"


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (("serve",), {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}, "connect"),
        (("migrate",), {"BOOTSTRAP_EMAIL": "a@example.com"}, "belong together"),
        (("migrate",), {"BOOTSTRAP_EMAIL": "a@b.c", "BOOTSTRAP_TOKEN": "short"}, "BOOTSTRAP_TOKEN"),
        (("migrate",), {"RATE_LIMIT_TOKEN": "5/fortnight"}, "RATE_LIMIT_TOKEN: Value error, must be"),
        (("serve", "--port", "x"), {}, "--port"),
    ],
)
async def test_an_operators_mistake_is_a_message_and_no_traceback(
    arguments: tuple[str, ...], settings: dict[str, str], message: str
) -> None:
    code, out, err = await run(*arguments, **settings)
    assert code not in (0, None)
    assert message in err
    assert "Traceback" not in out + err
    assert "short" not in err
