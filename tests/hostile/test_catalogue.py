"""The catalogue of bad requests: each is refused in words, changes nothing, and takes no connection."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.hostile.catalogue import BAD_JSON, BAD_MEDIA, BAD_TEXT, CATALOGUE, Bad
from tests.hostile.targets import Target, aimed
from tests.hostile.wire import Wire
from tests.support.harness import Api, Cluster, record_of, running

ACQUIRE_SECONDS = 2.0  # which whoever wants a connection waits for it, and who is answered sooner did not
_names = itertools.count()


def cases(catalogue: list[Bad]) -> list[object]:
    return [pytest.param(bad, id=bad.name) for bad in catalogue]


async def send(target: Target, method: str, path: str, bad: Bad, query: str = "") -> httpx.Response:
    return await target.api.client.request(
        method,
        f"{path}?{query}",
        content=bad.content,
        headers={"Content-Type": "application/json", **bad.headers},
    )


def require_refusal(response: httpx.Response, bad: Bad, said: str | None = None) -> None:
    assert response.status_code == bad.status, response.text[:500]
    answer = response.json()
    assert answer["description"]
    assert all(answer.get("details", {"base": [1]}).values())
    assert (said or bad.said) in response.text
    for leaked in ("asyncpg", "pydantic", "Traceback", "invalid byte sequence", "orjson"):
        assert leaked not in response.text


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
@pytest.mark.parametrize("bad", cases(CATALOGUE))
async def test_an_upsert_is_refused_and_nothing_is_written(target: Target, bad: Bad, method: str) -> None:
    before = await target.state()
    require_refusal(await send(target, method, target.records, bad, bad.query), bad)
    assert await target.state() == before


@pytest.mark.parametrize("bad", cases(BAD_JSON + BAD_MEDIA + BAD_TEXT))
async def test_every_other_body_is_refused_alike(target: Target, bad: Bad) -> None:
    before = await target.state()
    objects = (await target.api.client.get("/custom_objects")).json()
    fields = (await target.api.client.get(f"/custom_objects/{target.key}/fields")).json()
    for method, path, wrapper in (
        ("POST", target.records, "custom_object_record"),
        ("PATCH", f"{target.records}/{target.record_id}", "custom_object_record"),
        ("PUT", f"{target.records}/{target.record_id}", "custom_object_record"),
        ("POST", "/custom_objects", "custom_object"),
        ("PATCH", f"/custom_objects/{target.key}", "custom_object"),
        ("POST", f"/custom_objects/{target.key}/fields", "custom_object_field"),
        ("PATCH", f"/custom_objects/{target.key}/fields/text", "custom_object_field"),
        ("PUT", f"/custom_objects/{target.key}/fields/reorder", "custom_object_field_ids"),
    ):
        if path.endswith("/reorder") and not bad.content:
            continue  # some clients send no body there
        response = await send(target, method, path, bad)
        said = wrapper if bad.said == "custom_object_record" else None
        require_refusal(response, bad, said)
    assert await target.state() == before
    assert (await target.api.client.get("/custom_objects")).json() == objects
    assert (await target.api.client.get(f"/custom_objects/{target.key}/fields")).json() == fields


@pytest.fixture(scope="module")
async def held(cluster: Cluster) -> AsyncIterator[Target]:
    """A service whose two connections for records both wait on a row that somebody else has locked."""
    settings = {
        "pool_size": 2,
        "acquire_timeout_seconds": ACQUIRE_SECONDS,
        "lock_timeout_seconds": 120,
        "statement_timeout_seconds": 120,
        "body_timeout_seconds": 0.3,
    }
    async with running(await cluster.new_database(), **settings) as service:
        api = Api(service, await service.token())
        async with api.client, service.sql() as peer:
            target = await aimed(api)
            record_of(await api.upsert(target.key, {"name": "Held as well"}, external_id="v0"))
            locking = peer.transaction()
            await locking.start()
            await peer.execute("select 1 from records for update")
            waiting = [
                asyncio.create_task(api.upsert(target.key, {"name": f"Held {n}"}, external_id=f"v{n}"))
                for n in range(2)
            ]
            async with asyncio.timeout(10):
                while await peer.fetchval(_WAITING_IN_THE_POOL) < 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            yield target
            assert not any(task.done() for task in waiting)
            await locking.rollback()
            for task in waiting:
                record_of(await task)
            assert record_of(await api.upsert(target.key, {"name": "Served"}, external_id="v1"))


# the batch connections have given up by then
_WAITING_IN_THE_POOL = """
select count(distinct pid) from pg_locks
 where not granted and clock_timestamp() - waitstart > interval '0.3 s'"""


async def test_a_good_request_finds_no_connection(held: Target) -> None:
    response = await held.api.client.get(f"{held.records}/{held.record_id}")
    assert (response.status_code, response.json()["error"]) == (503, "ServiceUnavailable")
    assert int(response.headers["Retry-After"]) >= 1


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
@pytest.mark.parametrize("bad", cases(CATALOGUE))
async def test_a_bad_request_is_refused_at_once_without_a_connection(
    held: Target, bad: Bad, method: str
) -> None:
    started = time.monotonic()
    require_refusal(await send(held, method, held.records, bad, bad.query), bad)
    assert time.monotonic() - started < ACQUIRE_SECONDS


async def test_other_refusals_take_no_connection_either(held: Target) -> None:
    client = held.api.client
    for method, path, status in (
        ("PATCH", "/custom_objects/missing/records?external_id=v1", 404),
        ("PATCH", "/custom_objects/%00/records?external_id=v1", 404),
        ("GET", f"{held.records}/not-an-id", 404),
        ("GET", f"{held.records}?page[size]=0", 400),
        ("GET", f"{held.records}?page[after]=x", 400),
        ("GET", f"{held.records}?sort=x", 400),
        ("GET", f"{held.records}?filter[ids]={'x,' * 101}", 400),
        ("DELETE", held.records, 400),
        ("PUT", "/custom_objects", 405),
        ("GET", "/nowhere", 404),
    ):
        started = time.monotonic()
        body: Any = {"custom_object_record": {}} if method == "PATCH" else None
        response = await client.request(method, path, json=body)
        assert response.status_code == status, path
        assert time.monotonic() - started < ACQUIRE_SECONDS
    unauthenticated = await client.get(held.records, headers={"Authorization": "Bearer wrong"})
    assert unauthenticated.status_code == 401


async def test_a_body_that_does_not_come_holds_no_connection(held: Target) -> None:
    wire = Wire(held.api.running, held.api.token)
    head = wire.head("PATCH", f"/api/v2{held.records}?external_id=v1", "Content-Length: 100")
    status, answered = await wire.exchange(head + b'{"custom_object_record": ')
    assert status == 408
    assert b'"error":"RequestTimeout"' in answered


async def test_the_service_serves_afterwards(target: Target) -> None:
    name = f"Afterwards {next(_names)}"
    assert record_of(await target.api.upsert(target.key, {"name": name}, external_id="v1"))["name"] == name
    assert (await target.api.client.get(f"{target.api.running.address}/readyz")).status_code == 200
