"""Fields over HTTP: every type made, shown, changed, reordered, removed; options and naming settings."""

from typing import Any
from urllib.parse import unquote

import httpx
import pytest

from tests.support.harness import JSON_TYPE, Api, problems_of, record_of
from upsert_svc.api import routes

KEYS = {
    "url",
    "id",
    "type",
    "key",
    "title",
    "raw_title",
    "description",
    "raw_description",
    "position",
    "active",
    "required",
    "system",
    "regexp_for_validation",
    "tag",
    "custom_field_options",
    "relationship_target_type",
    "relationship_filter",
    "properties",
    "created_at",
    "updated_at",
}
RED, BLUE = {"name": "Red", "value": "red"}, {"name": "Blue", "value": "blue"}
TYPES: list[dict[str, Any]] = [
    {"type": "text"},
    {"type": "textarea"},
    {"type": "regexp", "regexp_for_validation": "^[a-z]+$"},
    {"type": "checkbox", "tag": "checked"},
    {"type": "date"},
    {"type": "integer"},
    {"type": "decimal"},
    {"type": "currency", "properties": {"currency": "USD"}},
    {"type": "dropdown", "custom_field_options": [RED, BLUE]},
    {"type": "multiselect", "custom_field_options": [RED, BLUE]},
    {"type": "lookup", "relationship_target_type": "zen:custom_object:car"},
]


def path(object_key: str, field: object = None) -> str:
    return f"/custom_objects/{object_key}/fields" + ("" if field is None else f"/{field}")


async def post(api: Api, object_key: str, **field: Any) -> httpx.Response:
    return await api.client.post(path(object_key), json={"custom_object_field": field})


async def patch(api: Api, object_key: str, field: object, **changes: Any) -> httpx.Response:
    return await api.client.patch(path(object_key, field), json={"custom_object_field": changes})


def field_of(response: httpx.Response) -> dict[str, Any]:
    assert response.is_success, response.text
    found: dict[str, Any] = response.json()["custom_object_field"]
    return found


async def field(api: Api, object_key: str, name: object) -> dict[str, Any]:
    return field_of(await api.client.get(path(object_key, name)))


async def keys(api: Api, object_key: str, **query: str) -> list[str]:
    response = await api.client.get(path(object_key), params=query)
    return [item["key"] for item in response.json()["custom_object_fields"]]


def with_options(*options: Any) -> dict[str, Any]:
    return {"type": "dropdown", "custom_field_options": list(options)}


async def naming(api: Api, object_key: str) -> dict[str, Any]:
    properties: dict[str, Any] = (await field(api, object_key, "standard::name"))["properties"]
    return properties


async def name(api: Api, object_key: str, **properties: Any) -> httpx.Response:
    return await patch(api, object_key, "standard::name", properties=properties)


@pytest.mark.parametrize("attributes", TYPES, ids=lambda attributes: attributes["type"])
async def test_a_field_of_each_type_is_made_and_shown_by_id_and_by_key(
    api: Api, attributes: dict[str, Any]
) -> None:
    key = await api.new_object()
    response = await post(api, key, key="f", title="F", description="D", **attributes)
    assert response.status_code == 201
    made = field_of(response)
    assert set(made) == KEYS
    assert isinstance(made["id"], int)
    options = attributes.get("custom_field_options", [])
    assert made == made | attributes | {
        "url": f"{api.running.address}/api/v2{path(key, made['id'])}.json",
        "key": "f",
        "title": "F",
        "raw_title": "F",
        "description": "D",
        "raw_description": "D",
        "position": 0,
        "active": True,
        "required": False,
        "system": False,
        "tag": attributes.get("tag"),
        "custom_field_options": made["custom_field_options"],
        "relationship_filter": {"all": [], "any": []},
        "properties": attributes.get("properties"),
    }
    assert [(o["name"], o["raw_name"], o["value"], o["position"]) for o in made["custom_field_options"]] == [
        (option["name"], option["name"], option["value"], place) for place, option in enumerate(options)
    ]
    assert all(isinstance(option["id"], int) for option in made["custom_field_options"])
    for name_ in ("f", made["id"], f"{made['id']}.json"):
        assert await field(api, key, name_) == made
    assert (await api.client.get(path(key))).json()["custom_object_fields"] == [made]


