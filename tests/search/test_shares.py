"""What reads all records of an object has few connections; what takes no time waits for none of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from tests.support.batches import account_id, answered, of_another_account
from tests.support.harness import Api, Cluster, record_of, running
from upsert_svc.search import planner
from upsert_svc.turns import CALLER

RECORDS = "/custom_objects/{key}/records"
READS_ALL: list[tuple[str, str, Any]] = [
    ("POST", f"{RECORDS}/search", {"filter": {"external_id": {"$noteq": "x"}}}),
    ("POST", f"{RECORDS}/search", {"filter": {"$or": [{"name": {"$contains": "one"}}]}}),
    ("GET", f"{RECORDS}?sort=updated_at", None),
    ("GET", f"{RECORDS}/count", None),
    ("GET", "/custom_objects/limits/record_limit", None),
]
BY_WORDS: list[tuple[str, str, Any]] = [
    ("GET", f"{RECORDS}/search?query=one", None),
    ("GET", f"{RECORDS}/autocomplete?name=one", None),
]
EXPORTS: list[tuple[str, str, Any]] = [
    ("GET", "/api/v2/incremental/custom_objects/{key}/cursor?start_time=1", None),
    ("GET", f"{RECORDS}/{{id}}/events", None),
]
CHEAP: list[tuple[str, str, Any]] = [
    ("GET", RECORDS, None),
    ("GET", f"{RECORDS}?filter[external_ids]=x&sort=-updated_at", None),
    ("GET", f"{RECORDS}/search?query=*", None),
    ("GET", f"{RECORDS}/{{id}}", None),
    ("GET", "/custom_objects/{key}/fields", None),
    ("GET", "/job_statuses", None),
]


@pytest.fixture
async def small(cluster: Cluster) -> AsyncIterator[Api]:
    """A service in which a request waits for a connection for a moment only."""
    async with running(await cluster.new_database(), acquire_timeout_seconds=0.5) as service:
        api = Api(service, await service.token())
        async with api.client:
            yield api


async def asked(api: Api, requests: list[tuple[str, str, Any]]) -> set[int]:
    key = await api.new_object()
    record_id = record_of(await api.create(key, name="one"))["id"]
    return await asked_of(api, key, record_id, requests)


async def asked_of(api: Api, key: str, record_id: str, requests: list[tuple[str, str, Any]]) -> set[int]:
    """The statuses of requests for an object."""

    def request(method: str, path: str, body: Any) -> asyncio.Task[httpx.Response]:
        url = path.format(key=key, id=record_id)
        url = f"{api.running.address}{url}" if url.startswith("/api") else url
        return asyncio.create_task(api.client.request(method, url, json=body))

    return set(await answered([request(*each) for each in requests]))


@asynccontextmanager
async def holding(api: Api, share: str) -> AsyncIterator[None]:
    """All that the default account may have of a share is taken."""
    account = await account_id(api, "default")
    pools, ended, held = api.running.service.database, asyncio.Event(), asyncio.Semaphore(0)

    async def hold() -> None:
        CALLER.set(account)
        async with getattr(pools, share).connection():
            held.release()
            await ended.wait()

    most = getattr(pools, share)._turns._most
    holders = [asyncio.create_task(hold()) for _ in range(most)]
    for _ in holders:
        await asyncio.wait_for(held.acquire(), 5)
    yield
    ended.set()
    await asyncio.gather(*holders)


async def test_what_reads_all_records_waits_for_its_own_kind(small: Api) -> None:
    async with of_another_account(small) as other, holding(small, "scans"):
        assert await asked(small, READS_ALL + BY_WORDS) == {503}
        assert await asked(small, CHEAP + EXPORTS) == {200}
        assert await asked(other, READS_ALL[:1]) == {200}


async def test_exports_wait_for_their_own_kind(small: Api) -> None:
    async with of_another_account(small) as other, holding(small, "searches"):
        assert await asked(small, EXPORTS) == {503}
        assert await asked(small, CHEAP) == {200}
        assert await asked(other, EXPORTS) == {200}


async def test_searches_by_documents_wait_for_no_reads_of_all_records(
    small: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "DOCUMENTS_THRESHOLD", 1)
    key = await small.new_object()
    record_id = record_of(await small.create(key, name="one"))["id"]
    assert await asked_of(small, key, record_id, BY_WORDS) == {200}
    async with small.running.sql() as owner, asyncio.timeout(20):
        while await owner.fetchval("select search_state from objects where key = $1", key) != "ready":  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    async with holding(small, "scans"):
        assert await asked_of(small, key, record_id, BY_WORDS) == {200}
    async with holding(small, "searches"):
        assert await asked_of(small, key, record_id, BY_WORDS) == {503}
