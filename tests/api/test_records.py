"""Records over HTTP: the upsert table of docs/api.md row by row, then create, show, update, delete."""

import unicodedata
from typing import Any

import pytest

from tests.support.harness import Api, problems_of, record_of

YEAR = {"key": "year", "type": "integer"}
COLOR = {"key": "color", "type": "text"}
UNIQUE = {"is_unique": True}
NUMBERED = {
    "autoincrement_enabled": True,
    "autoincrement_prefix": "CAR-",
    "autoincrement_padding": 4,
    "autoincrement_next_sequence": 7,
}
NAME_TAKEN = "Name already exists. Try another one."


async def _count(api: Api, key: str) -> int:
    value: int = (await api.client.get(f"/custom_objects/{key}/records/count")).json()["count"]["value"]
    return value


# Row 1
async def test_an_unknown_external_id_with_a_name_is_created_and_answered_with_200(api: Api) -> None:
    key = await api.new_object(YEAR)
    response = await api.upsert(
        key, {"name": "Ford", "custom_object_fields": {"year": 1999}}, external_id="v1"
    )
    assert response.status_code == 200
    assert response.headers["Upsert-Result"] == "created"
    record = record_of(response)
    assert response.headers["Location"].endswith(f"/custom_objects/{key}/records/{record['id']}")
    assert (record["name"], record["external_id"]) == ("Ford", "v1")
    assert record["custom_object_fields"] == {"year": 1999}


# Row 2
async def test_a_known_external_id_changes_only_what_is_sent(api: Api) -> None:
    key = await api.new_object(YEAR, COLOR)
    both = {"year": 1, "color": "red"}
    first = record_of(await api.upsert(key, {"name": "Ford", "custom_object_fields": both}, external_id="v1"))
    response = await api.upsert(key, {"custom_object_fields": {"year": 2}}, external_id="v1")
    second = record_of(response)
    assert response.headers["Upsert-Result"] == "updated"
    assert "Location" not in response.headers
    assert second == first | {
        "custom_object_fields": {"year": 2, "color": "red"},
        "updated_at": second["updated_at"],
    }


# Row 3
@pytest.mark.parametrize("query", [{"external_id": "a", "name": "b"}, {}, {"external_id": "", "name": ""}])
async def test_both_identifiers_or_neither_is_a_bad_request(api: Api, query: dict[str, Any]) -> None:
    key = await api.new_object(naming=UNIQUE)
    response = await api.upsert(key, {"name": "b"}, **query)
    assert (response.status_code, response.json()["error"]) == (400, "BadRequest")
    assert "external_id" in response.json()["description"]
    assert await _count(api, key) == 0


# Row 4
async def test_an_empty_identifier_counts_as_absent(api: Api) -> None:
    key = await api.new_object(naming=UNIQUE)
    assert (
        record_of(await api.upsert(key, {"name": "Ford"}, external_id="x-1", name=""))["external_id"] == "x-1"
    )
    assert record_of(await api.upsert(key, {}, external_id="", name="Ford"))["external_id"] == "x-1"


# Row 5
@pytest.mark.parametrize(
    "query", ["external_id=a&external_id=b", "external_id=a&external_id=a", "name=a&name="]
)
async def test_an_identifier_given_twice_is_a_bad_request(api: Api, query: str) -> None:
    key = await api.new_object(naming=UNIQUE)
    url = f"/custom_objects/{key}/records?{query}"
    response = await api.client.patch(url, json={"custom_object_record": {"name": "a"}})
    assert response.status_code == 400
    assert "twice" in response.json()["description"]


# Row 6
async def test_a_name_that_need_not_be_unique_finds_no_record(api: Api) -> None:
    key = await api.new_object()
    problems = problems_of(await api.upsert(key, {}, name="Ford"))
    assert "uniqueness must be turned on" in problems["base"][0]