async def test_a_pattern_of_too_many_states_is_refused_by_itself_or_beside_the_others(api: Api) -> None:
    first = {"key": "first", "type": "regexp", "regexp_for_validation": r"\p{L}{30}"}
    key = await api.new_object(first)
    url = f"/custom_objects/{key}/fields"
    for pattern, said in ((r"\p{L}{60}", "too large: it repeats"), (r"\p{L}{30}", "too large together")):
        body = {
            "custom_object_field": {**first, "key": "next", "title": "x", "regexp_for_validation": pattern}
        }
        problems = problems_of(await api.client.post(url, json=body))
        assert said in problems["regexp_for_validation"][0]
    body = {"custom_object_field": {"regexp_for_validation": r"\p{L}{40}"}}
    assert (await api.client.patch(f"{url}/first", json=body)).is_success
    body = {"custom_object_field": {"regexp_for_validation": r"\p{L}{60}"}}
    assert list(problems_of(await api.client.patch(f"{url}/first", json=body))) == ["regexp_for_validation"]


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    "digits", ["0" * 11 + "99999999999", "0" * 200, "9" * 200, "2147483648", "00", "0" * 20 + "1"]
)
async def test_an_id_that_no_field_has_finds_none(api: Api, method: str, digits: str) -> None:
    key = await api.new_object({"key": "color", "type": "text"})
    body = {"custom_object_field": {"title": "x"}} if method == "PATCH" else None
    response = await api.client.request(method, f"/custom_objects/{key}/fields/{digits}", json=body)
    assert (response.status_code, response.json()["error"]) == (404, "RecordNotFound")


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_a_field_is_changed_by_patch_and_by_put_where_it_is_sent(api: Api, method: str) -> None:
    key = await api.new_object()
    made = await api.new_field(key, key="f", type="text", description="D", tag="t")
    for name_ in ("f", made["id"]):
        response = await api.client.request(
            method, path(key, name_), json={"custom_object_field": {"raw_title": f"By {name_}"}}
        )
        assert response.status_code == 200
        changed = {"title": f"By {name_}", "raw_title": f"By {name_}"}
        assert field_of(response) == made | changed | {"updated_at": field_of(response)["updated_at"]}


@pytest.mark.parametrize("standard", ["standard::name", "standard::external_id"])
async def test_the_standard_fields_are_shown_and_retitled_but_not_deleted(api: Api, standard: str) -> None:
    key = await api.new_object()
    shown = await field(api, key, standard)
    assert set(shown) == KEYS
    assert (shown["key"], shown["type"], shown["system"]) == (standard, "text", True)
    assert await field(api, key, shown["id"]) == shown
    assert await field(api, key, standard.replace(":", "%3A")) == shown
    assert field_of(await patch(api, key, standard, title="Called"))["title"] == "Called"
    assert problems_of(await api.client.delete(path(key, standard))) == {
        "base": ["Standard fields cannot be deleted"]
    }
    response = await patch(api, key, standard, active=False, required=True)
    assert (field_of(response)["active"], field_of(response)["required"]) == (True, False)
    assert {'"active"', '"required"'} <= set(
        unquote(response.headers["X-Zendesk-API-Warn"])
        .replace("[", " ")
        .replace("]", " ")
        .replace(",", "")
        .split()
    )


async def test_the_standard_fields_are_listed_where_asked_for(api: Api) -> None:
    key = await api.new_object({"key": "f", "type": "text"})
    assert await keys(api, key) == ["f"]
    assert await keys(api, key, include_standard_fields="false") == ["f"]
    listed = await keys(api, key, include_standard_fields="true")
    assert sorted(listed) == ["f", "standard::external_id", "standard::name"]


async def test_fields_are_paged_both_ways(api: Api) -> None:
    key = await api.new_object(*({"key": f"f{number}", "type": "text"} for number in range(5)))
    first = (await api.client.get(path(key), params={"page[size]": 2})).json()
    second = (await api.client.get(first["links"]["next"])).json()
    third = (await api.client.get(second["links"]["next"])).json()
    seen = [[item["key"] for item in page["custom_object_fields"]] for page in (first, second, third)]
    assert seen == [["f0", "f1"], ["f2", "f3"], ["f4"]]
    assert (third["links"]["next"], third["meta"]["after_cursor"]) == (None, None)
    assert (await api.client.get(third["links"]["prev"])).json()["custom_object_fields"] == second[
        "custom_object_fields"
    ]


