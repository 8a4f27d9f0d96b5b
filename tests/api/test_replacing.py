"""PUT over HTTP beside PATCH: what is left out becomes null, the strategies, what is never lost."""

import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from tests.support.every_type import definitions
from tests.support.harness import Api, problems_of, record_of

UNIQUE = {"is_unique": True}
NUMBERED = {"autoincrement_enabled": True, "autoincrement_prefix": "CAR-", "autoincrement_padding": 4}
YEAR, COLOR = {"key": "year", "type": "integer"}, {"key": "color", "type": "text"}
DOC = {"key": "doc", "type": "json"}
# of each type two values; those of the lookup are made when there is a target
TYPES: Mapping[str, tuple[Any, Any]] = {
    "text": ("a", "b"),
    "textarea": ("a\nb", "c"),
    "regexp": ("aaa", "a"),
    "checkbox": (True, False),
    "date": ("2024-02-29", "2026-01-01"),
    "integer": (1, 0),
    "decimal": (1.5, 7),
    "dropdown": ("red", "1"),
    "multiselect": (["red"], ["1", "red"]),
    "json": ({"a": {"b": 1}}, [None]),
    "lookup": ("", ""),
}


async def put(
    api: Api, key: str, record: Mapping[str, Any], *, record_id: str = "", **query: Any
) -> httpx.Response:
    """PUT …/records/{record_id} or …/records?{query} with the record wrapped."""
    path = f"/custom_objects/{key}/records" + (f"/{record_id}" if record_id else "")
    return await api.client.put(path, params=query, json={"custom_object_record": record})


async def show(api: Api, key: str, record_id: str) -> dict[str, Any]:
    return record_of(await api.client.get(f"/custom_objects/{key}/records/{record_id}"))


def fields_of(response: httpx.Response) -> dict[str, Any]:
    fields: dict[str, Any] = record_of(response)["custom_object_fields"]
    return fields


async def count(api: Api, key: str) -> int:
    return len(await api.records(key))


@pytest.fixture(scope="module")
async def typed(api: Api) -> tuple[str, Mapping[str, tuple[Any, Any]]]:
    """An object with a field of each type, called by it, and two values of each."""
    target = await api.new_object()
    targets = [record_of(await api.create(target, name=name))["id"] for name in "ab"]
    lookup = {"relationship_target_type": f"zen:custom_object:{target}"}
    key = await api.new_object(*definitions(TYPES, lookup=lookup))
    return key, {**TYPES, "lookup": (targets[0], targets[1])}


# PUT beside PATCH


@pytest.mark.parametrize("kind", TYPES)
async def test_a_field_left_out_becomes_null_by_put_and_stays_by_patch(
    api: Api, typed: tuple[str, Mapping[str, tuple[Any, Any]]], kind: str
) -> None:
    key, values = typed
    before = {name: value for name, (value, _) in values.items()}
    other = "text" if kind != "text" else "integer"
    sent = {"custom_object_fields": {other: values[other][1]}}
    made = await api.upsert(key, {"name": "x", "custom_object_fields": before}, external_id=kind)
    assert fields_of(made) == before
    patched = await api.upsert(key, sent, external_id=kind)
    assert fields_of(patched) == {**before, other: values[other][1]}
    replaced = await put(api, key, sent, external_id=kind)
    assert replaced.headers["Upsert-Result"] == "updated"
    assert fields_of(replaced) == {**dict.fromkeys(TYPES), other: values[other][1]}
    assert await show(api, key, record_of(made)["id"]) == record_of(replaced)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("strategy", ["force", "merge", "replace"])
async def test_a_value_is_set_and_cleared_by_put_with_any_strategy(
    api: Api, typed: tuple[str, Mapping[str, tuple[Any, Any]]], kind: str, strategy: str
) -> None:
    key, values = typed
    first, second = values[kind]
    if kind == "json":
        second = {"a": {"b": 2}}  # of one type with the first
    for value, outcome in ((first, "created"), (first, "unchanged"), (second, "updated"), (None, "updated")):
        sent = {"name": "x", "custom_object_fields": {kind: value}}
        response = await put(api, key, sent, external_id=f"{kind} {strategy}", strategy=strategy)
        assert (response.status_code, response.headers["Upsert-Result"]) == (200, outcome)
        assert fields_of(response) == {**dict.fromkeys(TYPES), kind: value}