# Row 7
async def test_an_unknown_unique_name_is_created(api: Api) -> None:
    key = await api.new_object(YEAR, naming=UNIQUE)
    response = await api.upsert(key, {"custom_object_fields": {"year": 3}}, name="Ford")
    assert response.headers["Upsert-Result"] == "created"
    assert (record_of(response)["name"], record_of(response)["external_id"]) == ("Ford", None)


# Row 8
@pytest.mark.parametrize("repeated", ["v1", None])
async def test_the_body_may_repeat_the_external_id_or_send_null(api: Api, repeated: str | None) -> None:
    key = await api.new_object()
    for name in ("created", "updated"):
        record = record_of(await api.upsert(key, {"name": name, "external_id": repeated}, external_id="v1"))
        assert (record["external_id"], record["name"]) == ("v1", name)


@pytest.mark.parametrize("repeated", ["Ford", None])
async def test_the_body_may_repeat_the_name_or_send_null(api: Api, repeated: str | None) -> None:
    key = await api.new_object(naming=UNIQUE)
    for outcome in ("created", "unchanged"):
        response = await api.upsert(key, {"name": repeated}, name="Ford")
        assert (record_of(response)["name"], response.headers["Upsert-Result"]) == ("Ford", outcome)


# Row 9
@pytest.mark.parametrize("taken", [True, False])
async def test_an_external_id_that_differs_from_the_query_is_refused(api: Api, taken: bool) -> None:
    key = await api.new_object()
    await api.upsert(key, {"name": "one"}, external_id="v1")
    if taken:
        await api.upsert(key, {"name": "two"}, external_id="v2")
    for identifier in ("v1", "new"):
        response = await api.upsert(key, {"name": "x", "external_id": "v2"}, external_id=identifier)
        assert list(problems_of(response)) == ["external_id"]
    assert await _count(api, key) == 1 + taken


@pytest.mark.parametrize("taken", [True, False])
async def test_a_name_that_differs_from_the_query_is_refused(api: Api, taken: bool) -> None:
    key = await api.new_object(naming=UNIQUE)
    await api.upsert(key, {}, name="one")
    if taken:
        await api.upsert(key, {}, name="two")
    for identifier in ("one", "new"):
        assert list(problems_of(await api.upsert(key, {"name": "two"}, name=identifier))) == ["name"]
    assert await _count(api, key) == 1 + taken


async def test_the_same_name_in_another_spelling_re_spells_it_and_the_query_alone_does_not(api: Api) -> None:
    key = await api.new_object(naming=UNIQUE)
    first = record_of(await api.upsert(key, {"name": "Straße"}, name="STRASSE"))
    assert first["name"] == "Straße"
    assert record_of(await api.upsert(key, {}, name="strasse")) == first
    again = record_of(await api.upsert(key, {"name": "Strasse"}, name="STRASSE"))
    assert (again["id"], again["name"]) == (first["id"], "Strasse")


# Row 10
async def test_an_upsert_by_name_sets_the_external_id_unless_another_record_has_it(api: Api) -> None:
    key = await api.new_object(naming=UNIQUE)
    await api.upsert(key, {"name": "other"}, external_id="taken")
    assert record_of(await api.upsert(key, {"external_id": "e1"}, name="A"))["external_id"] == "e1"
    assert record_of(await api.upsert(key, {"external_id": "e2"}, name="A"))["external_id"] == "e2"
    for name in ("A", "new"):
        problems = problems_of(await api.upsert(key, {"external_id": "taken"}, name=name))
        assert list(problems) == ["external_id"]
    assert await _count(api, key) == 2


# Row 11
async def test_a_creation_by_external_id_needs_a_name(api: Api) -> None:
    key = await api.new_object()
    assert problems_of(await api.upsert(key, {}, external_id="v1")) == {"name": ["Name cannot be blank"]}
    assert await _count(api, key) == 0


# Row 12
async def test_an_update_without_a_name_leaves_it(api: Api) -> None:
    key = await api.new_object(YEAR)
    await api.upsert(key, {"name": "Ford"}, external_id="v1")
    for name in ({}, {"name": None}):
        record = record_of(
            await api.upsert(key, {**name, "custom_object_fields": {"year": 1}}, external_id="v1")
        )
        assert record["name"] == "Ford"


