"""The process around the service: health, shutdown, the last word on errors."""

import asyncio
import json
import logging
import re
from typing import Any

import asyncpg
import httpx
import pytest

from tests.support import processes
from tests.support.harness import Api, Cluster, running
from upsert_svc.records.record_store import Records

_BLOCKED = """
    select count(*) from pg_stat_activity
     where datname = current_database() and cardinality(pg_blocking_pids(pid)) > 0"""


async def test_health_needs_no_credential(api: Api) -> None:
    async with httpx.AsyncClient(base_url=api.running.address, trust_env=False) as client:
        for path in ("/healthz", "/readyz"):
            assert (await client.get(path)).json() == {"status": "ok"}


async def test_without_a_database_the_service_lives_answers_503_and_recovers(cluster: Cluster) -> None:
    url = await cluster.new_database()
    name = re.findall(r"/(\w+)\?", url)[0]
    async with running(url, acquire_timeout_seconds=0.5) as service:
        api = Api(service, await service.token())
        key = await api.new_object()
        administrator = await asyncpg.connect(cluster.url)
        try:
            await administrator.execute(f'alter database "{name}" with allow_connections false')
            await administrator.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1", name
            )
            async with httpx.AsyncClient(base_url=service.address, trust_env=False) as client:
                assert (await client.get("/healthz")).status_code == 200
                unready = await client.get("/readyz")
            refused = await api.upsert(key, {"name": "x"}, external_id="v1")
            for response in (unready, refused):
                assert response.status_code == 503
                assert response.json()["error"] == "ServiceUnavailable"
                assert int(response.headers["Retry-After"]) > 0
        finally:
            await administrator.execute(f'alter database "{name}" with allow_connections true')
            await administrator.close()
        assert (await api.upsert(key, {"name": "x"}, external_id="v1")).status_code == 200
        await api.client.aclose()


async def test_a_bug_is_a_500_that_tells_nothing_and_a_log_that_tells_all(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("a secret of the inside")

    key = await api.new_object()
    monkeypatch.setattr(Records, "count", broken)
    response = await api.client.get(f"/custom_objects/{key}/records/count")
    assert response.status_code == 500
    assert response.json()["error"] == "InternalServerError"
    assert "secret" not in response.text
    assert response.headers["X-Request-Id"] in caplog.text
    assert "a secret of the inside" in caplog.text


async def test_a_log_line_has_the_route_and_none_of_the_callers_data(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "upsert_svc.requests")
    async with running(await cluster.new_database(), log_requests=True) as service:
        api = Api(service, await service.token())
        async with api.client:
            key = await api.new_object()
            await api.upsert(key, {"name": "canary-name"}, external_id="canary-id")
    line = json.loads(caplog.records[-1].message)
    assert line["route"] == "/api/v2/custom_objects/{key}/records"
    assert (line["method"], line["status"]) == ("PATCH", 200)
    for canary in ("canary", api.token):
        assert canary not in caplog.text


@pytest.mark.parametrize(
    ("method", "path", "is_known"),
    [
        ("GET", "/custom_objects", True),
        ("HEAD", "/custom_objects", True),
        ("GET", "/custom_objects/no_such_object", True),
        ("POST", "/custom_objects", True),  # an agent may not
        ("GET", "/no_such_path", False),
        ("PURGE", "/custom_objects", False),
    ],
)
async def test_the_log_line_names_the_account_of_a_known_caller(
    cluster: Cluster, caplog: pytest.LogCaptureFixture, method: str, path: str, is_known: bool
) -> None:
    caplog.set_level(logging.INFO, logger="upsert_svc.requests")
    async with running(await cluster.new_database(), log_requests=True) as service:
        api = Api(service, await service.token(role="agent"))
        async with api.client:
            await api.client.request(method, path)
    line = json.loads(caplog.records[-1].message)
    assert (line["method"], line["account_id"]) == (method, 1 if is_known else None)


async def test_requests_under_way_are_answered_before_the_service_stops(cluster: Cluster) -> None:
    url = await cluster.new_database()
    peer = await asyncpg.connect(url)
    async with running(url) as service:
        api = Api(service, await service.token())
        key = await api.new_object()
        await api.upsert(key, {"name": "x"}, external_id="v1")
        transaction = peer.transaction()
        await transaction.start()
        await peer.execute("select from records for update")
        waiting = asyncio.create_task(api.upsert(key, {"name": "y"}, external_id="v1"))
        await asyncio.sleep(0.3)
        ending = asyncio.create_task(_end_later(transaction))
    assert ending.done()
    assert (await waiting).status_code == 200
    await api.client.aclose()
    await peer.close()


async def _end_later(transaction: Any) -> None:
    await asyncio.sleep(0.5)
    await transaction.rollback()


async def test_who_still_waits_when_the_time_to_stop_is_over_is_told_503(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    url = await cluster.new_database()
    peer = await asyncpg.connect(url)
    async with running(url, shutdown_timeout_seconds=1) as service:
        api = Api(service, await service.token())
        key = await api.new_object()
        record_id = (await api.upsert(key, {"name": "x"}, external_id="v1")).json()["custom_object_record"][
            "id"
        ]
        transaction = peer.transaction()
        await transaction.start()
        await peer.execute("select from records for update")
        path = f"/custom_objects/{key}/records/{record_id}"
        waiting = [
            asyncio.create_task(api.upsert(key, {"name": "y"}, external_id="v1")),
            asyncio.create_task(api.client.delete(path)),
        ]
        async with service.sql() as observer:  # within a transaction one sees the same for ever
            while await observer.fetchval(_BLOCKED) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    responses = [await each for each in waiting]
    assert [response.status_code for response in responses] == [503, 503]
    assert [response.headers["Retry-After"] for response in responses] == ["1", "1"]
    assert {record.name for record in caplog.records} == {"upsert_svc.api.unavailable"}, caplog.text
    await transaction.rollback()
    await api.client.aclose()
    await peer.close()


async def test_a_service_that_is_to_stop_says_that_it_is_not_ready_and_ends_each_connection_with_an_answer(
    cluster: Cluster,
) -> None:
    url = await cluster.new_database()
    settings = {"DATABASE_URL": url, "SHUTDOWN_DELAY_SECONDS": "2"}
    async with processes.serving(**settings) as (client, process):
        assert (await client.get("/healthz")).status_code == 200
        process.terminate()
        while (ready := await client.get("/readyz")).status_code == 200:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert ready.status_code == 503
        assert ready.headers["Retry-After"] == "1"
        alive = await client.get("/healthz")
        assert (alive.status_code, alive.headers["Connection"]) == (200, "close")
        assert await process.wait() == 0