@pytest.mark.parametrize(
    ("attributes", "blamed"),
    [
        ({"key": ""}, "key"),
        ({"key": None}, "key"),
        ({"key": "123"}, "key"),
        ({"key": "a b"}, "key"),
        ({"key": "é"}, "key"),
        ({"key": "standard::name"}, "key"),
        ({"key": "x" * 101}, "key"),
        ({"key": 5}, "key"),
        ({"title": ""}, "title"),
        ({"title": "x" * 256}, "title"),
        ({"type": "money"}, "type"),
        ({"type": None}, "type"),
        ({"type": 3}, "type"),
        ({"active": "no"}, "active"),
        ({"required": 1}, "required"),
        ({"type": "regexp"}, "regexp_for_validation"),
        ({"type": "regexp", "regexp_for_validation": "("}, "regexp_for_validation"),
        ({"type": "regexp", "regexp_for_validation": "a" * 256}, "regexp_for_validation"),
        ({"type": "regexp", "regexp_for_validation": "(?=a)b"}, "regexp_for_validation"),
        ({"type": "regexp", "regexp_for_validation": "((a{99}){99}){99}"}, "regexp_for_validation"),
        ({"type": "lookup"}, "relationship_target_type"),
        ({"type": "lookup", "relationship_target_type": "car"}, "relationship_target_type"),
        ({"type": "lookup", "relationship_target_type": "zen:custom_object:"}, "relationship_target_type"),
        ({"relationship_filter": {"all": [{"value": 1e300}]}}, "relationship_filter"),
        ({"relationship_filter": {"all": [{"value": 2**70}]}}, "relationship_filter"),
        ({"relationship_filter": {"none": []}}, "relationship_filter"),
        ({"relationship_filter": []}, "relationship_filter"),
        ({"type": "dropdown", "custom_field_options": {}}, "custom_field_options"),
        (with_options("red"), "custom_field_options"),
        (with_options({"name": "Red"}), "custom_field_options"),
        (with_options({"value": "red"}), "custom_field_options"),
        (with_options({"name": "", "value": "red"}), "custom_field_options"),
        (with_options(RED, BLUE, RED), "custom_field_options"),
        (with_options({"name": "a", "value": "x" * 256}), "custom_field_options"),
        (with_options({"name": "x" * 256, "value": "a"}), "custom_field_options"),
        ({"properties": {"is_unique": "yes"}}, "properties"),
        ({"type": "currency"}, "properties"),
        ({"type": "currency", "properties": {}}, "properties"),
        ({"type": "currency", "properties": {"currency": None}}, "properties"),
        ({"type": "currency", "properties": {"currency": "usd"}}, "properties"),
        ({"type": "currency", "properties": {"currency": "ABC"}}, "properties"),
        ({"type": "currency", "properties": {"currency": ["USD"]}}, "properties"),
        ({"key": "reorder"}, "key"),
    ],
)  # fmt: skip
async def test_a_field_of_another_form_is_refused_by_the_attribute_at_fault(
    api: Api, attributes: dict[str, Any], blamed: str
) -> None:
    key = await api.new_object()
    problems = problems_of(await post(api, key, **{"key": "f", "title": "F", "type": "text"} | attributes))
    assert list(problems) == [blamed]
    assert "b'" not in problems[blamed][0]
    assert await keys(api, key) == []


async def test_a_key_taken_is_refused(api: Api) -> None:
    key = await api.new_object({"key": "f", "type": "text"})
    response = await post(api, key, key="f", title="F", type="integer")
    assert problems_of(response) == {"key": ["Key has already been taken"]}
    assert (await field(api, key, "f"))["type"] == "text"


