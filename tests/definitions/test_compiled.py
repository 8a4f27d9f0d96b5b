"""Two services on one database: a definition that one of them changes is never used wrongly by the other."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from tests.support.harness import Api, Running, problems_of, record_of, running
from upsert_svc.definitions import compiled
from upsert_svc.definitions.compiled import Definition, Definitions
from upsert_svc.errors import RecordNotFound


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


class _SlowTypes(Definitions):
    """Counts the looks that are begun, and lets the first one take its time."""

    begun = 0

    async def _look_and_confirm(self, definition: Definition) -> Definition:
        self.begun += 1
        if self.begun == 1:
            await asyncio.sleep(0.2)
        return await super()._look_and_confirm(definition)


async def test_a_request_shares_no_look_that_began_before_it(api: Api) -> None:
    key = await api.new_object()
    types = _SlowTypes(api.running.service.database.lookups)
    definition = await types.get(1, key)
    first = asyncio.create_task(types.confirm(definition))
    await asyncio.sleep(0.05)
    await asyncio.gather(first, *(types.confirm(definition) for _ in range(5)))
    assert types.begun == 2


class _CountedTypes(Definitions):
    """Says what is kept, the least recently used first, and whether the fields of it are counted right."""

    @property
    def kept(self) -> list[str]:
        return [key for _, key in self._cached]

    @property
    def is_counted_right(self) -> bool:
        return self._cached_fields == sum(cached.field_count for cached in self._cached.values())


@pytest.fixture
def types(api: Api) -> _CountedTypes:
    return _CountedTypes(api.running.service.database.lookups)


@pytest.fixture(scope="module")
async def objects(api: Api) -> list[str]:
    """Five objects, which count as one field each, their names."""
    return [await api.new_object() for _ in range(5)]


def _fields(count: int) -> list[Mapping[str, Any]]:
    return [{"key": f"f{number}", "type": "text"} for number in range(count)]


async def test_of_more_fields_than_may_be_kept_the_least_recently_used_go(
    types: _CountedTypes, objects: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "_FIELDS_LIMIT", 3)
    first, second, third, fourth, fifth = objects
    for key in (first, second, third):
        await types.get(1, key)
    assert types.kept == [first, second, third]
    await types.get(1, first)
    await types.get(1, fourth)
    assert types.kept == [third, first, fourth]
    await types.reload(1, third)
    await types.get(1, fifth)
    assert types.kept == [fourth, third, fifth]
    assert types.is_counted_right


async def test_a_definition_of_many_fields_drives_out_as_many_as_it_needs(
    types: _CountedTypes, api: Api, objects: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "_FIELDS_LIMIT", 5)
    for key in objects:
        await types.get(1, key)
    large, larger = [await api.new_object(*_fields(count)) for count in (2, 5)]
    assert (await types.get(1, large)).field_count == 3
    assert types.kept == [*objects[3:], large]
    assert (await types.get(1, larger)).field_count == 6  # it is used, though it cannot be kept
    assert (types.kept, types.is_counted_right) == ([], True)
    await types.get(1, objects[0])
    assert (types.kept, types.is_counted_right) == (objects[:1], True)


async def test_the_fields_that_are_kept_are_counted_as_they_come_and_go(
    types: _CountedTypes, api: Api, objects: list[str]
) -> None:
    key = await api.new_object(*_fields(1))
    await asyncio.gather(*(types.get(1, key) for key in [key, *objects, key]))
    assert (types._cached_fields, types.is_counted_right) == (2 + 5, True)
    await api.new_field(key, key="more", type="text")
    assert (await types.confirm(await types.get(1, key))).field_count == 3
    assert (types._cached_fields, types.is_counted_right) == (3 + 5, True)
    types.forget(1, key)
    types.forget(1, key)
    types.forget(2, objects[0])
    assert (types._cached_fields, types.is_counted_right) == (5, True)
    await api.client.delete(f"/custom_objects/{key}")
    with pytest.raises(RecordNotFound):
        await types.get(1, key)
    for key in objects:
        await types.reload(1, key)
        types.forget(1, key)
    assert (types.kept, types._cached_fields) == ([], 0)


async def test_objects_of_equal_fields_share_their_compiled_validator(types: _CountedTypes, api: Api) -> None:
    options = [{"name": value, "value": value} for value in ("red", "green")]
    color = {"key": "color", "type": "dropdown", "custom_field_options": options}
    fields: list[list[Mapping[str, Any]]] = [
        [color],
        [color | {"title": "Another title"}],
        [color | {"custom_field_options": options[:1]}],
        [color | {"required": True}],
        [color | {"key": "colour"}],
        [color, *_fields(1)],
        [],
    ]
    loaded = [
        await types.get(1, await api.new_object(*shape, naming={"is_unique": True})) for shape in fields
    ]
    first, second, *others = (definition.validator for definition in loaded)
    assert first is second
    assert len({id(validator) for validator in (first, *others)}) == 1 + len(others)
    assert loaded[0].key != loaded[1].key


async def test_options_count_as_the_fields_that_take_as_much_memory(types: _CountedTypes, api: Api) -> None:
    options = [{"name": "x", "value": f"{number:0250}"} for number in range(600)]
    colors = {"type": "dropdown", "custom_field_options": options}
    key = await api.new_object(*({"key": f"f{number}", **colors} for number in range(3)))
    definition = await types.get(1, key)
    assert definition.field_count == 1 + 3 + 3 * 600 * (250 + 150) // 1500
    assert types.is_counted_right
    assert definition.validator.validate({"f2": f"{599:0250}"})


async def test_a_validator_goes_with_the_last_definition_that_has_it(types: _CountedTypes, api: Api) -> None:
    key = await api.new_object({"key": "of_its_own", "type": "text"})
    before = len(compiled._validators)
    validator = (await types.get(1, key)).validator
    assert (await types.reload(1, key)).validator is validator
    assert len(compiled._validators) == before + 1
    types.forget(1, key)
    del validator
    assert len(compiled._validators) == before
