"""Autocompletion for a lookup field: what its relationship_filter says is offered, and nothing else."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.support.harness import Api, record_of

TODAY = datetime.now(UTC).date()
OPTIONS = [{"name": value, "value": value} for value in ("red", "blue", "green")]
PLACES: dict[str, dict[str, Any]] = {
    "Altona": {
        "color": "red", "tags": ["red", "blue"], "beds": 2, "price": 10.5, "is_free": True,
        "note": "near the Sea", "built": str(TODAY - timedelta(3)), "owner": "external_id:Berlin",
    },
    "Berlin": {"color": "blue", "tags": ["green"], "beds": 4, "price": 20, "is_free": False, "note": "loud"},
    "Celle": {"built": str(TODAY + timedelta(3)), "beds": 7},
}  # fmt: skip
EVERY = sorted(PLACES)


def of(key: str) -> str:
    return f"zen:custom_object:{key}"


class Choice:
    """Places to choose from, and the visits that point to them."""

    def __init__(self, api: Api, places: str, visits: str) -> None:
        self.api, self.places, self.visits = api, places, visits

    async def narrow(self, *all_: Any, any_: Any = ()) -> None:
        conditions = {"all": list(all_), "any": list(any_)}
        body = {"custom_object_field": {"relationship_filter": conditions}}
        url = f"/custom_objects/{self.visits}/fields/place"
        response = await self.api.client.patch(url, json=body)
        assert response.status_code == 200, response.text

    async def complete(self, **query: Any) -> httpx.Response:
        asked = {"field_id": "place", "source": of(self.visits)} | query
        return await self.api.client.get(f"/custom_objects/{self.places}/records/autocomplete", params=asked)

    async def offered(self, **query: Any) -> list[str]:
        response = await self.complete(**query)
        assert response.status_code == 200, response.text
        answer = response.json()
        assert answer["count"] == len(answer["custom_object_records"])
        return sorted(record["name"] for record in answer["custom_object_records"])


def condition(field: str, operator: str, value: Any = None) -> dict[str, Any]:
    return {"field": field, "operator": operator, "value": value}


@pytest.fixture(scope="module")
async def choice(api: Api) -> Choice:
    places = await api.new_object(
        {"key": "color", "type": "dropdown", "custom_field_options": OPTIONS},
        {"key": "tags", "type": "multiselect", "custom_field_options": OPTIONS},
        {"key": "beds", "type": "integer"},
        {"key": "price", "type": "decimal"},
        {"key": "is_free", "type": "checkbox"},
        {"key": "note", "type": "text"},
        {"key": "built", "type": "date"},
        {"key": "meta", "type": "json"},
        {"key": "old", "type": "text", "active": False},
    )
    await api.new_field(places, key="owner", type="lookup", relationship_target_type=of(places))
    visits = await api.new_object(
        {"key": "place", "type": "lookup", "relationship_target_type": of(places)},
        {"key": "note", "type": "text"},
        {"key": "guide", "type": "lookup", "relationship_target_type": "zen:user"},
    )
    for name in reversed(EVERY):
        fields = PLACES[name]
        record_of(await api.create(places, name=name, external_id=name, custom_object_fields=fields))
    return Choice(api, places, visits)


@pytest.mark.parametrize(
    ("field", "operator", "value", "expected"),
    [
        ("color", "is", "red", ["Altona"]),
        ("color", "is_not", "red", ["Berlin", "Celle"]),
        ("color", "is", ["red", "blue"], ["Altona", "Berlin"]),
        ("color", "is_not", ["red", "blue"], ["Celle"]),
        ("color", "is", None, ["Celle"]),
        ("color", "is", "", ["Celle"]),
        ("color", "is_not", None, ["Altona", "Berlin"]),
        ("color", "present", None, ["Altona", "Berlin"]),
        ("color", "not_present", None, ["Celle"]),
        ("tags", "is", "red", ["Altona"]),
        ("tags", "includes", "blue", ["Altona"]),
        ("tags", "includes", ["blue", "green"], ["Altona", "Berlin"]),
        ("tags", "not_includes", ["blue", "green"], ["Celle"]),
        ("beds", "is", "2", ["Altona"]),
        ("beds", "is", 2, ["Altona"]),
        ("beds", "is_not", "2", ["Berlin", "Celle"]),
        ("beds", "less_than", "4", ["Altona"]),
        ("beds", "less_than_equal", 4, ["Altona", "Berlin"]),
        ("beds", "greater_than", "4", ["Celle"]),
        ("beds", "greater_than_equal", "4", ["Berlin", "Celle"]),
        ("beds", "is", "two", []),
        ("beds", "is_not", "two", EVERY),
        ("beds", "is", "NaN", []),
        ("beds", "is", "1e999999", []),
        ("beds", "less_than", "many", []),
        ("beds", "less_than", None, []),
        ("price", "is", "10.50", ["Altona"]),
        ("is_free", "is", "true", ["Altona"]),
        ("is_free", "is", False, ["Berlin"]),
        ("is_free", "is_not", True, ["Berlin", "Celle"]),
        ("is_free", "is", "perhaps", []),
        ("note", "is", "loud", ["Berlin"]),
        ("note", "includes", "SEA quiet", ["Altona"]),
        ("note", "not_includes", "sea quiet", ["Berlin", "Celle"]),
        ("note", "includes_string", "the sea", ["Altona"]),
        ("note", "not_includes_string", "the sea", ["Berlin", "Celle"]),
        ("built", "is", str(TODAY - timedelta(3)), ["Altona"]),
        ("built", "is", f"{TODAY - timedelta(3)}T09:10:11Z", ["Altona"]),
        ("built", "less_than", str(TODAY), ["Altona"]),
        ("built", "within_previous_n_days", "3", ["Altona"]),
        ("built", "within_previous_n_days", 2, []),
        ("built", "within_next_n_days", "5", ["Celle"]),
        ("built", "within_next_n_days", "-1", []),
        ("built", "within_next_n_days", "9" * 30, []),
        ("created_at", "within_previous_n_days", 1, EVERY),
        ("owner", "is", "external_id:Berlin", ["Altona"]),
        ("owner", "is_not", "external_id:Berlin", ["Berlin", "Celle"]),
        ("name", "is", "Celle", ["Celle"]),
        ("standard::name", "is_not", "Celle", ["Altona", "Berlin"]),
        ("external_id", "includes_string", "e", ["Berlin", "Celle"]),
        ("custom_object_fields.color", "is", "red", ["Altona"]),
        ("custom_object.place.custom_fields.color", "is", "red", ["Altona"]),
        ("custom_fields.color", "is", "red", ["Altona"]),
        # what means nothing here is passed over
        ("nothing", "is", "red", EVERY),
        ("old", "is", "red", EVERY),
        ("color", "resembles", "red", EVERY),
        ("color", "less_than", "red", EVERY),
        ("color", "includes", "red", EVERY),
        ("meta", "is", "red", EVERY),
        ("meta", "present", None, []),
        ("", "is", "red", EVERY),
    ],
)
async def test_what_is_offered_is_what_the_condition_holds_for(
    choice: Choice, field: str, operator: str, value: Any, expected: list[str]
) -> None:
    await choice.narrow(condition(field, operator, value))
    assert await choice.offered() == expected


async def test_all_conditions_hold_and_any_of_the_others_beside_the_name(choice: Choice) -> None:
    red, blue = condition("color", "is", "red"), condition("color", "is", "blue")
    free = condition("is_free", "is", True)
    await choice.narrow(any_=[red, blue])
    assert await choice.offered() == ["Altona", "Berlin"]
    assert await choice.offered(name="ALT") == ["Altona"]
    assert await choice.offered(name="celle") == []
    await choice.narrow(free, any_=[red, blue])
    assert await choice.offered() == ["Altona"]
    await choice.narrow(red, blue)
    assert await choice.offered() == []
    await choice.narrow({}, {"field": None, "operator": "is"}, {"field": "color"}, any_=[{}])
    assert await choice.offered() == EVERY
    await choice.narrow()
    assert await choice.offered() == EVERY


async def test_conditions_that_match_take_what_the_caller_says(choice: Choice) -> None:
    await choice.narrow(condition("color", "matches", "ticket_fields_12345"))
    said = "filter[dynamic_values][ticket_fields_12345]"
    assert await choice.offered(**{said: "red"}) == ["Altona"]
    assert await choice.offered(**{said: "yellow"}) == []
    for unsaid in (
        {},
        {said: ""},
        {"filter[dynamic_values][other]": "red"},
        {"filter[dynamic_values]": "red"},
    ):
        assert await choice.offered(**unsaid) == EVERY, unsaid
    await choice.narrow(condition("color", "not_matches", "ticket_fields_12345"))
    assert await choice.offered(**{said: "red"}) == ["Berlin", "Celle"]
    assert await choice.offered() == EVERY
    for name in ("organization_id", "ticket_organization_id"):
        await choice.narrow(condition("beds", "matches", name))
        assert await choice.offered(organization_id="4") == ["Berlin"]
        assert await choice.offered(**{f"filter[dynamic_values][{name}]": "2"}) == ["Altona"]


async def test_the_pages_of_a_narrowed_completion_go_on_narrowed(choice: Choice) -> None:
    await choice.narrow(condition("beds", "greater_than", 2))
    page = (await choice.complete(**{"page[size]": 1})).json()
    seen = [record["name"] for record in page["custom_object_records"]]
    page = (await choice.api.client.get(page["links"]["next"])).json()
    seen += [record["name"] for record in page["custom_object_records"]]
    assert (sorted(seen), page["links"]["next"]) == (["Berlin", "Celle"], None)


async def test_a_field_that_is_none_of_ours_narrows_nothing(choice: Choice, stranger: Api) -> None:
    await choice.narrow(condition("color", "is", "red"))
    url = f"/custom_objects/{choice.visits}/fields/place"
    field_id = (await choice.api.client.get(url)).json()["custom_object_field"]["id"]
    assert await choice.offered(field_id=field_id) == ["Altona"]
    assert await choice.offered(source=of(choice.visits).upper()) == ["Altona"]
    for query in (
        {"source": "zen:ticket", "field_id": 12345},
        {"source": "zen:ticket", "requester_id": 7},
        {"source": ""},
        {"field_id": ""},
        {"field_id": "nothing"},
        {"field_id": "9" * 40},
        {"field_id": "note"},
        {"field_id": "guide"},
        {"field_id": "standard::name"},
        {"source": of("nowhere")},
        {"source": "zen:custom_object:"},
        {"source": choice.visits},
    ):
        assert await choice.offered(**query) == EVERY, query
    theirs = await Choice(stranger, choice.places, choice.visits).complete()
    assert (theirs.status_code, theirs.json()["error"]) == (404, "RecordNotFound")


async def test_a_field_of_another_target_narrows_nothing(choice: Choice, api: Api) -> None:
    others = await api.new_object({"key": "color", "type": "text"})
    record_of(await api.create(others, name="x"))
    await choice.narrow(condition("color", "is", "red"))
    query = {"field_id": "place", "source": of(choice.visits)}
    answer = (await api.client.get(f"/custom_objects/{others}/records/autocomplete", params=query)).json()
    assert answer["count"] == 1


async def test_an_inactive_field_narrows_nothing(api: Api) -> None:
    places = await api.new_object()
    record_of(await api.create(places, name="A"))
    filter_ = {"all": [condition("name", "is", "B")]}
    visits = await api.new_object(
        {
            "key": "place",
            "type": "lookup",
            "relationship_target_type": of(places),
            "relationship_filter": filter_,
        }
    )
    choice = Choice(api, places, visits)
    assert await choice.offered() == []
    off = {"custom_object_field": {"active": False}}
    await api.client.patch(f"/custom_objects/{visits}/fields/place", json=off)
    assert await choice.offered() == ["A"]


async def test_the_filter_refuses_no_write(choice: Choice) -> None:
    await choice.narrow(condition("color", "is", "red"))
    fields = {"place": "external_id:Berlin"}
    record_of(await choice.api.create(choice.visits, name="v", custom_object_fields=fields))


async def test_too_many_conditions_are_a_bad_request(choice: Choice) -> None:
    await choice.narrow(*[condition("color", "is", "red")] * 101)
    response = await choice.complete()
    assert (response.status_code, response.json()["error"]) == (400, "BadRequest")
    await choice.narrow()