# Row 13
async def test_an_autonumbered_name_cannot_be_set_but_null_is_tolerated(api: Api) -> None:
    key = await api.new_object(naming=NUMBERED)
    for identifier in ("v1", "v1"):
        assert list(problems_of(await api.upsert(key, {"name": "mine"}, external_id=identifier))) == ["name"]
        assert record_of(await api.upsert(key, {"name": None}, external_id=identifier))["name"] == "CAR-0007"


# Row 14
async def test_a_creation_in_an_autonumbered_object_takes_the_next_number(api: Api) -> None:
    key = await api.new_object(naming=NUMBERED)
    names = [record_of(await api.upsert(key, {}, external_id=f"v{n}"))["name"] for n in range(3)]
    names += [record_of(await api.create(key))["name"]]
    assert names == ["CAR-0007", "CAR-0008", "CAR-0009", "CAR-0010"]


async def test_a_number_longer_than_the_padding_is_kept_whole(api: Api) -> None:
    key = await api.new_object(
        naming={"autoincrement_enabled": True, "autoincrement_padding": 2, "autoincrement_next_sequence": 99}
    )
    names = [record_of(await api.upsert(key, {}, external_id=f"v{n}"))["name"] for n in range(2)]
    assert names == ["99", "100"]


async def test_updates_retries_and_refusals_burn_no_number(api: Api) -> None:
    key = await api.new_object({**YEAR, "required": True}, naming=NUMBERED)
    good = {"custom_object_fields": {"year": 1}}
    assert record_of(await api.upsert(key, good, external_id="v1"))["name"] == "CAR-0007"
    await api.upsert(key, good, external_id="v1")
    await api.upsert(key, good, external_id="v2", dry_run="true")
    assert problems_of(await api.upsert(key, {}, external_id="v3"))
    assert record_of(await api.upsert(key, good, external_id="v4"))["name"] == "CAR-0008"


# Row 15
async def test_a_taken_unique_name_is_refused_in_the_words_that_clients_match(api: Api) -> None:
    key = await api.new_object(naming=UNIQUE)
    await api.upsert(key, {"name": "Ford"}, external_id="v1")
    await api.upsert(key, {"name": "Fiat"}, external_id="v2")
    for identifier in ("v2", "v3"):
        response = await api.upsert(key, {"name": "fORD"}, external_id=identifier)
        assert problems_of(response) == {"base": [NAME_TAKEN]}
    assert await _count(api, key) == 2


# Row 16
async def test_external_ids_are_compared_exactly(api: Api) -> None:
    key = await api.new_object()
    composed, decomposed = "é", unicodedata.normalize("NFD", "é")
    for external_id in ("a", "A", " a", composed, decomposed):
        response = await api.upsert(key, {"name": "x"}, external_id=external_id)
        assert response.headers["Upsert-Result"] == "created"
        assert record_of(response)["external_id"] == external_id


# Row 17
@pytest.mark.parametrize(
    ("stored", "asked", "is_same"),
    [
        ("Straße", "STRASSE", True),
        ("é", unicodedata.normalize("NFD", "é"), True),
        ("ΣΊΣΥΦΟΣ", "σίσυφος", True),
        ("ﬁn", "FIN", True),
        ("ᾳ", "ΑΙ", True),
        ("K", "k", True),  # the Kelvin sign
        ("東京", "東京", True),
        ("مرحبا", "مرحبا", True),
        ("Ford", "Ford ", False),
        ("a\u200bb", "ab", False),
        ("①", "1", False),
    ],
)
async def test_unique_names_are_compared_by_casefold_and_composition(
    api: Api, stored: str, asked: str, is_same: bool
) -> None:
    key = await api.new_object(naming=UNIQUE)
    first = record_of(await api.upsert(key, {}, name=stored))
    second = record_of(await api.upsert(key, {}, name=asked))
    assert first["name"] == stored
    assert (second["id"] == first["id"]) is is_same