async def test_the_type_and_the_key_of_a_field_never_change(api: Api) -> None:
    key = await api.new_object({"key": "f", "type": "text"})
    response = await patch(api, key, "f", key="g", type="integer", title="New")
    assert (field_of(response)["key"], field_of(response)["type"]) == ("f", "text")
    warned = unquote(response.headers["X-Zendesk-API-Warn"])
    assert '"key"' in warned
    assert '"type"' in warned
    assert "title" not in warned
    same = await patch(api, key, "f", key="f", type="text")
    assert "X-Zendesk-API-Warn" not in same.headers


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_the_currency_of_a_field_never_changes(api: Api, method: str) -> None:
    key = await api.new_object()
    made = await api.new_field(key, key="price", type="currency", properties={"currency": "EUR"})

    async def change(**changes: Any) -> httpx.Response:
        body = {"custom_object_field": changes}
        return await api.client.request(method, path(key, "price"), json=body)

    assert problems_of(await change(properties={"currency": "USD"}, title="New")) == {
        "properties": ["The currency stays what the field was made with, EUR"]
    }
    assert await field(api, key, "price") == made
    for properties in ({"currency": "EUR"}, {"currency": None}, {}, None):
        same = await change(properties=properties, title="New")
        assert field_of(same)["properties"] == {"currency": "EUR"}
        assert "X-Zendesk-API-Warn" not in same.headers
    sent_back = field_of(await api.client.get(path(key, "price")))
    assert field_of(await change(**sent_back))["properties"] == {"currency": "EUR"}


async def test_properties_go_with_the_fields_that_have_them(api: Api) -> None:
    key = await api.new_object()
    response = await post(api, key, key="f", title="F", type="decimal", properties={"currency": "USD"})
    assert field_of(response)["properties"] is None
    assert '"properties"' in unquote(response.headers["X-Zendesk-API-Warn"])
    asked = {"currency": "USD", "is_unique": True}
    response = await post(api, key, key="g", title="G", type="currency", properties=asked)
    assert '"properties.is_unique"' in unquote(response.headers["X-Zendesk-API-Warn"])
    response = await name(api, key, currency="USD")
    assert '"properties.currency"' in unquote(response.headers["X-Zendesk-API-Warn"])


async def test_every_word_of_a_path_that_would_hide_a_field_is_no_key_of_one(api: Api) -> None:
    key = await api.new_object()
    prefix = "/api/v2/custom_objects/{key}/fields/"
    words = {path.removeprefix(prefix) for path in routes.TABLE if path.startswith(prefix)} - {"{field}"}
    assert words
    for word in words:
        problems = problems_of(await post(api, key, key=word, title="F", type="text"))
        assert problems == {"key": [f"Key cannot be {word}, which is a path of its own"]}
    assert field_of(await post(api, key, key="Reorder", title="F", type="text"))["key"] == "Reorder"
    assert (await field(api, key, "Reorder"))["title"] == "F"


async def test_a_field_of_before_whose_key_is_a_word_of_a_path_is_reached_by_its_id(api: Api) -> None:
    key = await api.new_object({"key": "f", "type": "text"})
    async with api.running.sql() as connection:
        await connection.execute(
            "update fields set key = 'reorder' where key = 'f' and object_id ="
            " (select object_id from objects where key = $1)",
            key,
        )
    (listed,) = (await api.client.get(path(key))).json()["custom_object_fields"]
    assert (listed["key"], await field(api, key, listed["id"])) == ("reorder", listed)
    assert field_of(await patch(api, key, listed["id"], title="New"))["title"] == "New"
    assert (await api.client.delete(path(key, listed["id"]))).status_code == 204
    assert await keys(api, key) == []


async def test_whole_numbers_of_a_definition_may_be_written_with_a_fraction(api: Api) -> None:
    key = await api.new_object(*({"key": letter, "type": "text"} for letter in "ab"))
    (a, b) = [(await field(api, key, letter))["id"] for letter in "ab"]
    response = await api.client.put(path(key, "reorder"), json={"field_ids": [float(b), float(a)]})
    assert response.status_code == 200
    assert await keys(api, key) == ["b", "a"]
    response = await name(api, key, autoincrement_padding=3.0, autoincrement_next_sequence=1e3)
    assert field_of(response)["properties"]["autoincrement_padding"] == 3
    assert field_of(response)["properties"]["autoincrement_next_sequence"] == 1000


async def test_unknown_attributes_of_a_field_are_ignored_and_named(api: Api) -> None:
    key = await api.new_object()
    response = await post(
        api, key, key="f", title="F", type="text", id=5, colour=1, properties={"is_unique": True}
    )
    warned = unquote(response.headers["X-Zendesk-API-Warn"])
    assert all(f'"{word}"' in warned for word in ("id", "colour", "properties"))
    response = await name(api, key, is_unique=True, is_uniq=True)
    assert '"properties.is_uniq"' in unquote(response.headers["X-Zendesk-API-Warn"])