@pytest.mark.parametrize("kind", sorted(TYPES.keys() - {"json"}))
async def test_a_value_of_a_wrong_type_is_refused_and_nothing_is_replaced(
    api: Api, typed: tuple[str, Mapping[str, tuple[Any, Any]]], kind: str
) -> None:
    key, _ = typed
    made = record_of(
        await api.upsert(key, {"name": "x", "custom_object_fields": {"text": "kept"}}, external_id="wrong")
    )
    response = await put(api, key, {"custom_object_fields": {kind: {"a": 1}}}, external_id="wrong")
    assert list(problems_of(response)) == [kind]
    assert await show(api, key, made["id"]) == made


@pytest.mark.parametrize("empty", [{}, {"custom_object_fields": {}}, {"custom_object_fields": None}])
async def test_an_empty_record_clears_every_field_and_no_identifier(api: Api, empty: Any) -> None:
    key = await api.new_object(YEAR, COLOR)
    both = {"year": 1, "color": "red"}
    made = record_of(await api.upsert(key, {"name": "Ford", "custom_object_fields": both}, external_id="v1"))
    for query in ({"external_id": "v1"}, {"record_id": made["id"]}):
        await api.upsert(key, {"custom_object_fields": both}, external_id="v1")
        record = record_of(await put(api, key, empty, **query))
        assert record["custom_object_fields"] == {"year": None, "color": None}
        assert (record["name"], record["external_id"], record["id"]) == ("Ford", "v1", made["id"])


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b'{"name": "x"}', b'{"custom_object_record": null}', b"null"]
)
async def test_a_body_without_its_record_is_refused_and_replaces_nothing(api: Api, body: bytes) -> None:
    key = await api.new_object(YEAR)
    made = record_of(
        await api.upsert(key, {"name": "Ford", "custom_object_fields": {"year": 1}}, external_id="v1")
    )
    response = await api.client.put(f"/custom_objects/{key}/records?external_id=v1", content=body)
    assert response.status_code == 400
    assert await show(api, key, made["id"]) == made


# Identifiers


async def test_by_its_id_a_record_is_replaced_and_never_created(api: Api) -> None:
    key = await api.new_object(YEAR)
    response = await put(api, key, {"name": "Ford"}, record_id="0" * 26)
    assert (response.status_code, response.json()["error"]) == (404, "RecordNotFound")
    assert (await put(api, key, {"name": "Ford"}, record_id="nonsense")).status_code == 404
    assert await count(api, key) == 0
    made = record_of(await api.create(key, name="Ford", custom_object_fields={"year": 1}))
    response = await put(api, key, {"name": "Fiat"}, record_id=made["id"])
    assert record_of(response)["name"] == "Fiat"
    assert fields_of(response) == {"year": None}
    assert "Location" not in response.headers


@pytest.mark.parametrize("by", ["external_id", "name"])
async def test_by_external_id_or_unique_name_a_missing_record_is_created(api: Api, by: str) -> None:
    key = await api.new_object(YEAR, naming=UNIQUE)
    for outcome in ("created", "unchanged", "unchanged"):
        sent = {"name": "new", "custom_object_fields": {"year": 1}}
        response = await put(api, key, sent, **{by: "new"})
        assert (response.status_code, response.headers["Upsert-Result"]) == (200, outcome)
        assert ("Location" in response.headers) == (outcome == "created")
    assert await count(api, key) == 1


@pytest.mark.parametrize("query", [{}, {"external_id": "a", "name": "b"}])
async def test_a_put_needs_exactly_one_identifier(api: Api, query: dict[str, str]) -> None:
    key = await api.new_object(naming=UNIQUE)
    assert (await put(api, key, {"name": "b"}, **query)).status_code == 400


async def test_names_that_need_not_be_unique_find_nothing_to_replace(api: Api) -> None:
    key = await api.new_object()
    assert list(problems_of(await put(api, key, {}, name="Ford"))) == ["base"]


async def test_identifiers_that_differ_from_the_query_are_refused(api: Api) -> None:
    key = await api.new_object(naming=UNIQUE)
    response = await put(api, key, {"name": "a", "external_id": "v2"}, external_id="v1")
    assert list(problems_of(response)) == ["external_id"]
    assert list(problems_of(await put(api, key, {"name": "b"}, name="a"))) == ["name"]
    assert await count(api, key) == 0