# Row 18
async def test_null_clears_a_field_unless_it_is_required(api: Api) -> None:
    key = await api.new_object({**YEAR, "required": True}, COLOR)
    fields = {"year": 1, "color": "red"}
    await api.upsert(key, {"name": "Ford", "custom_object_fields": fields}, external_id="v1")
    cleared = await api.upsert(key, {"custom_object_fields": {"color": None}}, external_id="v1")
    assert record_of(cleared)["custom_object_fields"] == {"year": 1, "color": None}
    refused = await api.upsert(key, {"custom_object_fields": {"year": None}}, external_id="v1")
    assert problems_of(refused) == {"year": ["year cannot be blank"]}


# Row 19
async def test_a_required_field_is_validated_on_the_resulting_record(api: Api) -> None:
    key = await api.new_object(YEAR, COLOR)
    refusable = {"name": "Ford", "custom_object_fields": {"color": "red"}}
    await api.upsert(key, refusable, external_id="old")
    await api.client.patch(
        f"/custom_objects/{key}/fields/year", json={"custom_object_field": {"required": True}}
    )
    for identifier in ("new", "old"):
        response = await api.upsert(key, {**refusable, "name": "Fiat"}, external_id=identifier)
        assert problems_of(response) == {"year": ["year cannot be blank"]}
    whole = await api.upsert(key, {"custom_object_fields": {"year": 1}}, external_id="old")
    assert record_of(whole)["name"] == "Ford"
    part = await api.upsert(key, {"custom_object_fields": {"color": "blue"}}, external_id="old")
    assert record_of(part)["custom_object_fields"] == {"year": 1, "color": "blue"}


# Row 20
@pytest.mark.parametrize(
    "record", [{}, {"name": "Ford"}, {"custom_object_fields": {"year": 1, "color": None}}]
)
async def test_a_write_that_changes_nothing_says_so_and_leaves_the_record(api: Api, record: Any) -> None:
    key = await api.new_object(YEAR, COLOR)
    body = {"name": "Ford", "custom_object_fields": {"year": 1}}
    first = record_of(await api.upsert(key, body, external_id="v1"))
    async with api.running.sql() as connection:
        before = await connection.fetchrow("select * from records where record_id = $1", first["id"])
        response = await api.upsert(key, record, external_id="v1")
        after = await connection.fetchrow("select * from records where record_id = $1", first["id"])
    assert response.headers["Upsert-Result"] == "unchanged"
    assert record_of(response) == first
    assert after == before


async def test_a_decimal_of_another_precision_is_a_change(api: Api) -> None:
    key = await api.new_object({"key": "price", "type": "decimal"})
    for sent, outcome in (("1.0", "created"), ("1.00", "updated"), ("1.00", "unchanged")):
        body = f'{{"custom_object_record": {{"name": "x", "custom_object_fields": {{"price": {sent}}}}}}}'
        response = await api.client.patch(f"/custom_objects/{key}/records?external_id=v1", content=body)
        assert (response.headers["Upsert-Result"], f'"price": {sent}}}' in response.text) == (outcome, True)
        assert f'"price": {sent}}}' in (await api.client.get(f"/custom_objects/{key}/records")).text


# Row 21: tests/races


# Row 22
@pytest.mark.parametrize("body", [{}, {"custom_object_record": {}}])
async def test_an_empty_patch_changes_nothing_or_creates_by_name(api: Api, body: Any) -> None:
    key = await api.new_object(naming=UNIQUE)
    for outcome in ("created", "unchanged"):
        response = await api.client.patch(f"/custom_objects/{key}/records?name=Ford", json=body)
        assert (response.status_code, response.headers["Upsert-Result"]) == (200, outcome)


