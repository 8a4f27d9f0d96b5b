"""Two services on one database: a definition that one of them changes is never used wrongly by the other."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from harness import Api, Running, problems_of, record_of, running

from upsert_svc.object_types import ObjectType, ObjectTypes


@pytest.fixture
async def other(api: Api, service: Running) -> AsyncIterator[Api]:
    """A second service on the same database, with caches of its own."""
    async with running(service.database_url) as second:
        other = Api(second, api.token)
        async with other.client:
            yield other


async def test_a_field_made_at_one_service_can_be_written_at_the_other_at_once(api: Api, other: Api) -> None:
    key = await api.new_object()
    await other.upsert(key, {"name": "to have it cached"}, external_id="v1")
    await api.new_field(key, key="year", type="integer")
    record = record_of(await other.upsert(key, {"custom_object_fields": {"year": 1}}, external_id="v1"))
    assert record["custom_object_fields"] == {"year": 1}


async def test_a_field_removed_at_one_service_is_unknown_at_the_other_at_once(api: Api, other: Api) -> None:
    key = await api.new_object({"key": "year", "type": "integer"})
    body = {"name": "x", "custom_object_fields": {"year": 1}}
    assert record_of(await other.upsert(key, body, external_id="v1"))
    await api.client.delete(f"/custom_objects/{key}/fields/year")
    assert list(problems_of(await other.upsert(key, body, external_id="v1"))) == ["year"]


async def test_an_object_made_again_at_one_service_is_the_new_one_at_the_other(api: Api, other: Api) -> None:
    key = await api.new_object()
    assert record_of(await other.upsert(key, {"name": "old"}, external_id="v1"))
    await api.client.delete(f"/custom_objects/{key}")
    for response in (
        await other.upsert(key, {"name": "x"}, external_id="v1"),
        await other.client.get(f"/custom_objects/{key}/records"),
        await other.client.get(f"/custom_objects/{key}/records/count"),
        await other.client.delete(f"/custom_objects/{key}/records?external_id=v1"),
    ):
        assert response.status_code == 404
    await api.new_object(key=key)
    assert (await other.upsert(key, {"name": "new"}, external_id="v1")).headers["Upsert-Result"] == "created"
    assert [record["name"] for record in await api.records(key)] == ["new"]


async def test_naming_changed_at_one_service_counts_at_the_other_at_once(api: Api, other: Api) -> None:
    key = await api.new_object()
    assert problems_of(await other.upsert(key, {}, name="Ford"))
    await api.name(key, is_unique=True)
    assert record_of(await other.upsert(key, {}, name="Ford"))["name"] == "Ford"


async def test_a_lookup_that_points_elsewhere_at_one_service_does_so_at_the_other(
    api: Api, other: Api
) -> None:
    first, second = await api.new_object(), await api.new_object()
    target = record_of(await api.create(second, name="target"))["id"]
    lookup = {"key": "l", "type": "lookup"}
    key = await api.new_object({**lookup, "relationship_target_type": f"zen:custom_object:{first}"})
    await other.upsert(key, {"name": "to have it cached"}, external_id="v1")
    await api.client.delete(f"/custom_objects/{key}/fields/l")
    await api.new_field(key, **lookup, relationship_target_type=f"zen:custom_object:{second}")
    record = record_of(await other.upsert(key, {"custom_object_fields": {"l": target}}, external_id="v1"))
    assert record["custom_object_fields"] == {"l": target}


class _SlowTypes(ObjectTypes):
    """Counts the looks that are begun, and lets the first one take its time."""

    begun = 0

    async def _confirm(self, object_type: ObjectType) -> ObjectType:
        self.begun += 1
        if self.begun == 1:
            await asyncio.sleep(0.2)
        return await super()._confirm(object_type)


async def test_a_request_shares_no_look_that_began_before_it(api: Api) -> None:
    key = await api.new_object()
    types = _SlowTypes(api.running.service.database.lookups)
    object_type = await types.get(1, key)
    first = asyncio.create_task(types.confirmed(object_type))
    await asyncio.sleep(0.05)
    await asyncio.gather(first, *(types.confirmed(object_type) for _ in range(5)))
    assert types.begun == 2
