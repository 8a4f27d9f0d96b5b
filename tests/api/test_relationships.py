"""Lookups the other way round: who points to a record, as the writes left it."""

from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from tests.support.harness import Api, record_of
from upsert_svc import purge
from upsert_svc.db.pools import Connections

ULID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"


def of(key: str) -> str:
    return f"zen:custom_object:{key}"


class Family:
    """People, and the cars that point to them by two fields."""

    def __init__(self, api: Api, people: str, cars: str) -> None:
        self.api, self.people, self.cars = api, people, cars

    @classmethod
    async def made(cls, api: Api) -> "Family":
        people = await api.new_object(naming={"is_unique": True})
        cars = await api.new_object(
            {"key": "color", "type": "text"},
            {"key": "owner", "type": "lookup", "relationship_target_type": of(people)},
            {"key": "driver", "type": "lookup", "relationship_target_type": of(people)},
            {"key": "seller", "type": "lookup", "relationship_target_type": "zen:user"},
        )
        return cls(api, people, cars)

    async def person(self, name: str) -> str:
        person = await self.api.create(self.people, name=name, external_id=name)
        return str(record_of(person)["id"])

    async def car(self, name: str, **fields: Any) -> dict[str, Any]:
        record = {"name": name, "custom_object_fields": fields}
        return record_of(await self.api.upsert(self.cars, record, external_id=name))

    async def ask(
        self, target: str, field: str = "owner", query: str = "", api: Api | None = None
    ) -> httpx.Response:
        path = f"/{of(self.people)}/{target}/relationship_fields/{field}/{of(self.cars)}"
        return await (api or self.api).client.get(f"{path}{query}")

    async def names(self, target: str, field: str = "owner") -> list[str]:
        response = await self.ask(target, field)
        assert response.status_code == 200, response.text
        return [record["name"] for record in response.json()["custom_object_records"]]


@pytest.fixture
async def family(api: Api) -> Family:
    return await Family.made(api)


def assert_missing(response: httpx.Response) -> None:
    found = response.status_code, response.json()["error"], response.json()["description"]
    assert found == (404, "RecordNotFound", "Not found")


async def test_the_records_that_point_to_one_are_answered_as_a_list_answers_them(
    api: Api, family: Family
) -> None:
    ann, bob = [await family.person(name) for name in ("Ann", "Bob")]
    cars = [await family.car(f"C{number}", owner=ann, driver=bob) for number in range(3)]
    await family.car("other", owner=bob)
    answer = (await family.ask(ann)).json()
    assert answer["custom_object_records"] == cars
    assert answer["meta"] == {"has_more": False, "after_cursor": None, "before_cursor": None}
    assert answer["links"] == {"next": None, "prev": None}
    assert await family.names(bob) == ["other"]
    assert await family.names(bob, "driver") == ["C0", "C1", "C2"]
    assert await family.names(ann, "driver") == []


async def test_the_field_is_named_by_key_or_id_and_the_types_in_any_case(api: Api, family: Family) -> None:
    ann = await family.person("Ann")
    car = await family.car("C", owner=ann)
    field = (await api.client.get(f"/custom_objects/{family.cars}/fields/owner")).json()
    field_id = field["custom_object_field"]["id"]
    people, cars = of(family.people), of(family.cars)
    for path in (
        f"/{people}/{ann}/relationship_fields/{field_id}/{cars}",
        f"/{people}/{ann}/relationship_fields/owner/{cars}.json",
        f"/{people.upper()}/{ann}/relationship_fields/owner/{cars.upper()}",
        f"/{people.replace(':', '%3A')}/{ann}/relationship_fields/owner/{cars.replace(':', '%3a')}",
    ):
        answer = await api.client.get(path)
        assert answer.json().get("custom_object_records") == [car], path


async def test_pages_go_on_in_both_directions(family: Family) -> None:
    ann = await family.person("Ann")
    names = [(await family.car(f"C{number}", owner="external_id:Ann"))["name"] for number in range(5)]
    for sort, expected in (("", names), ("&sort=-id", names[::-1])):
        seen: list[str] = []
        page = (await family.ask(ann, query=f"?page[size]=2{sort}")).json()
        while True:
            seen += [record["name"] for record in page["custom_object_records"]]
            if page["links"]["next"] is None:
                break
            assert page["meta"]["has_more"] is True
            page = (await family.api.client.get(page["links"]["next"])).json()
        assert seen == expected
        before = (await family.api.client.get(page["links"]["prev"])).json()
        assert [record["name"] for record in before["custom_object_records"]] == expected[2:4]