@pytest.mark.parametrize(
    "body", ["", "[]", "null", '"x"', '{"name": "Ford"}', '{"custom_object_record": null}']
)
async def test_a_forgotten_wrapper_is_a_bad_request_that_names_it(api: Api, body: str) -> None:
    key = await api.new_object(naming=UNIQUE)
    response = await api.client.patch(f"/custom_objects/{key}/records?name=Ford", content=body)
    assert (response.status_code, response.json()["error"]) == (400, "BadRequest")
    assert "custom_object_record" in response.json()["description"] or not body
    assert await _count(api, key) == 0


# Row 23
async def test_a_deleted_records_identifier_makes_a_new_record(api: Api) -> None:
    key = await api.new_object(YEAR, naming=UNIQUE)
    body = {"name": "Ford", "custom_object_fields": {"year": 1}}
    first = record_of(await api.upsert(key, body, external_id="v1"))
    assert (await api.client.delete(f"/custom_objects/{key}/records?external_id=v1")).status_code == 204
    second = await api.upsert(key, {"name": "Ford"}, external_id="v1")
    assert second.headers["Upsert-Result"] == "created"
    assert record_of(second)["id"] != first["id"]
    assert record_of(second)["custom_object_fields"] == {"year": None}


# Row 24
async def test_an_unknown_object_is_not_found(api: Api) -> None:
    response = await api.upsert("no_such_object", {"name": "x"}, external_id="v1")
    assert response.status_code == 404
    assert response.json() == {"error": "RecordNotFound", "description": "Not found"}


# Row 25
async def test_a_dry_run_answers_alike_and_writes_nothing(api: Api) -> None:
    key = await api.new_object(YEAR, naming=NUMBERED)
    planned = await api.upsert(key, {"custom_object_fields": {"year": 1}}, external_id="v1", dry_run="true")
    assert planned.headers["Upsert-Result"] == "created"
    assert await _count(api, key) == 0
    made = record_of(await api.upsert(key, {"custom_object_fields": {"year": 1}}, external_id="v1"))
    own = dict.fromkeys(("id", "url", "created_at", "updated_at"), "")  # the second may have changed between
    assert {**record_of(planned), **own} == {**made, **own}
    planned = await api.upsert(key, {"custom_object_fields": {"year": 2}}, external_id="v1", dry_run="true")
    assert planned.headers["Upsert-Result"] == "updated"
    assert record_of(planned)["custom_object_fields"] == {"year": 2}
    assert (await api.records(key)) == [made]


async def test_a_dry_run_meets_the_same_errors(api: Api) -> None:
    key = await api.new_object(YEAR, naming=UNIQUE)
    await api.upsert(key, {}, name="Ford")
    taken = await api.upsert(key, {"name": "Ford"}, external_id="v1", dry_run="true")
    assert problems_of(taken) == {"base": [NAME_TAKEN]}
    wrong = await api.upsert(key, {"custom_object_fields": {"year": "x"}}, name="Ford", dry_run="true")
    assert list(problems_of(wrong)) == ["year"]
    bad = await api.upsert(key, {}, name="Ford", dry_run="perhaps")
    assert bad.status_code == 400


# Create, show, update, delete


async def test_a_post_creates_a_record_and_answers_201_with_every_key(api: Api) -> None:
    key = await api.new_object(YEAR)
    response = await api.create(key, name="Ford", external_id="v1")
    assert response.status_code == 201
    record = record_of(response)
    assert set(record) == {
        "url", "id", "name", "external_id", "custom_object_key", "custom_object_fields", "photo",
        "created_at", "updated_at", "created_by_user_id", "updated_by_user_id",
    }  # fmt: skip
    assert record["created_by_user_id"].isdecimal()
    assert record["updated_by_user_id"].isdecimal()
    assert (record["custom_object_key"], record["photo"]) == (key, None)
    shown = await api.client.get(f"/custom_objects/{key}/records/{record['id']}")
    assert record_of(shown) == record


