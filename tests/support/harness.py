"""What the tests stand on: a real PostgreSQL, a real server on a real port, a client that speaks to it."""

import asyncio
import contextlib
import importlib.util
import itertools
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import asyncpg
import httpx
from pydantic import SecretStr

from upsert_svc import app, migrations, server, stopping
from upsert_svc.accounts import tokens
from upsert_svc.db.embedded import OWNER
from upsert_svc.db.pools import SERVICE_ROLE, owner_transaction
from upsert_svc.service import Service
from upsert_svc.settings import Settings
from upsert_svc.watchdog import Watchdog

if importlib.util.find_spec("sniffio") is None:
    # httpx looks for it at each request; a search of every path that finds nothing takes its time
    _absent: Any = None
    sys.modules["sniffio"] = _absent

ADMIN_EMAIL = "admin@example.com"
JSON_TYPE = "application/json; charset=utf-8"  # of every answer
_numbers = itertools.count(1)
_databases: list[str] = []  # that are in use
_ended: list[str] = []  # that are to be dropped

FieldBody = Mapping[str, Any]


@dataclass(frozen=True)
class Cluster:
    """The embedded server of the test session; every database on it is a copy of the migrated template."""

    url: str
    template: str = "upsert_svc_template"

    def url_of(self, database: str) -> str:
        return self.url.replace("/upsert_svc?", f"/{database}?")

    async def make_template(self) -> None:
        await self._administer(f'create database "{self.template}"')
        await migrations.migrate(self.url_of(self.template))

    async def new_database(self, *, empty: bool = False) -> str:
        """The URL of a fresh database, migrated unless it is to be empty."""
        while _ended:
            await self._administer(f'drop database if exists "{_ended.pop()}" with (force)')
        name = f"test_{next(_numbers)}"
        _databases.append(name)
        origin = "template0" if empty else self.template
        await self._administer(f'create database "{name}" template "{origin}" strategy file_copy')
        return self.url_of(name)

    async def _administer(self, statement: str) -> None:
        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


@contextlib.contextmanager
def databases_of_a_test() -> Iterator[None]:
    """The databases made within the block may go at its end; they do when the next one is made."""
    kept = len(_databases)
    yield
    _ended.extend(_databases[kept:])
    del _databases[kept:]


class _QuietServer(stopping.GracefulServer):
    """Leaves the signals to pytest."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass(frozen=True)
class Running:
    """A service that answers at an address; its database has the URL of the owner, which is not its login."""

    address: str
    database_url: str
    service: Service
    watchdog: Watchdog

    async def token(
        self, *, role: tokens.Role = "admin", account: str = "default", email: str = ADMIN_EMAIL
    ) -> str:
        async with owner_transaction(self.database_url) as connection:
            return await tokens.create(connection, account=account, email=email, role=role)

    def sql(self) -> contextlib.AbstractAsyncContextManager[Any]:
        """A connection of its own to the service's database, as the owner."""
        return owner_of(self.database_url)


@contextlib.asynccontextmanager
async def owner_of(database_url: str) -> AsyncIterator[Any]:
    """A connection to a database, as its owner."""
    connection = await asyncpg.connect(database_url)
    try:
        yield connection
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def running(database_url: str, **settings: Any) -> AsyncIterator[Running]:
    """A real server on a port of its own, in this process."""
    service_url = database_url.replace(f"//{OWNER}@", f"//{SERVICE_ROLE}@")
    chosen = Settings(database_url=SecretStr(service_url), **settings)
    await migrations.bootstrap(database_url, chosen)
    # the protocol is named so that asyncio turns Nagle's algorithm off, as it does for sockets of its own
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    listening.listen(128)
    asgi = app.create(chosen)
    options = server.options(shutdown_timeout_seconds=chosen.shutdown_timeout_seconds) | {"loop": "none"}
    http_server = _QuietServer(stopping.StoppingConfig(asgi, delay_seconds=0, lifespan="on", **options))
    task = asyncio.create_task(http_server.serve(sockets=[listening]))
    while not http_server.started:
        if task.done():
            task.result()
        await asyncio.sleep(0.01)
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        yield Running(address, database_url, asgi.state.service, asgi.state.watchdog)
    finally:
        http_server.should_exit = True
        await task


class UpsertMethod(NamedTuple):
    """How an upsert is sent."""

    method: str
    query: Mapping[str, str] = MappingProxyType({})

    def __str__(self) -> str:
        return " ".join((self.method, *self.query.values()))