@pytest.mark.parametrize(
    "query",
    [
        "page[size]=0", "page[size]=101", "page[after]=x", "page[after]=a&page[before]=b", "page=2",
        "page[number]=1", "sort=name", "sort=updated_at", "filter[ids]=x", "filter[name]=x", "external_id=x",
        "name=x", "filter[external_ids]=x", "dry_run=true",
    ],
)  # fmt: skip
async def test_what_would_be_another_page_than_was_asked_for_is_refused(family: Family, query: str) -> None:
    ann = await family.person("Ann")
    response = await family.ask(ann, query=f"?{query}")
    assert (response.status_code, response.json()["error"]) == (400, "BadRequest"), query
    if "page[after]" not in query:
        assert query.partition("=")[0].partition("[n")[0] in response.json()["description"]


async def test_a_cursor_is_of_its_target_and_field(family: Family) -> None:
    ann, bob = [await family.person(name) for name in ("Ann", "Bob")]
    for number in range(2):
        await family.car(f"C{number}", owner=ann, driver=ann)
        await family.car(f"D{number}", owner=bob)
    cursor = (await family.ask(ann, query="?page[size]=1")).json()["meta"]["after_cursor"]
    assert (await family.ask(ann, query=f"?page[after]={cursor}")).status_code == 200
    for target, field in ((bob, "owner"), (ann, "driver")):
        assert (await family.ask(target, field, f"?page[after]={cursor}")).status_code == 400


async def test_every_way_to_write_a_record_is_seen_at_once(api: Api, family: Family) -> None:
    ann, bob = [await family.person(name) for name in ("Ann", "Bob")]
    root = f"/custom_objects/{family.cars}/records"
    made = await family.car("C", owner=ann)
    url = f"{root}/{made['id']}"

    async def send(method: str, url: str, **fields: Any) -> None:
        record = {"name": "C", "custom_object_fields": fields}
        response = await api.client.request(method, url, json={"custom_object_record": record})
        assert response.is_success, response.text

    async def seen() -> tuple[int, int]:
        return len(await family.names(ann)), len(await family.names(bob))

    assert await seen() == (1, 0)
    await send("PATCH", url, owner=bob)
    assert await seen() == (0, 1)
    await send("PATCH", url, color="red")
    assert await seen() == (0, 1)
    await send("PUT", f"{root}?external_id=C", color="red")
    assert await seen() == (0, 0)
    await send("PUT", url, owner="name:ann")
    assert await seen() == (1, 0)
    await send("PATCH", f"{root}?external_id=C&dry_run=true", owner=bob)
    assert await seen() == (1, 0)
    await send("PATCH", f"{root}?external_id=C", owner=None)
    assert await seen() == (0, 0)
    item = {"name": "C", "external_id": "C", "custom_object_fields": {"owner": bob}}
    await api.finished_job(family.cars, "create_or_update_by_external_id", [item])
    await api.finished_job(family.cars, "create", [{**item, "external_id": "J"}])
    assert await seen() == (0, 2)
    keyed = {"Idempotency-Key": f"K{family.cars}"}
    await api.client.post(root, json={"custom_object_record": {**item, "external_id": "I"}}, headers=keyed)
    assert await seen() == (0, 3)
    assert (await api.client.delete(url)).status_code == 204
    assert await seen() == (0, 2)


async def test_a_refused_write_changes_nothing(api: Api, family: Family) -> None:
    ann, bob = [await family.person(name) for name in ("Ann", "Bob")]
    await family.car("C", owner=ann)
    record = {"custom_object_fields": {"owner": bob}, "name": "x" * 256}
    assert (await api.upsert(family.cars, record, external_id="C")).status_code == 422
    stale = {"custom_object_fields": {"owner": bob}}
    refused = await api.upsert(family.cars, stale, headers={"If-Match": '"x"'}, external_id="C")
    assert refused.status_code == 412
    assert (await family.names(ann), await family.names(bob)) == (["C"], [])


async def test_what_is_not_there_is_not_found(api: Api, stranger: Api, family: Family) -> None:
    ann = await family.person("Ann")
    await family.car("C", owner=ann, driver=ann)
    people, cars = of(family.people), of(family.cars)
    for path in (
        f"/{people}/{ULID}/relationship_fields/owner/{cars}",
        f"/{people}/Ann/relationship_fields/owner/{cars}",
        f"/{people}/{ann}/relationship_fields/color/{cars}",
        f"/{people}/{ann}/relationship_fields/seller/{cars}",
        f"/{people}/{ann}/relationship_fields/nothing/{cars}",
        f"/{people}/{ann}/relationship_fields/standard::name/{cars}",
        f"/{people}/{ann}/relationship_fields/99999999999999999999/{cars}",
        f"/{people}/{ann}/relationship_fields/owner/{people}",
        f"/{people}/{ann}/relationship_fields/owner/{of('nowhere')}",
        f"/{people}/{ann}/relationship_fields/owner/zen:ticket",
        f"/{people}/{ann}/relationship_fields/owner/zen:custom_object:",
        f"/{of('nowhere')}/{ann}/relationship_fields/owner/{cars}",
        f"/{cars}/{ann}/relationship_fields/owner/{cars}",
        f"/zen:user/{ann}/relationship_fields/owner/{cars}",
        f"/custom_objects/{ann}/relationship_fields/owner/{cars}",
    ):
        assert_missing(await api.client.get(path))
        for query in ("page[size]=0", "page=2", "filter[ids]=x", "dry_run=true", "sort=name"):
            assert_missing(await api.client.get(f"{path}?{query}"))
    assert_missing(await family.ask(ann, api=stranger))
    assert_missing(await family.ask(ann, query="?page[size]=0", api=stranger))


