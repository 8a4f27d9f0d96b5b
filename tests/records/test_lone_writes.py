"""Writes that take long: which they are, and that they wait for nobody else and nobody else for them."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from tests.support.batches import batching_service, busy_connection
from tests.support.harness import Api, Cluster, record_of
from upsert_svc.records import lone_writes
from upsert_svc.records.lone_writes import LoneWrites, cost
from upsert_svc.records.values import WriteRow

DOCUMENT: dict[str, Any] = {f"k{number}": {"a": number} for number in range(400)}


def write_of(patch: str, object_id: int = 1) -> WriteRow:
    return WriteRow(object_id, 1, "e", "", None, None, patch, 1)


def large(value: object) -> dict[str, object]:
    return {"name": "Large", "custom_object_fields": {"doc": value}}


@pytest.fixture
async def api(cluster: Cluster) -> AsyncIterator[Api]:
    async with batching_service(cluster, write_wait_seconds=0.5) as api:
        yield api


@pytest.fixture
async def key(api: Api) -> str:
    return await api.new_object({"key": "doc", "type": "json", "title": "Doc"})


def test_a_patch_costs_its_length_and_more_for_many_keys_and_objects() -> None:
    values: list[Any] = ["x" * 32_000, dict.fromkeys(map(str, range(2000)), 1), [{"a": {}}] * 500]
    long, wide, deep = (orjson.dumps({"field": value}).decode() for value in values)
    assert cost('{"a":{"b":1}}') == 13
    assert len(long) == cost(long) < lone_writes.LONE_COST
    assert cost(wide) > lone_writes.LONE_COST
    assert cost(deep) > lone_writes.LONE_COST


def test_large_writes_of_an_object_whose_last_ones_took_long_take_long_and_others_do_not() -> None:
    writes, long = LoneWrites(waiting_limit=10), "x " * 2000
    for _ in range(9):
        writes.note(write_of(long), 2 * lone_writes.SLOW_SECONDS)
    writes.note(write_of("{}", 2), 1)
    assert writes.takes_long(write_of(long))
    assert not writes.takes_long(write_of("{}"))
    assert not writes.takes_long(write_of(long, 2))
    assert not writes.takes_long(write_of("x" * 4000))
    for _ in range(9):
        writes.note(write_of(long), 0)
    assert not writes.takes_long(write_of(long))


def test_one_write_that_was_held_up_says_nothing_of_the_next() -> None:
    writes = LoneWrites(waiting_limit=10)
    writes.note(write_of("x " * 2000), 2 * lone_writes.SLOW_SECONDS)
    assert not writes.takes_long(write_of("x " * 2000))


async def test_what_takes_long_waits_for_no_batch_and_no_batch_waits_for_it(api: Api, key: str) -> None:
    async with busy_connection(api):
        assert (await api.upsert(key, large(DOCUMENT), external_id="large")).status_code == 200
        again = await api.upsert(key, large(DOCUMENT | {"k0": None}), external_id="large")
    left = {name: value for name, value in DOCUMENT.items() if name != "k0"}
    assert record_of(again)["custom_object_fields"]["doc"] == left


@pytest.mark.parametrize(
    ("query", "headers"),
    [({}, {}), ({"dry_run": "true"}, {}), ({}, {"Idempotency-Key": "one"})],
    ids=["written", "tried out", "once"],
)
async def test_of_what_takes_long_an_account_has_one_at_a_time(
    api: Api, key: str, query: dict[str, str], headers: dict[str, str]
) -> None:
    turns = api.running.service.write_batcher.lone_writes._turns
    await turns.take(1)
    late = await api.upsert(key, large(DOCUMENT), headers, external_id="late", **query)
    assert (late.status_code, late.headers["Retry-After"]) == (503, "1")
    small = await api.upsert(key, large({}), headers, external_id="late", **query)
    assert small.headers["Upsert-Result"] == "created"
    turns.give_back(1)
    after = await api.upsert(key, large(DOCUMENT), external_id="late")
    assert after.headers["Upsert-Result"] == ("created" if query else "updated")


async def test_who_waits_for_a_turn_when_the_service_stops_is_told_and_not_written(
    api: Api, key: str
) -> None:
    batcher = api.running.service.write_batcher
    await batcher.lone_writes._turns.take(1)
    waiting = asyncio.create_task(api.upsert(key, large(DOCUMENT), external_id="late"))
    while not batcher.lone_writes._turns._waiting:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    await batcher.stop()
    batcher.lone_writes._turns.give_back(1)
    assert (await waiting).status_code == 503
    count = (await api.client.get(f"/custom_objects/{key}/records/count")).json()["count"]["value"]
    assert count == 0