PATCH, PUT, PUT_MERGE = UpsertMethod("PATCH"), UpsertMethod("PUT"), UpsertMethod("PUT", {"strategy": "merge"})


class Api:
    """A caller of the service: a thin hand for the requests that the tests repeat."""

    way = PATCH

    def __init__(self, running: Running, token: str) -> None:
        self.running = running
        self.token = token
        self.client = httpx.AsyncClient(
            base_url=f"{running.address}/api/v2",
            headers={"Authorization": f"Bearer {token}"},
            timeout=30,
            trust_env=False,
        )

    async def new_object(
        self, *fields: FieldBody, naming: Mapping[str, Any] | None = None, key: str | None = None
    ) -> str:
        """Makes an object with these fields and naming settings; answers its key."""
        key = key or f"object_{next(_numbers)}"
        body = {"custom_object": {"key": key, "title": key, "title_pluralized": f"{key}s"}}
        assert (await self.client.post("/custom_objects", json=body)).status_code == 201
        for field in fields:
            await self.new_field(key, **field)
        if naming:
            await self.name(key, **naming)
        return key

    async def new_field(self, object_key: str, **field: Any) -> dict[str, Any]:
        body = {"custom_object_field": {"title": field["key"], **field}}
        response = await self.client.post(f"/custom_objects/{object_key}/fields", json=body)
        assert response.status_code == 201, response.text
        made: dict[str, Any] = response.json()["custom_object_field"]
        return made

    async def name(self, object_key: str, **properties: Any) -> None:
        """Sets naming settings: is_unique, autoincrement_enabled, …"""
        body = {"custom_object_field": {"properties": properties}}
        response = await self.client.patch(f"/custom_objects/{object_key}/fields/standard::name", json=body)
        assert response.status_code == 200, response.text

    async def upsert(
        self,
        object_key: str,
        record: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        **query: Any,
    ) -> httpx.Response:
        """PATCH …/records?{query}, or another way to upsert, with the record wrapped."""
        return await self.client.request(
            self.way.method,
            f"/custom_objects/{object_key}/records",
            params={**query, **self.way.query},
            json={"custom_object_record": record or {}},
            headers=headers,
        )

    async def create(self, object_key: str, **record: Any) -> httpx.Response:
        return await self.client.post(
            f"/custom_objects/{object_key}/records", json={"custom_object_record": record}
        )

    async def job(self, object_key: str, action: str, items: Sequence[Any]) -> httpx.Response:
        return await self.client.post(
            f"/custom_objects/{object_key}/jobs", json={"job": {"action": action, "items": items}}
        )

    async def finished_job(self, object_key: str, action: str, items: Sequence[Any]) -> dict[str, Any]:
        """The status of a job after its end."""
        response = await self.job(object_key, action, items)
        assert response.status_code == 201, response.text
        return await self.finished(response.json()["job_status"]["id"])

    async def finished(self, job_id: str, seconds: float = 30) -> dict[str, Any]:
        """The status of a job as soon as it has ended."""
        async with asyncio.timeout(seconds):
            while True:
                response = await self.client.get(f"/job_statuses/{job_id}")
                assert response.status_code == 200, response.text
                status: dict[str, Any] = response.json()["job_status"]
                if status["status"] in ("completed", "failed"):
                    return status
                await asyncio.sleep(0.02)

    async def records(self, object_key: str, **query: Any) -> list[dict[str, Any]]:
        """All records of an object, page after page."""
        url: str | None = f"/custom_objects/{object_key}/records"
        found: list[dict[str, Any]] = []
        while url:
            page = (await self.client.get(url, params=query or None)).json()
            found += page["custom_object_records"]
            url, query = page["links"]["next"], {}
        return found


def record_of(response: httpx.Response) -> dict[str, Any]:
    """The record in a successful answer."""
    assert response.is_success, response.text
    record: dict[str, Any] = response.json()["custom_object_record"]
    return record


def problems_of(response: httpx.Response, status: int = 422) -> dict[str, list[str]]:
    """The descriptions of an error's details, by field."""
    assert response.status_code == status, response.text
    details: Mapping[str, Sequence[Mapping[str, str]]] = response.json().get("details", {})
    return {key: [problem["description"] for problem in problems] for key, problems in details.items()}