@pytest.mark.parametrize("strategy", ["force", "merge", "replace"])
async def test_an_external_id_of_null_is_cleared_by_id_alone(api: Api, strategy: str) -> None:
    key = await api.new_object(naming=UNIQUE)
    made = record_of(await api.create(key, name="Ford", external_id="v1"))
    cleared = {"name": "Ford", "external_id": None}
    for query in ({"external_id": "v1"}, {"name": "Ford"}):
        kept = await put(api, key, cleared, strategy=strategy, **query)
        assert (kept.headers["Upsert-Result"], record_of(kept)["external_id"]) == ("unchanged", "v1")
    response = await put(api, key, cleared, record_id=made["id"], strategy=strategy)
    assert (response.headers["Upsert-Result"], record_of(response)["external_id"]) == ("updated", None)
    again = await put(api, key, cleared, record_id=made["id"], strategy=strategy)
    assert again.headers["Upsert-Result"] == "unchanged"
    patched = await api.client.patch(
        f"/custom_objects/{key}/records/{made['id']}", json={"custom_object_record": {"external_id": "v2"}}
    )
    kept = await api.client.patch(
        f"/custom_objects/{key}/records/{made['id']}", json={"custom_object_record": {"external_id": None}}
    )
    assert record_of(patched)["external_id"] == record_of(kept)["external_id"] == "v2"


async def test_a_put_by_id_gives_a_new_external_id_unless_another_record_has_it(api: Api) -> None:
    key = await api.new_object()
    await api.create(key, name="a", external_id="taken")
    made = record_of(await api.create(key, name="b", external_id="v1"))
    assert list(problems_of(await put(api, key, {"external_id": "taken"}, record_id=made["id"]))) == [
        "external_id"
    ]
    assert record_of(await put(api, key, {"external_id": "v2"}, record_id=made["id"]))["external_id"] == "v2"


async def test_a_manual_name_may_be_left_out_where_the_record_has_one(api: Api) -> None:
    key = await api.new_object(YEAR)
    assert list(problems_of(await put(api, key, {}, external_id="v1"))) == ["name"]
    assert await count(api, key) == 0
    assert record_of(await put(api, key, {"name": "Ford"}, external_id="v1"))["name"] == "Ford"
    for left_out in ({}, {"name": None}):
        assert record_of(await put(api, key, left_out, external_id="v1"))["name"] == "Ford"
    for blank in ("", "  "):
        assert list(problems_of(await put(api, key, {"name": blank}, external_id="v1"))) == ["name"]
    assert record_of(await put(api, key, {"name": "Fiat"}, external_id="v1"))["name"] == "Fiat"


async def test_a_taken_unique_name_is_refused_in_the_words_that_clients_know(api: Api) -> None:
    key = await api.new_object(naming=UNIQUE)
    await api.create(key, name="Ford")
    made = record_of(await api.create(key, name="Fiat", external_id="v1"))
    for query in ({"record_id": made["id"]}, {"external_id": "v1"}, {"external_id": "new"}):
        problems = problems_of(await put(api, key, {"name": "FORD"}, **query))
        assert problems == {"base": ["Name already exists. Try another one."]}
    assert await count(api, key) == 2


@pytest.mark.parametrize("strategy", ["force", "merge", "replace"])
async def test_an_autonumbered_name_always_stays(api: Api, strategy: str) -> None:
    key = await api.new_object(YEAR, naming=NUMBERED)
    refused = await put(api, key, {"name": "CAR-0001"}, external_id="v1", strategy=strategy)
    assert list(problems_of(refused)) == ["name"]
    made = record_of(await put(api, key, {"name": None}, external_id="v1", strategy=strategy))
    assert made["name"] == "CAR-0001"
    for name in ({}, {"name": None}, {"name": "CAR-0001"}):
        record = record_of(await put(api, key, name, record_id=made["id"], strategy=strategy))
        assert record["name"] == "CAR-0001"
    for query in ({"record_id": made["id"]}, {"external_id": "v1"}):
        assert list(problems_of(await put(api, key, {"name": "x"}, strategy=strategy, **query))) == ["name"]
    assert record_of(await put(api, key, {}, external_id="v2", strategy=strategy))["name"] == "CAR-0002"


