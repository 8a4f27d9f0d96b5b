"""`make races`: many writers on few keys, then everything that was acknowledged is looked for."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from tests.races import scenarios
from tests.support.crashes import survive_crashes
from tests.support.harness import PUT, PUT_MERGE, Api, Cluster, record_of

pytestmark = pytest.mark.storm

WRITERS = 16
KEYS = [f"key-{n}" for n in range(50)]
SECONDS = 10
SEED = 20260203
FIELDS = [{"key": f"writer_{n}", "type": "integer"} for n in range(WRITERS)]


async def _write(api: Api, key: str, writer: int, identified_by: str) -> tuple[dict[str, int], Counter[str]]:
    """Upserts random keys, raising the writer's own field each time; answers the last values taken."""
    chance = random.Random(SEED + writer)
    taken: dict[str, int] = {}
    outcomes: Counter[str] = Counter()
    until = time.monotonic() + SECONDS
    value = 0
    while time.monotonic() < until:
        value += 1
        identifier = chance.choice(KEYS)
        query: dict[str, Any] = {identified_by: identifier}
        record: dict[str, Any] = {"custom_object_fields": {f"writer_{writer}": value}}
        response = await api.upsert(key, record, **query)
        outcomes[response.headers.get("Upsert-Result", str(response.status_code))] += 1
        if response.status_code == 200:
            taken[identifier] = value
    return taken, outcomes


async def _storm(api: Api, key: str, identified_by: str) -> tuple[list[dict[str, int]], Counter[str]]:
    results = await asyncio.gather(*(_write(api, key, writer, identified_by) for writer in range(WRITERS)))
    outcomes = sum((outcome for _, outcome in results), Counter[str]())
    print(f"\nseed {SEED}, {WRITERS} writers, {len(KEYS)} keys, {SECONDS} s: {dict(outcomes)}")
    return [taken for taken, _ in results], outcomes


def _lost(records: Mapping[str, dict[str, Any]], taken: list[dict[str, int]]) -> list[str]:
    return [
        f"{identifier} of writer {writer}: {value}"
        for writer, values in enumerate(taken)
        for identifier, value in values.items()
        if records[identifier]["custom_object_fields"][f"writer_{writer}"] != value
    ]


async def test_a_storm_on_autonumbered_records_loses_nothing_and_burns_no_number(api: Api) -> None:
    key = await api.new_object(*FIELDS, naming={"autoincrement_enabled": True})
    taken, outcomes = await _storm(api, key, "external_id")
    assert set(outcomes) <= {"created", "updated", "unchanged"}
    found = await api.records(key)
    records = {record["external_id"]: record for record in found}
    assert sorted(records) == sorted({identifier for values in taken for identifier in values})
    assert len(records) == len(found) == outcomes["created"]
    assert _lost(records, taken) == []
    assert sorted(int(record["name"]) for record in found) == list(range(1, len(found) + 1))
    by_number = sorted(found, key=lambda record: int(record["name"]))
    assert [record["created_at"] for record in by_number] == sorted(record["created_at"] for record in found)


async def test_a_storm_on_unique_names_loses_nothing(api: Api) -> None:
    key = await api.new_object(*FIELDS, naming={"is_unique": True})
    taken, outcomes = await _storm(api, key, "name")
    assert set(outcomes) <= {"created", "updated", "unchanged"}
    found = await api.records(key)
    records = {record["name"]: record for record in found}
    assert len(records) == len(found) == outcomes["created"]
    assert _lost(records, taken) == []