async def test_a_lookups_filter_is_kept_and_always_has_both_lists(api: Api) -> None:
    key = await api.new_object()
    condition = {"field": "standard::name", "operator": "is", "value": "x"}
    made = await api.new_field(
        key,
        key="f",
        type="lookup",
        relationship_target_type="zen:ticket",
        relationship_filter={"all": [condition]},
    )
    assert made["relationship_filter"] == {"all": [condition], "any": []}
    changed = field_of(await patch(api, key, "f", relationship_filter={"any": [condition]}))
    assert changed["relationship_filter"] == {"all": [], "any": [condition]}


async def test_an_object_takes_ten_lookups(api: Api) -> None:
    lookup = {"type": "lookup", "relationship_target_type": "zen:user"}
    key = await api.new_object(*({"key": f"l{number}", **lookup} for number in range(10)))
    assert problems_of(await post(api, key, key="l10", title="L", **lookup)) == {
        "base": ["An object has at most 10 lookup fields"]
    }
    await api.new_field(key, key="f", type="text")
    assert (await api.client.delete(path(key, "l0"))).status_code == 204
    await api.new_field(key, key="l10", **lookup)


async def test_a_dropdown_takes_two_thousand_options_and_no_more(api: Api) -> None:
    key = await api.new_object()
    options = [{"name": "n", "value": f"v{number}"} for number in range(2001)]
    refused = await post(api, key, key="f", title="F", type="dropdown", custom_field_options=options)
    assert list(problems_of(refused)) == ["custom_field_options"]
    made = await api.new_field(key, key="f", type="dropdown", custom_field_options=options[:2000])
    assert len({option["id"] for option in made["custom_field_options"]}) == 2000
    record = record_of(await api.create(key, name="a", custom_object_fields={"f": "v1999"}))
    assert record["custom_object_fields"] == {"f": "v1999"}


@pytest.mark.parametrize("name_of_list", ["custom_object_field_ids", "field_ids"])
async def test_the_named_fields_come_first_in_the_order_given(api: Api, name_of_list: str) -> None:
    key = await api.new_object(*({"key": letter, "type": "text"} for letter in "abcd"))
    ids = {letter: (await field(api, key, letter))["id"] for letter in "abcd"}
    sent: list[object] = [ids["d"], ids["b"]]
    if name_of_list == "custom_object_field_ids":
        sent = [str(item) for item in sent]
    response = await api.client.put(path(key, "reorder"), json={name_of_list: sent})
    assert (response.status_code, response.headers["Content-Type"]) == (200, JSON_TYPE)
    assert isinstance(response.json(), str)
    assert await keys(api, key) == ["d", "b", "a", "c"]
    assert [(await field(api, key, letter))["position"] for letter in "dbac"] == [0, 1, 2, 3]
    await api.new_field(key, key="e", type="text")
    assert await keys(api, key) == ["d", "b", "a", "c", "e"]


async def test_a_reorder_naming_no_field_of_the_object_is_refused(api: Api) -> None:
    key, other = await api.new_object({"key": "a", "type": "text"}), await api.new_object()
    foreign = await api.new_field(other, key="a", type="text")
    for field_id in (foreign["id"], 999_999_999, "5"):
        response = await api.client.put(path(key, "reorder"), json={"field_ids": [field_id]})
        assert response.status_code == 404
    lists: list[Any] = ["5", [None], [True], [1.5], ["a"], [-1], [10**20], None]
    for bad in ({}, [], *({"field_ids": item} for item in lists)):
        response = await api.client.put(path(key, "reorder"), json=bad)
        assert (response.status_code, response.json()["error"]) == (400, "BadRequest"), bad


async def test_a_deleted_fields_values_are_gone_at_once_and_its_key_starts_empty(api: Api) -> None:
    key = await api.new_object({"key": "a", "type": "text"}, {"key": "b", "type": "text"})
    made = await field(api, key, "a")
    record_of(await api.create(key, name="r", external_id="r", custom_object_fields={"a": "1", "b": "2"}))
    assert (await api.client.delete(path(key, made["id"]))).status_code == 204
    assert (await api.client.get(path(key, "a"))).status_code == 404
    assert (await api.client.get(path(key, made["id"]))).status_code == 404
    assert (await api.client.delete(path(key, "a"))).status_code == 404
    assert [record["custom_object_fields"] for record in await api.records(key)] == [{"b": "2"}]
    refused = await api.upsert(key, {"custom_object_fields": {"a": "1"}}, external_id="r")
    assert problems_of(refused) == {"a": ["a is not a field of this object"]}
    await api.new_field(key, key="a", type="integer")
    assert [record["custom_object_fields"] for record in await api.records(key)] == [{"a": None, "b": "2"}]
    record = record_of(await api.upsert(key, {"custom_object_fields": {"a": 7}}, external_id="r"))
    assert record["custom_object_fields"] == {"a": 7, "b": "2"}
    assert [record["custom_object_fields"] for record in await api.records(key)] == [{"a": 7, "b": "2"}]


