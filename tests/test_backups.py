"""The recipes of docs/operations.md for backups, run line by line; and what followers are told after them."""

import asyncio
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import httpx
import pytest

from tests.support.processes import TOKEN, serving
from tests.test_docs import ROOT, section
from upsert_svc.db import embedded

ADMIN = {"BOOTSTRAP_EMAIL": "a@example.com", "BOOTSTRAP_TOKEN": TOKEN}
OBJECTS = "/api/v2/custom_objects"
EXPORT = "/api/v2/incremental/custom_objects/car/cursor"
PATH, BACKUP, RESTORE, DUMP, RESTORE_DUMP = re.findall(
    r"^```sh\n(.*?)^```", section("docs/operations.md", "Backups"), re.MULTILINE | re.DOTALL
)
COMPOSE_DUMP, COMPOSE_RESTORE = re.findall(
    r"^```sh\n(.*?)^```", section("docs/operations.md", "Backups with compose"), re.MULTILINE | re.DOTALL
)
# There is no Docker where tests run: the commands within the containers are run beside a server instead.
_DOCKER = """
docker() {
    case "$*" in
        "compose exec -T database "*) shift 4; "$@" -h "$SOCKETS" ;;
        "compose run --rm service upsert-svc "*) shift 4; "$@" ;;
        "compose stop service" | "compose up -d service") ;;
        *) echo "not known: docker $*" >&2; return 1 ;;
    esac
}
"""


@pytest.fixture
def clone() -> Iterator[Path]:
    """A directory like a clone of the service, which the user of the server can enter."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        (Path(name) / ".venv").symlink_to(ROOT / ".venv")
        yield Path(name)


async def paste(clone: Path, text: str, **variables: str) -> str:
    """Runs each line of a recipe in one shell; what they print."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("UPSERT_SVC_")}
    process = await asyncio.create_subprocess_exec(
        "bash", "-ec", PATH + text, cwd=clone, env=kept | variables, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, out.decode()
    return out.decode()


async def write(client: httpx.AsyncClient, *names: str) -> None:
    for name in names:
        body = {"custom_object_record": {"name": name}}
        answer = await client.patch(f"{OBJECTS}/car/records", params={"external_id": name}, json=body)
        assert answer.status_code == 200


async def make_cars(client: httpx.AsyncClient) -> None:
    body = {"custom_object": {"key": "car", "title": "Car", "title_pluralized": "Cars"}}
    assert (await client.post(OBJECTS, json=body)).status_code == 201


async def export(client: httpx.AsyncClient, **query: str | int) -> tuple[list[str], str]:
    page = (await client.get(EXPORT, params=query)).raise_for_status().json()
    return [record["name"] for record in page["custom_object_records"]], page["after_cursor"]


async def forget_role(url: str) -> None:
    """Has a server be as a new one, without the role of the service and without its database."""
    owner = await asyncpg.connect(url.replace("/upsert_svc?", "/postgres?"))
    await owner.execute("drop database upsert_svc with (force)")
    await owner.execute("drop role upsert_svc")
    await owner.close()


async def make_database(url: str) -> None:
    owner = await asyncpg.connect(url.replace("/upsert_svc?", "/postgres?"))
    await owner.execute("create database upsert_svc")
    await owner.close()


async def test_a_base_backup_is_restored_by_its_recipe_and_refuses_the_cursors_of_before(clone: Path) -> None:
    data = ("--data-dir", str(clone / "data"))
    async with serving(*data, **ADMIN) as (client, _):
        await make_cars(client)
        await write(client, "kept")
        await paste(clone, BACKUP)
        await write(client, *(f"lost {number}" for number in range(20)))
        _, cursor = await export(client, start_time=0)
    await paste(clone, RESTORE)
    for _ in range(2):  # a restart changes nothing more
        async with serving(*data, **ADMIN) as (client, _):
            await write(client, "restored")
            assert (await client.get(EXPORT, params={"cursor": cursor})).status_code == 400
            names, other = await export(client, start_time=0)
            assert names == ["kept", "restored"]
    async with serving(*data, **ADMIN) as (client, _):
        await write(client, "later")
        assert await export(client, cursor=other) == (["later"], (await export(client, cursor=other))[1])


async def test_a_dump_is_restored_by_its_recipe_on_a_server_without_the_role(clone: Path) -> None:
    async with serving("--data-dir", str(clone / "data"), **ADMIN) as (client, _):
        await make_cars(client)
        await write(client, "kept")
        await paste(clone, DUMP)
        _, cursor = await export(client, start_time=0)
    with embedded.start(clone / "other", durable=False) as server:
        new_url, owner_url = server.url, server.url.replace("/upsert_svc?", "/postgres?")
        await forget_role(server.url)
        await paste(clone, RESTORE_DUMP, OWNER_URL=owner_url, NEW_URL=new_url)
        async with serving("--database-url", new_url) as (client, _):
            assert (await export(client, start_time=0))[0] == ["kept"]
            assert (await client.get(EXPORT, params={"cursor": cursor})).status_code == 400


@pytest.mark.parametrize("is_new", [False, True])
async def test_a_dump_of_compose_is_restored_by_its_recipe_and_refuses_the_cursors_of_before(
    clone: Path, is_new: bool
) -> None:
    sockets = str(clone / "data/cluster/run")
    with embedded.start(clone / "data", durable=False) as server:
        async with serving("--database-url", server.url, **ADMIN) as (client, _):
            await make_cars(client)
            await write(client, "kept")
            await paste(clone, _DOCKER + COMPOSE_DUMP, SOCKETS=sockets)
            await write(client, "lost")
            _, cursor = await export(client, start_time=0)
        if is_new:
            await forget_role(server.url)
            await make_database(server.url)
        await paste(
            clone,
            _DOCKER + COMPOSE_RESTORE,
            SOCKETS=str(clone / "data/cluster/run"),
            UPSERT_SVC_DATABASE_URL=server.url,
        )
        async with serving("--database-url", server.url) as (client, _):
            assert (await export(client, start_time=0))[0] == ["kept"]
            assert (await client.get(EXPORT, params={"cursor": cursor})).status_code == 400
