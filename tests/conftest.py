import logging
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from tests.support import harness
from tests.support.harness import Api, Cluster, Running, running
from upsert_svc.db import embedded

_MEMORY = Path("/dev/shm")
_ENOUGH_MEMORY = 8 << 30


def _data_folder() -> Path | None:
    """Memory, where there is enough of it: a new database is many small files. Else the usual place."""
    if not os.access(_MEMORY, os.W_OK):
        return None
    room = min(shutil.disk_usage(_MEMORY).free, psutil.virtual_memory().available)
    return _MEMORY if room > _ENOUGH_MEMORY else None


@pytest.fixture(scope="session")
def _server_url() -> Iterator[str]:
    with (
        tempfile.TemporaryDirectory(prefix="upsert-svc-tests-", dir=_data_folder()) as folder,
        embedded.start(Path(folder) / "data", durable=False) as server,
    ):
        yield server.url


@pytest.fixture(scope="session", autouse=True)
def _quiet_watchdog() -> None:
    """A service in the process of the tests sees its loop held by whatever tests do between."""
    logging.getLogger("upsert_svc.watchdog").setLevel(logging.CRITICAL)


@pytest.fixture(scope="session")
async def cluster(_server_url: str) -> Cluster:
    cluster = Cluster(_server_url)
    await cluster.make_template()
    return cluster


@pytest.fixture(scope="session")
def _elsewhere() -> Iterator[embedded.Server]:
    with (
        tempfile.TemporaryDirectory(prefix="upsert-svc-tests-", dir=_data_folder()) as folder,
        embedded.start(Path(folder) / "data", durable=False) as server,
    ):
        (server.data_dir / "cluster/data/pg_hba.conf").write_text("local all all scram-sha-256\n")
        yield server


@pytest.fixture(scope="session")
async def elsewhere(_elsewhere: embedded.Server) -> str:
    """The owner's URL of another server, which lets all roles in that know their password, as most do."""
    connection = await asyncpg.connect(_elsewhere.url)
    await connection.execute(f"alter role {embedded.OWNER} password 'of-the-owner'")
    await connection.execute("select pg_reload_conf()")
    await connection.close()
    return _elsewhere.url.replace(f"//{embedded.OWNER}@", f"//{embedded.OWNER}:of-the-owner@")


@pytest.fixture
def elsewhere_log(_elsewhere: embedded.Server) -> Path:
    return _elsewhere.log_file


@pytest.fixture(autouse=True)
def _databases_end_with_their_test() -> Iterator[None]:
    """What a test or a fixture of its own made is dropped; wider fixtures made theirs before this one."""
    with harness.databases_of_a_test():
        yield


@pytest.fixture(scope="session")
async def service(cluster: Cluster) -> AsyncIterator[Running]:
    """One service for the whole session; a test that needs other settings runs its own."""
    async with running(await cluster.new_database(), shutdown_timeout_seconds=1) as service:
        yield service


@pytest.fixture(scope="session")
async def api(service: Running) -> AsyncIterator[Api]:
    """An admin of the default account."""
    api = Api(service, await service.token())
    async with api.client:
        yield api


@pytest.fixture(scope="session")
async def agent(service: Running) -> AsyncIterator[Api]:
    """An agent of the default account."""
    agent = Api(service, await service.token(role="agent", email="agent@example.com"))
    async with agent.client:
        yield agent


@pytest.fixture(scope="session")
async def stranger(service: Running) -> AsyncIterator[Api]:
    """An admin of another account."""
    stranger = Api(service, await service.token(account="other", email="stranger@example.com"))
    async with stranger.client:
        yield stranger