@pytest.mark.parametrize("kind", ["dropdown", "multiselect"])
async def test_an_option_left_out_takes_its_values_along_and_comes_back_empty(api: Api, kind: str) -> None:
    def value(*chosen: str) -> Any:
        return list(chosen) if kind == "multiselect" else chosen[0]

    async def stored() -> list[Any]:
        return [record["custom_object_fields"]["f"] for record in await api.records(key)]

    key = await api.new_object({"key": "f", "type": kind, "custom_field_options": [RED, BLUE]})
    before = (await field(api, key, "f"))["custom_field_options"]
    for name_, chosen in (("one", value("red")), ("two", value("blue"))):
        record_of(await api.create(key, name=name_, external_id=name_, custom_object_fields={"f": chosen}))
    if kind == "multiselect":
        record_of(await api.create(key, name="three", custom_object_fields={"f": ["red", "blue"]}))
    renamed = {"name": "Azure", "value": "blue"}
    after = field_of(await patch(api, key, "f", custom_field_options=[renamed]))["custom_field_options"]
    assert [(option["id"], option["name"]) for option in after] == [(before[1]["id"], "Azure")]
    gone = None
    rest = [["blue"]] if kind == "multiselect" else []
    assert await stored() == [gone, value("blue"), *rest]
    refused = await api.upsert(key, {"custom_object_fields": {"f": value("red")}}, external_id="two")
    assert list(problems_of(refused)) == ["f"]
    field_of(await patch(api, key, "f", custom_field_options=[RED, renamed]))
    assert await stored() == [gone, value("blue"), *rest]
    record = record_of(
        await api.upsert(key, {"custom_object_fields": {"f": value("red")}}, external_id="two")
    )
    assert record["custom_object_fields"]["f"] == value("red")
    assert await stored() == [gone, value("red"), *rest]


async def test_options_left_unsent_stay(api: Api) -> None:
    key = await api.new_object({"key": "f", "type": "dropdown", "custom_field_options": [RED, BLUE]})
    before = (await field(api, key, "f"))["custom_field_options"]
    assert field_of(await patch(api, key, "f", title="New"))["custom_field_options"] == before
    assert field_of(await patch(api, key, "f", custom_field_options=[]))["custom_field_options"] == []


@pytest.mark.parametrize("options", [[RED, RED], [{"value": "red"}], [{"name": "Red"}], "red", [None]])
async def test_a_change_to_bad_options_changes_nothing(api: Api, options: Any) -> None:
    key = await api.new_object({"key": "f", "type": "dropdown", "custom_field_options": [RED, BLUE]})
    before = await field(api, key, "f")
    response = await patch(api, key, "f", custom_field_options=options, title="New")
    assert list(problems_of(response)) == ["custom_field_options"]
    assert await field(api, key, "f") == before


async def test_an_inactive_field_is_hidden_and_keeps_its_values(api: Api) -> None:
    key = await api.new_object({"key": "a", "type": "text"}, {"key": "b", "type": "text"})
    record_of(await api.create(key, name="r", external_id="r", custom_object_fields={"a": "1", "b": "2"}))
    assert field_of(await patch(api, key, "a", active=False))["active"] is False
    assert [record["custom_object_fields"] for record in await api.records(key)] == [{"b": "2"}]
    refused = await api.upsert(key, {"custom_object_fields": {"a": "x"}}, external_id="r")
    assert problems_of(refused) == {"a": ["a is inactive"]}
    record_of(await api.upsert(key, {"custom_object_fields": {"b": "3"}}, external_id="r"))
    field_of(await patch(api, key, "a", active=True))
    assert [record["custom_object_fields"] for record in await api.records(key)] == [{"a": "1", "b": "3"}]