async def test_a_storm_of_upserts_and_deletions_leaves_at_most_one_record_a_key(api: Api) -> None:
    key = await api.new_object(*FIELDS, naming={"is_unique": True})
    statuses: Counter[int] = Counter()

    async def write(writer: int) -> None:
        chance = random.Random(SEED + writer)
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            identifier = chance.choice(KEYS[:5])
            if chance.random() < 0.3:
                url = f"/custom_objects/{key}/records?external_id={identifier}"
                response = await api.client.delete(url)
            else:
                response = await api.upsert(key, {"name": chance.choice(KEYS[:8])}, external_id=identifier)
            statuses[response.status_code] += 1

    await asyncio.gather(*(write(writer) for writer in range(WRITERS)))
    print(f"\nseed {SEED}: {dict(statuses)}")
    assert set(statuses) <= {200, 204, 404, 422}
    found = await api.records(key)
    for identifier in ("external_id", "name"):
        assert max(Counter(record[identifier] for record in found).values(), default=1) == 1


async def test_random_renames_and_upserts_agree_on_one_record_a_name(api: Api) -> None:
    key = await api.new_object(naming={"is_unique": True})
    ids = [record_of(await api.upsert(key, {}, name=name))["id"] for name in KEYS[:10]]
    statuses: Counter[int] = Counter()

    async def write(writer: int) -> None:
        chance = random.Random(SEED + writer)
        for _ in range(150):
            body = {"custom_object_record": {"name": chance.choice(KEYS[:20])}}
            url = f"/custom_objects/{key}/records/{chance.choice(ids)}"
            statuses[(await api.client.patch(url, json=body)).status_code] += 1

    await asyncio.gather(*(write(writer) for writer in range(WRITERS)))
    print(f"\nseed {SEED}: {dict(statuses)}")
    assert set(statuses) <= {200, 422}
    names = [record["name"] for record in await api.records(key)]
    assert len(names) == len(set(names)) == len(ids)


@pytest.mark.parametrize("way", [Api.way, PUT], ids=str)
async def test_a_storm_of_writers_with_tags_has_one_winner_in_each_of_200_rounds(
    api: Api, way: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Api, "way", way)
    rounds = await scenarios.writers_with_one_tag(api, 200)
    assert rounds == [scenarios.Round([200] + [412] * 15, is_winners=True)] * 200


@pytest.mark.parametrize("way", [Api.way, PUT_MERGE], ids=str)
async def test_a_storm_of_patches_loses_no_key_of_a_document(
    api: Api, way: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Api, "way", way)
    document, expected = await scenarios.writers_of_one_document(api, 60)
    assert document == expected


@pytest.mark.parametrize("identified_by", ["external_id", "name"])
async def test_a_storm_of_jobs_and_upserts_of_the_same_records_loses_nothing(
    api: Api, identified_by: str
) -> None:
    naming = {"autoincrement_enabled": True} if identified_by == "external_id" else {"is_unique": True}
    key = await api.new_object(*FIELDS, naming=naming)
    writers, rounds = 6, 15

    async def write(writer: int) -> None:
        chance = random.Random(SEED + writer)
        for value in range(1, rounds + 1):
            fields = {"custom_object_fields": {f"writer_{writer}": value}}
            keys = chance.sample(KEYS, len(KEYS))
            if writer % 2:
                queries: list[dict[str, Any]] = [{identified_by: name} for name in keys]
                responses = [await api.upsert(key, fields, **query) for query in queries]
                assert {response.status_code for response in responses} == {200}
            else:
                items = [{identified_by: name, **fields} for name in keys]
                job = await api.finished_job(key, f"create_or_update_by_{identified_by}", items)
                assert [result["success"] for result in job["results"]] == [True] * len(keys), job

    await asyncio.gather(*(write(writer) for writer in range(writers)))
    found = await api.records(key)
    records = {record[identified_by]: record for record in found}
    assert len(records) == len(found) == len(KEYS)
    taken = [dict.fromkeys(KEYS, rounds) for _ in range(writers)]
    assert _lost(records, taken) == []
    if identified_by == "external_id":
        assert sorted(int(record["name"]) for record in found) == list(range(1, len(KEYS) + 1))


@pytest.mark.parametrize("victim", ["serve", "work"])
async def test_twenty_crashes_leave_every_item_of_every_job_with_one_effect(
    cluster: Cluster, victim: str
) -> None:
    await survive_crashes(await cluster.new_database(), victim, rounds=20, seed=SEED)
