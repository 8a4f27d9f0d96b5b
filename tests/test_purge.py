"""What definitions removed is gone from the records in the end, and was hidden before."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from tests.support.harness import Api, Cluster, running
from upsert_svc import purge
from upsert_svc.db.pools import Connections

OPTIONS = [{"name": value, "value": value} for value in ("red", "blue")]


async def _never(_pool: Connections) -> None:
    await asyncio.Event().wait()


@pytest.fixture(scope="module")
async def api(cluster: Cluster) -> AsyncIterator[Api]:
    """An admin of a service that purges only when a test does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(purge, "run", _never)
        async with running(await cluster.new_database()) as service:
            api = Api(service, await service.token())
            async with api.client:
                yield api


async def _purge(api: Api) -> int:
    steps = 0
    while await purge.step(api.running.service.database.main, 10):
        steps += 1
    return steps


async def _stored(api: Api, key: str) -> list[dict[str, Any]]:
    async with api.running.sql() as connection:
        rows = await connection.fetch(
            """select r.fields from records r join objects o using (account_id, object_id)
                where o.key = $1 order by r.name""",
            key,
        )
    return [orjson.loads(row["fields"]) for row in rows]


@pytest.fixture
async def key(api: Api) -> str:
    """An object of 25 records with a text and two option fields, purged ten records at a time."""
    await _purge(api)
    key = await api.new_object(
        {"key": "note", "type": "text"},
        {"key": "color", "type": "dropdown", "custom_field_options": OPTIONS},
        {"key": "colors", "type": "multiselect", "custom_field_options": OPTIONS},
    )
    fields = {"note": "x", "color": "red", "colors": ["red", "blue"]}
    for number in range(25):
        await api.create(key, name=f"{number:02d}", custom_object_fields=fields)
    return key


async def test_a_deleted_field_is_purged_from_every_record(api: Api, key: str) -> None:
    await api.client.delete(f"/custom_objects/{key}/fields/note")
    assert await _purge(api) >= 3
    assert await _stored(api, key) == [{"color": "red", "colors": ["red", "blue"]}] * 25
    assert await _purge(api) == 0


async def test_a_removed_option_is_purged_from_every_record(api: Api, key: str) -> None:
    for field in ("color", "colors"):
        url = f"/custom_objects/{key}/fields/{field}"
        body = {"custom_object_field": {"custom_field_options": OPTIONS[1:]}}
        assert (await api.client.patch(url, json=body)).status_code == 200
    await _purge(api)
    assert await _stored(api, key) == [{"note": "x", "colors": ["blue"]}] * 25


async def test_a_value_written_after_the_removal_survives_the_purge(api: Api, key: str) -> None:
    await api.client.delete(f"/custom_objects/{key}/fields/note")
    await api.new_field(key, key="note", type="text")
    (record, *_) = await api.records(key)
    assert record["custom_object_fields"]["note"] is None
    url = f"/custom_objects/{key}/records/{record['id']}"
    await api.client.patch(url, json={"custom_object_record": {"custom_object_fields": {"note": "new"}}})
    await _purge(api)
    assert [record["custom_object_fields"]["note"] for record in await api.records(key)] == ["new"] + [
        None
    ] * 24


async def test_a_removed_value_that_is_sent_again_is_written_again(api: Api, key: str) -> None:
    note, colors = f"/custom_objects/{key}/fields/note", f"/custom_objects/{key}/fields/colors"
    await api.client.delete(note)
    await api.new_field(key, key="note", type="text")
    for options in (OPTIONS[1:], OPTIONS):
        await api.client.patch(colors, json={"custom_object_field": {"custom_field_options": options}})
    (record, *_) = await api.records(key)
    url = f"/custom_objects/{key}/records/{record['id']}"
    same = {"note": "x", "colors": ["red", "blue"]}
    answer = await api.client.patch(url, json={"custom_object_record": {"custom_object_fields": same}})
    assert answer.headers["Upsert-Result"] == "updated"
    await _purge(api)
    (record, *_) = await api.records(key)
    assert record["custom_object_fields"] == {"color": "red", **same}


async def test_a_value_beside_a_removed_one_that_is_sent_again_changes_nothing(api: Api, key: str) -> None:
    await api.client.delete(f"/custom_objects/{key}/fields/note")
    (record, *_) = await api.records(key)
    url = f"/custom_objects/{key}/records/{record['id']}"
    same = {"color": "red"}
    answer = await api.client.patch(url, json={"custom_object_record": {"custom_object_fields": same}})
    assert answer.headers["Upsert-Result"] == "unchanged"
    assert (await api.records(key))[0] == record


async def test_the_options_removed_at_once_are_one_note(api: Api) -> None:
    many = [{"name": str(number), "value": str(number)} for number in range(50)]
    key = await api.new_object({"key": "size", "type": "dropdown", "custom_field_options": many})
    body = {"custom_object_field": {"custom_field_options": many[:1]}}
    await api.client.patch(f"/custom_objects/{key}/fields/size", json=body)
    async with api.running.sql() as connection:
        noted = await connection.fetchval("select removals from objects where key = $1", key)
    (note,) = orjson.loads(noted)
    assert len(note["options"]) == 49


async def test_a_purge_of_a_deleted_object_goes_on_where_it_stood(api: Api, key: str) -> None:
    ids = [record["id"] for record in await api.records(key)]
    await api.client.delete(f"/custom_objects/{key}")
    await purge.step(api.running.service.database.main, 10)
    async with api.running.sql() as connection:
        assert await connection.fetchval("select purged_to from objects where key = $1", key) == ids[9]


async def test_a_purge_leaves_the_time_of_the_last_change(api: Api, key: str) -> None:
    before = [record["updated_at"] for record in await api.records(key)]
    await api.client.delete(f"/custom_objects/{key}/fields/note")
    await _purge(api)
    assert [record["updated_at"] for record in await api.records(key)] == before


async def test_a_deleted_object_is_purged_with_its_records(api: Api, key: str) -> None:
    async with api.running.sql() as connection:
        object_id = await connection.fetchval("select object_id from objects where key = $1", key)
        await api.client.delete(f"/custom_objects/{key}")
        await _purge(api)
        for table in ("records", "objects", "fields", "counters", "lookup_values"):
            left = await connection.fetchval(f"select count(*) from {table} where object_id = $1", object_id)
            assert (table, left) == (table, 0)


async def test_a_purge_does_not_keep_writers_waiting(api: Api, key: str) -> None:
    await api.client.delete(f"/custom_objects/{key}/fields/note")
    async with api.running.sql() as connection, connection.transaction():
        assert await connection.fetchval(
            "select key from objects where removals is not null for no key update skip locked"
        )
        assert (await api.create(key, name="new")).status_code == 201
