import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.harness import Api, Cluster, Running, running
from upsert_svc.db import embedded

MEMORY = Path("/dev/shm")  # where Linux keeps files in memory
NEEDED_BYTES = 8 << 30  # twice what the databases of all tests take


def _is_memory_plenty() -> bool:
    """Whether the databases of the tests, hundreds of them, fit into memory, where they are made quickly."""
    if not os.access(MEMORY, os.W_OK):
        return False
    return min(shutil.disk_usage(MEMORY).free, psutil.virtual_memory().available) > NEEDED_BYTES


@pytest.fixture(scope="session")
def _server_url() -> Iterator[str]:
    where = MEMORY if _is_memory_plenty() else None
    with (
        tempfile.TemporaryDirectory(prefix="upsert-svc-tests-", dir=where) as folder,
        embedded.start(Path(folder) / "data", durable=False) as server,
    ):
        yield server.url


@pytest.fixture(scope="session")
async def cluster(_server_url: str) -> Cluster:
    cluster = Cluster(_server_url)
    await cluster.make_template()
    return cluster


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
