"""POST …/records/search: filters of every operator and type, pages by cursor, what is refused."""

import random
import unicodedata
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import cache
from typing import Any

import httpx
import orjson
import pytest

from tests.support.every_type import definitions, options
from tests.support.harness import Api, record_of
from upsert_svc import paging
from upsert_svc.db import statements
from upsert_svc.definitions.field_types import FieldDefinition
from upsert_svc.search import filters, page_query

SEED = 20261125
RECORDS = 2000
PARTS, FILTERS = 4, 125  # of each part
OPTIONS = ("red", "green", "blue")
TEXTS = ("", "a", "A", "Straße", "STRASSE", "é", "e\u0301", "100%", "under_score", "' or 1=1 --", "\\")
FIELDS = ("text", "checkbox", "date", "integer", "decimal", "currency", "dropdown", "multiselect", "json")
EQUALITY = ("$eq", "$noteq", "$in", "$notin", "$exists")
ORDERING = ("$gt", "$gte", "$lt", "$lte")
OPERATORS = {
    "name": (*EQUALITY, "$contains", "$notcontains"),
    "external_id": (*EQUALITY, "$contains", "$notcontains"),
    "id": EQUALITY,
    "created_by_user_id": EQUALITY,
    "text": (*EQUALITY, "$contains", "$notcontains"),
    "checkbox": EQUALITY,
    "date": (*EQUALITY, *ORDERING),
    "integer": (*EQUALITY, *ORDERING),
    "decimal": (*EQUALITY, *ORDERING),
    "currency": (*EQUALITY, *ORDERING),
    "dropdown": EQUALITY,
    "multiselect": ("$contains", "$notcontains", "$exists"),
    "json": ("$exists",),
}


def value_of(kind: str, chance: random.Random) -> Any:
    """A value of few, so that comparisons meet."""
    match kind:
        case "checkbox":
            return chance.random() < 0.5
        case "date":
            return f"2024-0{chance.randint(1, 3)}-1{chance.randint(0, 3)}"
        case "integer":
            return chance.choice([-1, 0, 1, 2, 10, 999999999999])
        case "decimal" | "currency":
            return chance.choice([0, 1, 1.5, -0.25, 10, 99.99])
        case "dropdown":
            return chance.choice(OPTIONS)
        case "multiselect":
            return chance.sample(OPTIONS, chance.randint(0, 3))
        case "json":
            return chance.choice([{"a": 1}, [1], "x", False])
    return chance.choice(TEXTS)


# What a filter means, without SQL


@cache
def folded(text: str) -> str:
    composed = unicodedata.normalize("NFC", text).casefold()
    return unicodedata.normalize("NFC", composed)