async def test_a_required_field_is_validated_on_the_resulting_record(api: Api) -> None:
    key = await api.new_object({"key": "a", "type": "text"}, {"key": "b", "type": "text"})
    record_of(await api.create(key, name="old", external_id="old"))
    field_of(await patch(api, key, "a", required=True))
    blank = {"a": ["a cannot be blank"]}
    assert problems_of(await api.create(key, name="new")) == blank
    assert (
        problems_of(await api.upsert(key, {"custom_object_fields": {"b": "1"}}, external_id="old")) == blank
    )
    fields = {"a": "1", "b": "1"}
    record_of(await api.upsert(key, {"custom_object_fields": fields}, external_id="old"))
    record_of(await api.upsert(key, {"custom_object_fields": {"b": "2"}}, external_id="old"))
    for empty in (None, "", "  "):
        response = await api.upsert(key, {"custom_object_fields": {"a": empty}}, external_id="old")
        assert problems_of(response) == blank
    field_of(await patch(api, key, "a", active=False))
    record_of(await api.create(key, name="new"))


async def test_a_changed_pattern_validates_the_next_write(api: Api) -> None:
    key = await api.new_object({"key": "f", "type": "regexp", "regexp_for_validation": "^a"})
    fields = {"custom_object_fields": {"f": "b"}}
    assert list(problems_of(await api.upsert(key, {"name": "r", **fields}, external_id="r"))) == ["f"]
    field_of(await patch(api, key, "f", regexp_for_validation="^b"))
    record_of(await api.upsert(key, {"name": "r", **fields}, external_id="r"))
    for bad in ("", "(", "x" * 256):
        response = await patch(api, key, "f", regexp_for_validation=bad)
        assert list(problems_of(response)) == ["regexp_for_validation"]


async def test_a_new_object_is_named_by_hand(api: Api) -> None:
    assert await naming(api, await api.new_object()) == {
        "is_unique": False,
        "autoincrement_enabled": False,
        "autoincrement_prefix": "",
        "autoincrement_padding": 0,
        "autoincrement_next_sequence": 1,
    }


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_the_naming_settings_are_set_where_they_are_sent(api: Api, method: str) -> None:
    key = await api.new_object()
    sent = {"autoincrement_enabled": True, "autoincrement_prefix": "INV-", "autoincrement_padding": 4}
    response = await api.client.request(
        method, path(key, "standard::name"), json={"custom_object_field": {"properties": sent}}
    )
    assert field_of(response)["properties"] == sent | {"is_unique": False, "autoincrement_next_sequence": 1}
    changed = field_of(await name(api, key, autoincrement_next_sequence=42))["properties"]
    assert changed == await naming(api, key) == sent | {"is_unique": False, "autoincrement_next_sequence": 42}
    assert record_of(await api.create(key))["name"] == "INV-0042"
    assert (await naming(api, key))["autoincrement_next_sequence"] == 43


@pytest.mark.parametrize(
    "properties",
    [
        {"is_unique": True, "autoincrement_enabled": True},
        {"autoincrement_prefix": "x" * 31},
        {"autoincrement_padding": 10},
        {"autoincrement_padding": -1},
        {"autoincrement_padding": "3"},
        {"autoincrement_next_sequence": -1},
        {"autoincrement_next_sequence": 10**15},
        {"autoincrement_next_sequence": 1.5},
        {"is_unique": 1},
    ],
)
async def test_naming_settings_out_of_bounds_are_refused(api: Api, properties: dict[str, Any]) -> None:
    key = await api.new_object()
    before = await naming(api, key)
    assert list(problems_of(await name(api, key, **properties))) == ["properties"]
    assert await naming(api, key) == before


async def test_numbers_may_begin_at_zero(api: Api) -> None:
    key = await api.new_object()
    await api.name(key, autoincrement_enabled=True, autoincrement_next_sequence=0)
    assert record_of(await api.create(key))["name"] == "0"


async def test_unique_and_autonumber_exclude_each_other_across_requests(api: Api) -> None:
    key = await api.new_object(naming={"is_unique": True})
    refused = await name(api, key, autoincrement_enabled=True)
    assert problems_of(refused) == {"properties": ["is_unique and autoincrement_enabled exclude each other"]}
    await api.name(key, autoincrement_enabled=True, is_unique=False)