@pytest.mark.parametrize(
    ("record", "field"),
    [({}, "name"), ({"name": " "}, "name"), ({"name": "x", "external_id": "taken"}, "external_id")],
)
async def test_a_post_that_breaks_a_rule_creates_nothing(api: Api, record: Any, field: str) -> None:
    key = await api.new_object()
    await api.create(key, name="first", external_id="taken")
    assert list(problems_of(await api.create(key, **record))) == [field]
    assert await _count(api, key) == 1


@pytest.mark.parametrize("external_id", [None, ""])
async def test_an_empty_external_id_is_no_external_id(api: Api, external_id: str | None) -> None:
    key = await api.new_object()
    for _ in range(2):
        assert record_of(await api.create(key, name="x", external_id=external_id))["external_id"] is None


async def test_a_patch_by_id_renames_and_re_keys(api: Api) -> None:
    key = await api.new_object(YEAR, naming=UNIQUE)
    record = record_of(await api.create(key, name="Ford", external_id="v1"))
    url = f"/custom_objects/{key}/records/{record['id']}"
    changes = {"name": "Fiat", "external_id": "v2", "custom_object_fields": {"year": 1}}
    changed = record_of(await api.client.patch(url, json={"custom_object_record": changes}))
    assert (changed["name"], changed["external_id"], changed["id"]) == ("Fiat", "v2", record["id"])
    assert (await api.upsert(key, {}, name="Ford")).headers["Upsert-Result"] == "created"
    assert record_of(await api.upsert(key, {}, external_id="v2"))["id"] == record["id"]
    taken = await api.client.patch(url, json={"custom_object_record": {"name": "FORD"}})
    assert problems_of(taken) == {"base": [NAME_TAKEN]}


async def test_a_whole_record_can_be_sent_back_as_it_was_read(api: Api) -> None:
    key = await api.new_object(YEAR)
    record = record_of(await api.create(key, name="Ford", custom_object_fields={"year": 1}))
    url = f"/custom_objects/{key}/records/{record['id']}"
    response = await api.client.patch(url, json={"custom_object_record": record})
    assert response.headers["Upsert-Result"] == "unchanged"
    assert "created_by_user_id" in response.headers["X-Zendesk-API-Warn"]
    assert record_of(response) == record


async def test_a_standard_attribute_among_the_fields_is_ignored_with_a_warning(api: Api) -> None:
    key = await api.new_object(YEAR)
    fields = {"name": "Fiat", "external_id": "x", "year": 1}
    response = await api.create(key, name="Ford", custom_object_fields=fields)
    assert record_of(response)["name"] == "Ford"
    assert (
        response.headers["X-Zendesk-API-Warn"]
        == 'Removed restricted keys ["name", "external_id"] from parameters'
    )


async def test_a_field_called_like_a_standard_attribute_is_a_field(api: Api) -> None:
    key = await api.new_object({"key": "name", "type": "text"})
    record = record_of(await api.create(key, name="Ford", custom_object_fields={"name": "inner"}))
    assert record["custom_object_fields"] == {"name": "inner"}


@pytest.mark.parametrize("query", ["external_id=v1", "name=FORD", "external_id=&name=ford"])
async def test_a_record_is_deleted_by_its_identifier_once(api: Api, query: str) -> None:
    key = await api.new_object(naming=UNIQUE)
    await api.create(key, name="Ford", external_id="v1")
    url = f"/custom_objects/{key}/records?{query}"
    assert [(await api.client.delete(url)).status_code for _ in range(2)] == [204, 404]
    assert await _count(api, key) == 0


async def test_a_delete_by_a_name_that_need_not_be_unique_is_refused(api: Api) -> None:
    key = await api.new_object()
    await api.create(key, name="Ford")
    response = await api.client.delete(f"/custom_objects/{key}/records?name=Ford")
    assert "uniqueness must be turned on" in problems_of(response)["base"][0]