def holds(filter_: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
    return all(_entry_holds(name, value, record) for name, value in filter_.items())


def _entry_holds(name: str, value: Any, record: Mapping[str, Any]) -> bool:
    if name == "$and":
        return all(holds(part, record) for part in value)
    if name == "$or":
        return any(holds(part, record) for part in value)
    key = name.removeprefix("custom_object_fields.")
    stored = record[name] if key == name else record["custom_object_fields"][key]
    return all(_compares(operator, stored, operand) for operator, operand in value.items())


def _compares(operator: str, stored: Any, operand: Any) -> bool:
    match operator:
        case "$exists":
            return bool((stored is not None) == operand)
        case "$eq":
            return bool(stored == operand)
        case "$in":
            return stored is not None and stored in operand
        case "$noteq" | "$notin" | "$notcontains":
            return not _compares(f"${operator.removeprefix('$not')}", stored, operand)
    if stored is None:
        return False
    match operator:
        case "$contains":
            return operand in stored if isinstance(stored, list) else folded(operand) in folded(stored)
        case "$gt":
            return bool(stored > operand)
        case "$gte":
            return bool(stored >= operand)
        case "$lt":
            return bool(stored < operand)
    return bool(stored <= operand)


# Records and filters by chance


@pytest.fixture(scope="module")
async def many(api: Api) -> tuple[str, list[dict[str, Any]]]:
    """An object of records with values by chance, and these as they are answered."""
    chosen = {"custom_field_options": options(*OPTIONS)}
    key = await api.new_object(*definitions(FIELDS, dropdown=chosen, multiselect=chosen))
    chance = random.Random(SEED)
    async with api.running.sql() as owner:
        rows = []
        for number in range(RECORDS):
            fields = {kind: value_of(kind, chance) for kind in FIELDS if chance.random() < 0.7}
            external_id = f"{chance.choice(TEXTS)}{number}" if chance.random() < 0.5 else None
            name = chance.choice(TEXTS[1:])
            rows.append((f"{number:026d}", name, external_id, orjson.dumps(fields).decode()))
        await owner.executemany(
            """insert into records (account_id, object_id, record_id, naming, name, external_id, fields,
                                    definition_version, created_by_user_id, updated_by_user_id)
               select account_id, object_id, $2, naming, $3, $4, $5::jsonb, version,
                      1001 + length($3), 1001 from objects where key = $1""",
            [(key, *row) for row in rows],
        )
    found = await api.records(key)
    assert len(found) == RECORDS
    return key, found


def comparison(chance: random.Random, record: Mapping[str, Any]) -> dict[str, Any]:
    name = chance.choice([*OPERATORS])
    operator = chance.choice(OPERATORS[name])

    def operand() -> Any:
        if name in ("id", "created_by_user_id", "name", "external_id") and chance.random() < 0.7:
            return record[name]
        if name == "created_by_user_id":
            return "1002"
        return value_of(name, chance)

    if operator == "$exists":
        value: Any = chance.random() < 0.5
    elif operator in ("$in", "$notin"):
        value = [item for item in (operand() for _ in range(chance.randint(0, 4))) if item is not None]
    elif name == "multiselect":
        value = chance.choice([*OPTIONS, "none"])
    elif operator in ("$contains", "$notcontains"):
        value = chance.choice(["", "s", "SS", "é", "%", "_", "a", "'"])
    else:
        value = operand()
        if value is None and operator not in ("$eq", "$noteq"):
            value = "x"
    return {name if name not in FIELDS else f"custom_object_fields.{name}": {operator: value}}


def filter_by_chance(
    chance: random.Random, records: Sequence[Mapping[str, Any]], depth: int = 0
) -> dict[str, Any]:
    if depth == 2 or chance.random() < 0.5:
        return comparison(chance, chance.choice(records))
    filter_: dict[str, Any] = {}
    for word in chance.sample(["$and", "$or"], chance.randint(1, 2)):
        filter_[word] = [filter_by_chance(chance, records, depth + 1) for _ in range(chance.randint(1, 3))]
    return filter_


def opposite(filter_: Mapping[str, Any]) -> dict[str, Any]:
    """The filter that holds where this one does not."""
    parts = [_opposite_entry(name, value) for name, value in filter_.items()]
    return parts[0] if len(parts) == 1 else {"$or": parts}


def _opposite_entry(name: str, value: Any) -> dict[str, Any]:
    if name in ("$and", "$or"):
        return {"$or" if name == "$and" else "$and": [opposite(part) for part in value]}
    ((operator, operand),) = value.items()
    opposites = {"$gt": "$lte", "$gte": "$lt", "$lt": "$gte", "$lte": "$gt"}
    if operator == "$exists":
        return {name: {"$exists": not operand}}
    if operator in opposites:
        return {"$or": [{name: {opposites[operator]: operand}}, {name: {"$exists": False}}]}
    turned = operator.replace("$not", "$") if operator.startswith("$not") else operator.replace("$", "$not")
    return {name: {turned: operand}}


async def _found(owner: Any, object_key: str, filter_: Mapping[str, Any]) -> set[str]:
    """The ids that the compiled filter finds, all on one page."""
    row = await owner.fetchrow(
        "select account_id, object_id, version from objects where key = $1", object_key
    )
    fields = {name: FieldDefinition(name, name, options=OPTIONS) for name in FIELDS}
    read = orjson.loads(orjson.dumps(filter_))
    statement, *arguments = page_query.records_query(
        statements.load("records").list(account_id=row["account_id"], object_id=row["object_id"]),
        page_query.order_named("id"),
        paging.Window(size=RECORDS + 1),
        condition=filters.compile_filter(_exact(read), fields),
        version=row["version"],
    )
    return {row["record_id"] for row in await owner.fetch(statement, *arguments)}


def _exact(value: Any) -> Any:
    """Floats as the body's reader gives them."""
    if isinstance(value, float):
        return Decimal(str(value))
    if isinstance(value, dict):
        return {key: _exact(item) for key, item in value.items()}
    return [_exact(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("part", range(PARTS))
async def test_filters_by_chance_find_what_they_say_and_their_opposites_the_rest(
    api: Api, many: tuple[str, list[dict[str, Any]]], part: int
) -> None:
    key, records = many
    chance = random.Random(SEED + part)
    everything = {record["id"] for record in records}
    sizes = []
    async with api.running.sql() as owner:
        for _ in range(FILTERS):
            filter_ = filter_by_chance(chance, records)
            expected = {record["id"] for record in records if holds(filter_, record)}
            assert await _found(owner, key, filter_) == expected, filter_
            assert await _found(owner, key, opposite(filter_)) == everything - expected, filter_
            sizes.append(len(expected))
    assert sum(0 < size < RECORDS for size in sizes) > FILTERS / 2


# Over HTTP


async def search(api: Api, key: str, filter_: Any, body: Any = None, **query: Any) -> httpx.Response:
    return await api.client.post(
        f"/custom_objects/{key}/records/search", params=query, json={"filter": filter_, **(body or {})}
    )


def ids(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [record["id"] for record in response.json()["custom_object_records"]]


@pytest.mark.parametrize("sort", ["", "id", "-id", "name", "-name", "created_at", "-updated_at"])
@pytest.mark.parametrize("place", ["query", "body"])
async def test_a_search_is_paged_both_ways_and_meets_every_record_once(
    api: Api, many: tuple[str, list[dict[str, Any]]], sort: str, place: str
) -> None:
    key, records = many
    filter_ = {"custom_object_fields.integer": {"$gte": 10}}
    expected = [record for record in records if holds(filter_, record)]
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = {"size": 100, **cursor}
        if place == "query":
            asked = {f"page[{name}]": value for name, value in page.items()}
            response = await search(api, key, filter_, sort=sort, **asked)
        else:
            response = await search(api, key, filter_, {"page": page, "sort": sort})
        seen += ids(response)
        answer = response.json()
        assert answer["meta"]["has_more"] == (answer["links"]["next"] is not None)
        if not answer["meta"]["has_more"]:
            break
        cursor = {"after": answer["meta"]["after_cursor"]}
    by = (sort or "id").removeprefix("-")
    assert sorted(seen) == sorted(record["id"] for record in expected)
    if by in ("id", "name"):
        ordered = sorted(
            expected, key=lambda record: (record[by].encode(), record["id"]), reverse=sort.startswith("-")
        )
        assert seen == [record["id"] for record in ordered]
    before = {"size": 100, "before": answer["meta"]["before_cursor"]}
    back = await search(api, key, filter_, {"page": before, "sort": sort})
    assert (
        ids(back) == seen[-len(answer["custom_object_records"]) - 100 : -len(answer["custom_object_records"])]
    )


async def test_a_link_to_the_next_page_is_followed_with_the_same_body(
    api: Api, many: tuple[str, list[dict[str, Any]]]
) -> None:
    key, records = many
    filter_ = {"name": {"$exists": True}}
    first = await search(api, key, filter_, {"page": {"size": 3}, "sort": "-id"})
    following = await api.client.post(first.json()["links"]["next"], json={"filter": filter_})
    assert ids(first) + ids(following) == [record["id"] for record in reversed(records)][:6]


async def test_a_cursor_of_a_listing_is_none_of_a_search(
    api: Api, many: tuple[str, list[dict[str, Any]]]
) -> None:
    key, _ = many
    listed = (await api.client.get(f"/custom_objects/{key}/records?page[size]=1")).json()
    response = await search(
        api, key, {"name": {"$exists": True}}, **{"page[after]": listed["meta"]["after_cursor"]}
    )
    assert response.status_code == 400


async def test_times_and_users_are_compared_as_they_are_answered(api: Api) -> None:
    key = await api.new_object()
    record = record_of(await api.create(key, name="x"))
    for name in ("created_at", "updated_at"):
        assert ids(await search(api, key, {name: {"$eq": record[name]}})) == [record["id"]]
        assert ids(await search(api, key, {name: {"$gt": record[name]}})) == []
        assert ids(await search(api, key, {name: {"$lt": "2999-01-01", "$gte": "2020-01-01T00:00+02:00"}}))
    user = record["created_by_user_id"]
    for name in ("created_by_user_id", "updated_by_user_id", "created_by_user", "updated_by_user"):
        for comparison in ({"$in": [user, 7]}, {"$eq": user}, {"$eq": int(user)}, {"$exists": True}):
            assert ids(await search(api, key, {name: comparison})) == [record["id"]]
        for comparison in ({"$notin": [user]}, {"$noteq": user}):
            assert ids(await search(api, key, {name: comparison})) == []
        refused = await search(api, key, {name: {"$eq": "Ann"}})
        assert (refused.status_code, refused.json()["error"]) == (400, "BadRequest")
        assert f"filter.{name}.$eq" in refused.json()["description"]


async def test_a_search_sees_the_definition_as_it_is(api: Api) -> None:
    key = await api.new_object({"key": "f", "type": "text"}, {"key": "kept", "type": "integer"})
    made = record_of(await api.create(key, name="x", custom_object_fields={"f": "text", "kept": 1}))
    filter_ = {"custom_object_fields.f": {"$exists": True}}
    assert ids(await search(api, key, filter_)) == [made["id"]]
    await api.client.delete(f"/custom_objects/{key}/fields/f")
    assert (await search(api, key, filter_)).status_code == 400
    await api.new_field(key, key="f", type="integer")
    assert ids(await search(api, key, filter_)) == []
    assert ids(await search(api, key, {"custom_object_fields.f": {"$noteq": 5}})) == [made["id"]]
    inactive = {"custom_object_field": {"active": False}}
    await api.client.patch(f"/custom_objects/{key}/fields/kept", json=inactive)
    assert (await search(api, key, {"custom_object_fields.kept": {"$eq": 1}})).status_code == 400


NAMED = {"name": {"$eq": "x"}}


@pytest.mark.parametrize(
    ("filter_", "said"),
    [
        ({}, "filter"),
        ([], "filter"),
        ("x", "filter"),
        ({"name": {}}, "filter.name"),
        ({"name": "x"}, "filter.name"),
        ({"name": ["x"]}, "filter.name"),
        ({"name": {"eq": "x"}}, "filter.name.eq"),
        ({"name": {"$like": "x"}}, "filter.name.$like"),
        ({"name": {"$gt": "x"}}, "filter.name.$gt"),
        ({"name": {"$eq": 5}}, "filter.name.$eq must be text"),
        ({"name": {"$in": "x"}}, "filter.name.$in must be a list"),
        ({"name": {"$in": [None]}}, "filter.name.$in must be text"),
        ({"name": {"$exists": "true"}}, "filter.name.$exists must be true or false"),
        ({"nothing": {"$eq": 1}}, "filter.nothing"),
        ({"custom_object_fields.nothing": {"$eq": 1}}, "filter.custom_object_fields.nothing"),
        ({"custom_object_fields": {"$exists": True}}, "filter.custom_object_fields"),
        ({"custom_object_fields.integer": {"$eq": "1"}}, "must be a number"),
        ({"custom_object_fields.integer": {"$eq": True}}, "must be a number"),
        ({"custom_object_fields.integer": {"$contains": 1}}, "$contains"),
        ({"custom_object_fields.date": {"$lt": "2024-02-30"}}, "must be a date"),
        ({"custom_object_fields.checkbox": {"$eq": "true"}}, "must be true or false"),
        ({"custom_object_fields.multiselect": {"$eq": ["red"]}}, "$eq"),
        ({"custom_object_fields.json": {"$eq": 1}}, "$eq"),
        ({"created_at": {"$gt": "yesterday"}}, "must be a time"),
        ({"created_at": {"$gt": "0001-01-01T00:00:00+23:59"}}, "must be a time"),
        ({"updated_at": {"$lt": "9999-12-31T23:59:59-23:59"}}, "must be a time"),
        ({"created_by_user_id": {"$eq": "me"}}, "must be the id of a user"),
        ({"$and": {}}, "filter.$and must be a list"),
        ({"$or": []}, "filter.$or must be a list"),
        ({"$and": [NAMED, {"$or": [{}]}]}, "filter.$and[1].$or[0]"),
        ({"$not": [NAMED]}, "filter.$not"),
        ({"$or": [NAMED] * 101}, "at most 100 comparisons"),
        ({"name'; drop table records; --": {"$eq": "x"}}, "no such field"),
    ],
)
async def test_a_filter_that_is_none_is_a_bad_request_that_names_the_place(
    api: Api, many: tuple[str, list[dict[str, Any]]], filter_: Any, said: str
) -> None:
    response = await search(api, many[0], filter_)
    assert (response.status_code, response.json()["error"]) == (400, "BadRequest")
    assert said in response.json()["description"]


async def test_more_values_than_a_list_may_have_are_refused_with_the_limit(
    api: Api, many: tuple[str, list[dict[str, Any]]]
) -> None:
    response = await search(api, many[0], {"name": {"$in": ["x"] * 101}})
    assert (response.status_code, response.json()["error"]) == (400, "TooManyValues")
    assert response.json()["max_count"] == 100


@pytest.mark.parametrize("number", ["1e400", "-1e999999", "1e-400", "1" + "0" * 40])
async def test_a_number_out_of_all_bounds_is_a_bad_request(
    api: Api, many: tuple[str, list[dict[str, Any]]], number: str
) -> None:
    content = f'{{"filter": {{"custom_object_fields.decimal": {{"$eq": {number}}}}}}}'
    response = await api.client.post(f"/custom_objects/{many[0]}/records/search", content=content)
    assert response.status_code == 400


@pytest.mark.parametrize("zero", ["0e3000000", "-0e3000000", "0e-3000000", "0.0e99999999", "-0"])
@pytest.mark.parametrize("field", ["decimal", "integer"])
async def test_zero_is_zero_whatever_its_exponent(
    api: Api, many: tuple[str, list[dict[str, Any]]], zero: str, field: str
) -> None:
    key = f"custom_object_fields.{field}"
    expected = ids(await search(api, many[0], {key: {"$eq": 0}}))
    assert expected
    for comparison in (f'"$eq": {zero}', f'"$gte": {zero}, "$lte": 0', f'"$in": [{zero}]'):
        content = f'{{"filter": {{"{key}": {{{comparison}}}}}}}'
        response = await api.client.post(f"/custom_objects/{many[0]}/records/search", content=content)
        assert ids(response) == expected


@pytest.mark.parametrize(
    "body",
    [None, {}, [], {"filter": None}, {"filter": NAMED, "page": []}, {"filter": NAMED, "page": {"size": 0}},
     {"filter": NAMED, "page": {"size": 101}}, {"filter": NAMED, "page": {"after": "x"}},
     {"filter": NAMED, "page": {"after": {}}}, {"filter": NAMED, "sort": "color"},
     {"filter": NAMED, "sort": 5.5}],
)  # fmt: skip
async def test_a_body_without_a_filter_or_with_a_bad_page_is_a_bad_request(
    api: Api, many: tuple[str, list[dict[str, Any]]], body: Any
) -> None:
    response = await api.client.post(f"/custom_objects/{many[0]}/records/search", json=body)
    assert response.status_code == 400


# Autocompletion


async def completed(api: Api, key: str, **query: Any) -> httpx.Response:
    return await api.client.get(f"/custom_objects/{key}/records/autocomplete", params=query)


async def test_a_name_is_completed_by_any_part_of_it_in_any_case(
    api: Api, many: tuple[str, list[dict[str, Any]]]
) -> None:
    key, records = many
    for part in ("stras", "A", "%", "_", "\\", "e\u0301", "' OR 1"):
        expected = [record["id"] for record in records if folded(part) in folded(record["name"])]
        assert expected
        assert ids(await completed(api, key, name=part)) == expected[:100]
    assert ids(await completed(api, key, name="none of them")) == []


@pytest.mark.parametrize("query", [{}, {"name": ""}, {"name": "", "organization_id": 1, "field_id": "x"}])
async def test_without_a_text_every_name_completes_it(
    api: Api, many: tuple[str, list[dict[str, Any]]], query: dict[str, Any]
) -> None:
    key, records = many
    assert ids(await completed(api, key, **query)) == [record["id"] for record in records][:100]


async def test_completions_are_paged_by_their_links(api: Api, many: tuple[str, list[dict[str, Any]]]) -> None:
    key, records = many
    found = await completed(api, key, name="STRASSE", sort="-id", **{"page[size]": 100})
    seen = ids(found)
    while following := found.json()["links"]["next"]:
        assert "name=STRASSE" in following
        found = await api.client.get(following)
        seen += ids(found)
    assert seen == [record["id"] for record in reversed(records) if "strasse" in folded(record["name"])]


async def test_searches_and_completions_say_how_many_are_on_the_page(
    api: Api, many: tuple[str, list[dict[str, Any]]]
) -> None:
    key, records = many
    root = f"/custom_objects/{key}/records"
    everything = {"filter": {"name": {"$exists": True}}}
    for size in (2, 100):
        pages = [
            await api.client.get(f"{root}/search?query=*&page[size]={size}"),
            await api.client.post(f"{root}/search?page[size]={size}", json=everything),
            await api.client.get(f"{root}/autocomplete?name=&page[size]={size}"),
        ]
        assert len(records) >= size
        for page in pages:
            answer = page.json()
            assert answer["count"] == len(answer["custom_object_records"]) == size
    nothing = await api.client.get(f"{root}/autocomplete?name=none of them")
    assert nothing.json()["count"] == 0
    assert "count" not in (await api.client.get(root)).json()


# Lookups


@pytest.fixture(scope="module")
async def family(api: Api) -> str:
    """Cars with an owner each, but for one; the owners are people whose names are unique."""
    people = await api.new_object(naming={"is_unique": True})
    cars = await api.new_object(
        {"key": "owner", "type": "lookup", "relationship_target_type": f"zen:custom_object:{people}"},
        {"key": "driver", "type": "lookup", "relationship_target_type": "zen:user"},
    )
    for number in (1, 2):
        record_of(await api.create(people, name=f"Ann {number}", external_id=f"P{number}"))
        owner = {"owner": f"external_id:P{number}", "driver": f"external_id:P{number}"}
        record_of(await api.create(cars, name=f"C{number}", custom_object_fields=owner))
    record_of(await api.create(cars, name="C3"))
    return cars


@pytest.mark.parametrize(
    ("comparison", "found"),
    [
        ({"$eq": "external_id:P1"}, ["C1"]),
        ({"$noteq": "external_id:P1"}, ["C2", "C3"]),
        ({"$eq": "name:ANN 2"}, ["C2"]),
        ({"$in": ["external_id:P1", "name:Ann 2", "nothing"]}, ["C1", "C2"]),
        ({"$notin": ["external_id:P1", "external_id:nobody"]}, ["C2", "C3"]),
        ({"$eq": "external_id:nobody"}, []),
        ({"$noteq": "name:nobody"}, ["C1", "C2", "C3"]),
        ({"$eq": "external_id:"}, []),
        ({"$in": []}, []),
    ],
)
async def test_a_lookup_is_compared_with_what_a_write_would_name(
    api: Api, family: str, comparison: dict[str, Any], found: list[str]
) -> None:
    response = await search(api, family, {"custom_object_fields.owner": comparison})
    assert [record["name"] for record in response.json()["custom_object_records"]] == found


async def test_a_lookup_that_points_outside_is_compared_as_text(api: Api, family: str) -> None:
    response = await search(api, family, {"custom_object_fields.driver": {"$eq": "external_id:P1"}})
    assert [record["name"] for record in response.json()["custom_object_records"]] == ["C1"]


async def test_a_lookup_names_nothing_of_another_account(api: Api, stranger: Api, family: str) -> None:
    target = (await api.client.get(f"/custom_objects/{family}/fields/owner")).json()
    people = target["custom_object_field"]["relationship_target_type"].removeprefix("zen:custom_object:")
    cars = await stranger.new_object(
        {"key": "owner", "type": "lookup", "relationship_target_type": f"zen:custom_object:{people}"}
    )
    response = await search(stranger, cars, {"custom_object_fields.owner": {"$eq": "external_id:P1"}})
    assert response.json()["custom_object_records"] == []


@pytest.mark.parametrize("operator", ["$eq", "$noteq", "$gt", "$in"])
@pytest.mark.parametrize(
    "day", ["20260203", "2026-W06-2", "2026W062", "2026-02-03T09:10:11Z", "2026-2-3", "\uff12026-02-03"]
)
async def test_a_day_of_another_form_is_a_bad_request_on_every_python(
    api: Api, operator: str, day: str
) -> None:
    key = await api.new_object({"key": "built", "type": "date"})
    operand = [day] if operator == "$in" else day
    response = await search(api, key, {"custom_object_fields.built": {operator: operand}})
    assert response.status_code == 400
    assert f"filter.custom_object_fields.built.{operator}" in response.json()["description"]


async def test_numbers_are_compared_by_value_however_they_are_written(api: Api) -> None:
    key = await api.new_object({"key": "year", "type": "integer"})
    await api.create(key, name="a", custom_object_fields={"year": 2026})
    place = "custom_object_fields.year"
    filters_ = (
        '{"%s": {"$eq": 2026.0}}', '{"%s": {"$in": [2.026e3]}}', '{"%s": {"$gt": 2025.5, "$lt": 2026.5}}',
    )  # fmt: skip
    for filter_ in filters_:
        content = f'{{"filter": {filter_ % place}, "page": {{"size": 10.0}}}}'
        response = await api.client.post(f"/custom_objects/{key}/records/search", content=content)
        assert [record["name"] for record in response.json()["custom_object_records"]] == ["a"], filter_
    user = await search(api, key, {"created_by_user_id": {"$eq": float(await created_by(api, key))}})
    assert len(user.json()["custom_object_records"]) == 1


async def created_by(api: Api, key: str) -> str:
    (record,) = await api.records(key)
    user: str = record["created_by_user_id"]
    return user


@pytest.mark.parametrize(
    "end", ["t09:10:11z", "T09:10:11+0000", "T23:59:60Z", "T09:10:11.123456789012Z", " 09:10:11 +0000", "T09"]
)
async def test_a_time_of_a_filter_is_written_as_that_of_a_date_field(api: Api, end: str) -> None:
    key = await api.new_object({"key": "built", "type": "date"})
    made = await api.create(key, name="a", custom_object_fields={"built": f"2026-02-03{end}"})
    assert record_of(made)["custom_object_fields"] == {"built": "2026-02-03"}
    for operator, count in (("$gt", 1), ("$lt", 0), ("$eq", 0)):
        response = await search(api, key, {"created_at": {operator: f"2026-02-03{end}"}})
        assert len(response.json()["custom_object_records"]) == count, response.text


@pytest.mark.parametrize("time", ["2026-02-03T24:00:00Z", "20260203T091011Z", "2026-02-03T25:00Z"])
async def test_a_time_of_another_form_is_a_bad_request_on_every_python(api: Api, time: str) -> None:
    key = await api.new_object()
    response = await search(api, key, {"created_at": {"$gt": time}})
    assert response.status_code == 400