@pytest.mark.parametrize(
    "change",
    [
        {"is_unique": True, "autoincrement_enabled": False},
        {"autoincrement_enabled": False},
        {"autoincrement_prefix": "B-"},
        {"autoincrement_padding": 5},
        {"autoincrement_next_sequence": 100},
        {"autoincrement_next_sequence": 1},
        {"autoincrement_next_sequence": 0},
    ],
)
async def test_the_naming_settings_are_frozen_under_a_record(api: Api, change: dict[str, Any]) -> None:
    key = await api.new_object(naming={"autoincrement_enabled": True, "autoincrement_prefix": "A-"})
    record = record_of(await api.create(key))
    before = await naming(api, key)
    assert list(problems_of(await name(api, key, **change))) == ["properties"]
    assert await naming(api, key) == before
    assert field_of(await name(api, key, **before))["properties"] == before
    assert (await api.client.delete(f"/custom_objects/{key}/records/{record['id']}")).status_code == 204
    if change.get("autoincrement_next_sequence", 2) >= 2:
        assert field_of(await name(api, key, **change))["properties"] == before | change


async def test_uniqueness_is_frozen_under_a_record(api: Api) -> None:
    key = await api.new_object()
    record_of(await api.create(key, name="Ford"))
    assert problems_of(await name(api, key, is_unique=True)) == {
        "properties": ["Naming settings cannot be changed once the object has a record"]
    }
    assert field_of(await name(api, key, is_unique=False, autoincrement_enabled=False))


async def test_the_next_number_never_falls_below_the_counter(api: Api) -> None:
    key = await api.new_object(naming={"autoincrement_enabled": True, "autoincrement_next_sequence": 5})
    record = record_of(await api.create(key))
    await api.client.delete(f"/custom_objects/{key}/records/{record['id']}")
    for number in (0, 1, 5):
        refused = await name(api, key, autoincrement_next_sequence=number)
        assert problems_of(refused) == {"properties": ["autoincrement_next_sequence cannot be below 6"]}
    await api.name(key, autoincrement_next_sequence=6)
    await api.name(key, autoincrement_next_sequence=7)
    assert record_of(await api.create(key))["name"] == "7"


async def test_agents_read_fields_and_do_not_write_them(api: Api, agent: Api) -> None:
    key = await api.new_object({"key": "f", "type": "text"})
    assert await keys(agent, key) == ["f"]
    assert (await field(agent, key, "f"))["key"] == "f"
    assert (await post(agent, key, key="g", title="G", type="text")).status_code == 403
    assert (await patch(agent, key, "f", title="G")).status_code == 403
    assert (await agent.client.put(path(key, "reorder"), json={"field_ids": []})).status_code == 403
    assert (await agent.client.delete(path(key, "f"))).status_code == 403
    assert (await field(api, key, "f"))["title"] == "f"


async def test_the_key_of_a_field_counts_in_its_own_case_everywhere(api: Api) -> None:
    key = await api.new_object({"key": "Pages", "type": "integer"}, {"key": "pages", "type": "text"})
    record = record_of(await api.create(key, name="x", custom_object_fields={"Pages": 1, "pages": "one"}))
    assert record["custom_object_fields"] == {"Pages": 1, "pages": "one"}
    for named, kind in (("Pages", "integer"), ("pages", "text")):
        shown = await api.client.get(f"/custom_objects/{key.upper()}/fields/{named}")
        assert shown.json()["custom_object_field"]["type"] == kind
    assert (await api.client.get(f"/custom_objects/{key}/fields/PAGES")).status_code == 404


async def test_another_key_type_or_target_is_ignored_and_told(api: Api) -> None:
    key = await api.new_object({"key": "pages", "type": "integer"})
    sent = {"key": "leaves", "type": "text", "relationship_target_type": "zen:user"}
    answer = await api.client.patch(f"/custom_objects/{key}/fields/pages", json={"custom_object_field": sent})
    assert answer.status_code == 200
    assert answer.json()["custom_object_field"]["type"] == "integer"
    for name in sent:
        assert f'"{name}"' in answer.headers["X-Zendesk-API-Warn"]
    answer = await api.client.patch(f"/custom_objects/{key}", json={"custom_object": {"key": "leaf"}})
    assert answer.json()["custom_object"]["key"] == key
    assert '"key"' in answer.headers["X-Zendesk-API-Warn"]