async def test_a_deleted_record_leaves_a_tombstone(api: Api) -> None:
    key = await api.new_object()
    record = record_of(await api.create(key, name="Ford", external_id="v1"))
    assert (await api.client.delete(f"/custom_objects/{key}/records/{record['id']}")).status_code == 204
    async with api.running.sql() as connection:
        row = await connection.fetchrow("select * from tombstones where record_id = $1", record["id"])
    assert (row["name"], row["external_id"]) == ("Ford", "v1")


async def test_a_merged_record_over_32_kb_is_refused_by_the_statement_that_writes_it(api: Api) -> None:
    key = await api.new_object({"key": "a", "type": "textarea"}, {"key": "b", "type": "textarea"})
    half = "é" * 8_000
    first = record_of(
        await api.upsert(key, {"name": "x", "custom_object_fields": {"a": half}}, external_id="v1")
    )
    too_much = await api.upsert(key, {"custom_object_fields": {"b": half + "é" * 500}}, external_id="v1")
    assert "32 KB" in problems_of(too_much)["base"][0]
    assert (await api.records(key)) == [first]
    enough = await api.upsert(key, {"custom_object_fields": {"b": half}}, external_id="v1")
    assert enough.headers["Upsert-Result"] == "updated"


async def test_a_creation_is_validated_by_its_size_as_strictly_as_the_next_update(api: Api) -> None:
    naming = {"autoincrement_enabled": True, "autoincrement_prefix": "🚗" * 30}
    key = await api.new_object({"key": "a", "type": "textarea"}, naming=naming)
    body = {"custom_object_fields": {"a": "x" * 32_660}}
    assert problems_of(await api.upsert(key, body, external_id="v1"))
    body = {"custom_object_fields": {"a": "x" * 32_600}}
    outcomes = [(await api.upsert(key, body, external_id="v1")).headers["Upsert-Result"] for _ in range(2)]
    assert outcomes == ["created", "unchanged"]


@pytest.mark.parametrize("attribute", ["name", "external_id"])
@pytest.mark.parametrize(
    ("text", "is_good"), [("x" * 255, True), ("x" * 256, False), ("e\u0301" * 255, True), ("🚗" * 255, True)]
)
async def test_names_and_external_ids_have_at_most_255_characters_once_composed(
    api: Api, attribute: str, text: str, is_good: bool
) -> None:
    key = await api.new_object(naming=UNIQUE)
    response = await api.create(key, **{"name": "x", attribute: text})
    assert response.status_code == (201 if is_good else 422)
    if not is_good:
        assert list(problems_of(response)) == [attribute]
    identifier: dict[str, Any] = {attribute: text}
    asked = await api.upsert(key, {"name": text if attribute == "name" else "y"}, **identifier)
    assert asked.status_code == (200 if is_good else 422)


async def test_another_account_cannot_see_write_or_delete_a_record(api: Api, stranger: Api) -> None:
    key = await api.new_object(naming=UNIQUE)
    await stranger.new_object(naming=UNIQUE, key=key)
    record = record_of(await api.create(key, name="Ford", external_id="v1"))
    url = f"/custom_objects/{key}/records/{record['id']}"
    patch = {"custom_object_record": {"name": "stolen"}}
    missing = await stranger.client.get(f"/custom_objects/{key}/records/{'0' * 26}")
    for response in (
        await stranger.client.get(url),
        await stranger.client.patch(url, json=patch),
        await stranger.client.delete(url),
        await stranger.client.delete(f"/custom_objects/{key}/records?external_id=v1"),
    ):
        assert (response.status_code, response.content) == (404, missing.content)
    assert (await stranger.upsert(key, {}, name="Ford")).headers["Upsert-Result"] == "created"
    assert await api.records(key) == [record]


@pytest.mark.parametrize("blank", [" ", "  ", "\u200b"])
async def test_an_external_id_of_blanks_alone_is_one_as_any_other(api: Api, blank: str) -> None:
    key = await api.new_object()
    made = record_of(await api.upsert(key, {"name": "x"}, external_id=blank))
    assert made["external_id"] == blank
    assert record_of(await api.upsert(key, {"name": "y"}, external_id=blank))["id"] == made["id"]