async def test_another_account_with_the_same_keys_sees_its_own(stranger: Api, family: Family) -> None:
    ann = await family.person("Ann")
    await family.car("C", owner=ann)
    people = await stranger.new_object(key=family.people)
    cars = await stranger.new_object(
        {"key": "owner", "type": "lookup", "relationship_target_type": of(people)}, key=family.cars
    )
    theirs = Family(stranger, people, cars)
    their_ann = await theirs.person("Ann")
    await theirs.car("T", owner=their_ann)
    assert await theirs.names(their_ann) == ["T"]
    assert await family.names(ann) == ["C"]
    assert_missing(await theirs.ask(ann))
    assert_missing(await family.ask(their_ann))


async def test_an_agent_may_ask(agent: Api, family: Family) -> None:
    ann = await family.person("Ann")
    assert (await family.ask(ann, api=agent)).status_code == 200


async def test_a_target_that_was_deleted_is_not_found(api: Api, family: Family) -> None:
    ann = await family.person("Ann")
    car = await family.car("C", owner=ann)
    await api.client.delete(f"/custom_objects/{family.people}/records/{ann}")
    assert_missing(await family.ask(ann))
    assert car["custom_object_fields"]["owner"] == ann  # which the source keeps
    again = await family.person("Ann")
    assert await family.names(again) == []


async def test_an_inactive_field_is_not_found_and_is_as_it_was_when_active_again(
    api: Api, family: Family
) -> None:
    ann = await family.person("Ann")
    await family.car("C", owner=ann)
    url = f"/custom_objects/{family.cars}/fields/owner"
    await api.client.patch(url, json={"custom_object_field": {"active": False}})
    assert_missing(await family.ask(ann))
    await family.car("C", color="red")
    await api.client.put(
        f"/custom_objects/{family.cars}/records?external_id=C", json={"custom_object_record": {}}
    )
    await api.client.patch(url, json={"custom_object_field": {"active": True}})
    assert await family.names(ann) == ["C"]


async def _purged(pool: Connections) -> None:
    while await purge.step(pool, 2):
        pass


async def _noted(family: Family) -> list[Mapping[str, Any]]:
    """What is kept of the records of the cars."""
    async with family.api.running.sql() as connection:
        rows: list[Mapping[str, Any]] = await connection.fetch(
            """select f.key, v.field_id, v.target_id from lookup_values v left join fields f using (field_id)
                where v.object_id in (select object_id from objects where key = $1) order by 1, 2, 3""",
            family.cars,
        )
        return rows


async def test_a_field_made_again_points_nowhere_and_the_purge_forgets_the_old_one(
    api: Api, family: Family
) -> None:
    ann, bob = [await family.person(name) for name in ("Ann", "Bob")]
    for number in range(5):
        await family.car(f"C{number}", owner=ann, driver=bob)
    await api.client.delete(f"/custom_objects/{family.cars}/fields/owner")
    assert_missing(await family.ask(ann))
    field = {"key": "owner", "type": "lookup", "relationship_target_type": of(family.people)}
    await api.new_field(family.cars, **field)
    assert await family.names(ann) == []
    await family.car("C3", owner=ann)
    assert await family.names(ann) == ["C3"]
    await _purged(api.running.service.database.main)
    assert await family.names(ann) == ["C3"]
    assert await family.names(bob, "driver") == [f"C{number}" for number in range(5)]
    assert [row["key"] for row in await _noted(family)] == ["driver"] * 5 + ["owner"]


async def test_a_deleted_object_is_forgotten(api: Api, family: Family) -> None:
    ann = await family.person("Ann")
    for number in range(3):
        await family.car(f"C{number}", owner=ann)
    await api.client.delete(f"/custom_objects/{family.cars}")
    assert_missing(await family.ask(ann))
    await _purged(api.running.service.database.main)
    async with api.running.sql() as connection:
        count = "select count(*) from lookup_values where target_id = $1"
        assert await connection.fetchval(count, ann) == 0