async def test_a_record_as_it_was_read_replaces_itself_and_changes_nothing(api: Api) -> None:
    for naming in (None, UNIQUE, NUMBERED):
        key = await api.new_object(YEAR, DOC, naming=naming)
        name = {} if naming is NUMBERED else {"name": "Ford"}
        fields = {"year": 1, "doc": {"a": None, "b": [1.50]}}
        made = record_of(await api.create(key, **name, external_id="v1", custom_object_fields=fields))
        read = await show(api, key, made["id"])
        response = await put(api, key, read, record_id=made["id"])
        assert response.headers["Upsert-Result"] == "unchanged"
        assert "url" in response.headers["X-Zendesk-API-Warn"]
        assert record_of(response) == read


# What the definition asks for


async def test_a_required_field_is_validated_as_on_creation(api: Api) -> None:
    required = {"key": "must", "type": "text", "required": True}
    key = await api.new_object(required, COLOR)
    full = {"name": "x", "custom_object_fields": {"must": "be", "color": "red"}}
    assert (await put(api, key, full, external_id="v1")).status_code == 200
    for missing in ({}, {"must": None}, {"must": ""}, {"color": "blue"}):
        for strategy in ("force", "replace"):
            response = await put(
                api, key, {"custom_object_fields": missing}, external_id="v1", strategy=strategy
            )
            assert list(problems_of(response)) == ["must"]
    assert list(problems_of(await put(api, key, {"name": "y"}, external_id="v2"))) == ["must"]
    merged = await put(
        api, key, {"custom_object_fields": {"color": "blue"}}, external_id="v1", strategy="merge"
    )
    assert fields_of(merged) == {"must": "be", "color": "blue"}


async def test_what_an_inactive_field_holds_outlives_a_replacement(api: Api) -> None:
    key = await api.new_object(YEAR, COLOR)
    both = {"year": 1, "color": "red"}
    await api.upsert(key, {"name": "x", "custom_object_fields": both}, external_id="v1")
    field = f"/custom_objects/{key}/fields/color"
    await api.client.patch(field, json={"custom_object_field": {"active": False}})
    assert fields_of(await put(api, key, {}, external_id="v1")) == {"year": None}
    await api.client.patch(field, json={"custom_object_field": {"active": True}})
    assert fields_of(await api.upsert(key, {}, external_id="v1")) == {"year": None, "color": "red"}


async def test_a_field_made_again_starts_empty_under_a_replacement(api: Api) -> None:
    key = await api.new_object(YEAR, COLOR)
    await api.upsert(key, {"name": "x", "custom_object_fields": {"color": "red"}}, external_id="v1")
    await api.client.delete(f"/custom_objects/{key}/fields/color")
    await api.new_field(key, **COLOR)
    replaced = await put(
        api, key, {"custom_object_fields": {"year": 1}}, external_id="v1", strategy="replace"
    )
    assert fields_of(replaced) == {"year": 1, "color": None}


async def test_unknown_keys_and_missing_lookup_targets_are_refused(api: Api) -> None:
    key = await api.new_object(
        {"key": "parent", "type": "lookup", "relationship_target_type": "zen:custom_object:nowhere"}
    )
    for fields in ({"unknown": 1}, {"parent": "0" * 26}):
        response = await put(api, key, {"name": "x", "custom_object_fields": fields}, external_id="v1")
        assert list(problems_of(response)) == [*fields]
    assert await count(api, key) == 0


async def test_a_record_over_its_size_is_refused(api: Api) -> None:
    key = await api.new_object(COLOR, DOC)
    large = {"color": "x" * 20_000, "doc": ["y" * 13_000]}
    response = await put(api, key, {"name": "x", "custom_object_fields": large}, external_id="v1")
    assert list(problems_of(response)) == ["base"]
    assert await count(api, key) == 0


# Strategies

VALUES: Mapping[str, Any] = {
    "null": None,
    "boolean": True,
    "number": 1,
    "another number": 2.5,
    "string": "s",
    "array": [1, {"a": None}],
    "another array": ["x"],
    "object": {"a": 1, "b": {"c": None, "d": "x"}},
    "another object": {"a": None, "b": {"d": "y"}, "e": [1]},
    "object of other types": {"a": "1", "b": []},
}
JSON_TYPES = {type(None): "null", bool: "boolean", int: "number", float: "number", str: "string"}


def merged(target: Any, patch: Any) -> Any:
    """RFC 7396, as its section 2 has it."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def conflicts(old: Any, new: Any) -> bool:
    """Whether a value would replace one of another JSON type, at any level."""
    if isinstance(old, dict) and isinstance(new, dict):
        return any(conflicts(old[key], new[key]) for key in old.keys() & new.keys())
    kinds = [JSON_TYPES.get(type(value), type(value).__name__) for value in (old, new)]
    return "null" not in kinds and kinds[0] != kinds[1]


@pytest.fixture(scope="module")
async def documents(api: Api) -> str:
    """An object with json fields alone, one of which stays as it is."""
    return await api.new_object(DOC, {"key": "beside", "type": "json"})


@pytest.mark.parametrize("nested", [False, True], ids=["at the top", "nested"])
@pytest.mark.parametrize("new", VALUES)
@pytest.mark.parametrize("old", VALUES)
async def test_each_strategy_treats_each_pair_of_json_types_by_its_rule(
    api: Api, documents: str, old: str, new: str, nested: bool
) -> None:
    before, sent = VALUES[old], VALUES[new]
    if nested:
        before, sent = {"in": {"it": before}, "kept": 1}, {"in": {"it": sent}}
    identifier: dict[str, Any] = {"external_id": f"{old} {new} {nested}"}
    first = {"name": "x", "custom_object_fields": {"doc": before, "beside": 1}}
    change = {"custom_object_fields": {"doc": sent}}
    expected = {
        "force": {"doc": sent, "beside": None},
        "merge": {"doc": None if sent is None else merged(before, sent), "beside": 1},
        "replace": {"doc": sent, "beside": None},
    }
    for strategy, fields in expected.items():
        assert fields_of(await put(api, documents, first, **identifier))["doc"] == before
        response = await put(api, documents, change, strategy=strategy, **identifier)
        if strategy == "replace" and conflicts(before, sent):
            place = "doc.in.it" if nested else "doc"
            assert all(text.startswith(place) for text in problems_of(response)["doc"])
            assert fields_of(await api.upsert(documents, {}, **identifier)) == {"doc": before, "beside": 1}
        else:
            assert fields_of(response) == fields
            again = await put(api, documents, change, strategy=strategy, **identifier)
            assert again.headers["Upsert-Result"] == "unchanged"
    assert fields_of(await put(api, documents, first, **identifier))["doc"] == before
    assert fields_of(await api.upsert(documents, change, **identifier)) == expected["merge"]


async def test_a_type_conflict_names_every_place(api: Api, documents: str) -> None:
    first = {"doc": {"a": 1, "b": {"c": "x", "d": []}}, "beside": 1}
    await put(api, documents, {"name": "x", "custom_object_fields": first}, external_id="places")
    second = {"doc": {"a": "1", "b": {"c": "y", "d": {}}}, "beside": [1]}
    response = await put(
        api, documents, {"custom_object_fields": second}, external_id="places", strategy="replace"
    )
    tail = " must have the JSON type of the value that it replaces"
    problems = {key: sorted(texts) for key, texts in problems_of(response).items()}
    assert problems == {"doc": [f"doc.a{tail}", f"doc.b.d{tail}"], "beside": [f"beside{tail}"]}


async def test_of_thousands_of_type_conflicts_the_first_are_named_with_their_places_cut(
    api: Api, documents: str
) -> None:
    long_key, keys = "k" * 20_000, [f"a{number}" for number in range(1000)]
    first = {"name": "x", "custom_object_fields": {"doc": {long_key: dict.fromkeys(keys, 1)}}}
    assert (await put(api, documents, first, external_id="conflicts")).is_success
    second = {"custom_object_fields": {"doc": {long_key: dict.fromkeys(keys, "1")}}}
    response = await put(api, documents, second, external_id="conflicts", strategy="replace")
    problems = problems_of(response)
    assert len(problems["doc"]) == 20
    assert problems["base"] == ["There are 980 more problems"]
    assert len(response.content) < 20_000


async def test_a_merge_creates_what_is_missing(api: Api, documents: str) -> None:
    sent = {"name": "x", "custom_object_fields": {"doc": {"a": None, "b": 1}}}
    response = await put(api, documents, sent, external_id="merged anew", strategy="merge")
    assert response.headers["Upsert-Result"] == "created"
    assert fields_of(response)["doc"] == {"b": 1}


@pytest.mark.parametrize(
    "query",
    [{"strategy": "Force"}, {"strategy": "x"}, {"strategy": ["force", "merge"]}, {"dataOnly": "maybe"}],
)
async def test_an_unknown_strategy_or_flag_is_a_bad_request(
    api: Api, documents: str, query: dict[str, Any]
) -> None:
    response = await put(api, documents, {"name": "x"}, external_id="unknown", **query)
    assert response.status_code == 400
    assert next(iter(query)) in response.json()["description"]


async def test_an_empty_strategy_is_the_default(api: Api, documents: str) -> None:
    first = {"name": "x", "custom_object_fields": {"doc": 1, "beside": 1}}
    await put(api, documents, first, external_id="empty")
    change = {"custom_object_fields": {"doc": 2}}
    cleared = await put(api, documents, change, external_id="empty", strategy="")
    assert fields_of(cleared) == {"doc": 2, "beside": None}


# Forms of the request and of the answer


async def test_data_only_answers_the_fields_alone(api: Api) -> None:
    key = await api.new_object(YEAR, DOC)
    for outcome in ("created", "unchanged"):
        sent = {"name": "x", "custom_object_fields": {"doc": {"a": [1]}}}
        response = await put(api, key, sent, external_id="v1", dataOnly="true")
        assert response.json() == {"doc": {"a": [1]}, "year": None}
        assert response.headers["Upsert-Result"] == outcome
        assert response.headers["ETag"]
    whole = await put(api, key, {"name": "x"}, external_id="v1", dataOnly="false")
    assert fields_of(whole) == {"doc": None, "year": None}


@pytest.mark.parametrize(
    "content_type", ["application/json", "text/plain", "text/plain; charset=utf-8", None]
)
async def test_json_is_taken_as_json_as_text_and_as_nothing_in_particular(
    api: Api, content_type: str | None
) -> None:
    key = await api.new_object(YEAR)
    body = json.dumps({"custom_object_record": {"name": "é", "custom_object_fields": {"year": 1}}})
    headers = {"Content-Type": content_type} if content_type else {}
    path = f"/custom_objects/{key}/records?external_id=v1"
    response = await api.client.put(path, content=body.encode(), headers=headers)
    assert record_of(response)["name"] == "é"
    refused = await api.client.put(path, content=body.encode(), headers={"Content-Type": "text/html"})
    assert refused.status_code == 415


async def test_a_dry_run_answers_as_the_replacement_would_and_writes_nothing(api: Api) -> None:
    key = await api.new_object(YEAR, DOC, naming=NUMBERED)
    first = {"custom_object_fields": {"year": 1, "doc": {"a": 1}}}
    imagined = await put(api, key, first, external_id="v1", dry_run="true")
    assert (imagined.headers["Upsert-Result"], record_of(imagined)["name"]) == ("created", "CAR-0001")
    assert "ETag" not in imagined.headers
    assert await count(api, key) == 0
    made = record_of(await put(api, key, first, external_id="v1"))
    assert made["name"] == "CAR-0001"
    second = {"custom_object_fields": {"doc": {"a": "x"}}}
    imagined = await put(api, key, second, external_id="v1", dry_run="true")
    assert fields_of(imagined) == {"year": None, "doc": {"a": "x"}}
    refused = await put(api, key, second, external_id="v1", dry_run="true", strategy="replace")
    assert list(problems_of(refused)) == ["doc"]
    assert await show(api, key, made["id"]) == made


async def test_a_replacement_that_changes_nothing_leaves_the_time_alone(api: Api) -> None:
    key = await api.new_object(YEAR, DOC)
    sent = {"name": "x", "custom_object_fields": {"year": 1, "doc": {"n": 1.0}}}
    made = record_of(await put(api, key, sent, external_id="v1"))
    async with api.running.sql() as connection:
        written = "select version, updated_at from records where record_id = $1"
        before = await connection.fetchrow(written, made["id"])
        assert (await put(api, key, sent, external_id="v1")).headers["Upsert-Result"] == "unchanged"
        assert await connection.fetchrow(written, made["id"]) == before


async def test_an_agent_may_replace_records(api: Api, agent: Api) -> None:
    key = await api.new_object()
    assert (await put(agent, key, {"name": "x"}, external_id="v1")).status_code == 200
