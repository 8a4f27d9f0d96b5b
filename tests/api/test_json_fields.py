"""Fields of the type json: what they hold, and that a patch of a document goes level by level."""

from decimal import Decimal
from typing import Any

import httpx
import jiter
import orjson
import pytest

from tests.support.harness import Api, problems_of, record_of
from upsert_svc.definitions.validator import SIZE_LIMIT

DOC = {"key": "doc", "type": "json"}


@pytest.fixture
async def key(api: Api) -> str:
    return await api.new_object(DOC, {"key": "year", "type": "integer"})


async def patched(api: Api, key: str, doc: Any, external_id: str = "v1") -> Any:
    """The document after a patch of it."""
    sent = {"name": "x", "custom_object_fields": {"doc": doc}}
    return record_of(await api.upsert(key, sent, external_id=external_id))["custom_object_fields"]["doc"]


async def test_a_field_of_json_is_described_as_such(api: Api, key: str) -> None:
    field = (await api.client.get(f"/custom_objects/{key}/fields/doc")).json()["custom_object_field"]
    assert (field["type"], field["custom_field_options"]) == ("json", [])


async def test_a_patch_merges_level_by_level(api: Api, key: str) -> None:
    assert await patched(api, key, {"a": {"b": 1, "c": [1, 2]}, "d": "x"}) == {
        "a": {"b": 1, "c": [1, 2]},
        "d": "x",
    }
    assert await patched(api, key, {"a": {"c": [3]}}) == {"a": {"b": 1, "c": [3]}, "d": "x"}
    assert await patched(api, key, {"a": {"b": None}, "e": {"f": None}}) == {
        "a": {"c": [3]},
        "d": "x",
        "e": {},
    }
    assert await patched(api, key, {}) == {"a": {"c": [3]}, "d": "x", "e": {}}
    assert await patched(api, key, {"a": 1}) == {"a": 1, "d": "x", "e": {}}
    assert await patched(api, key, ["x"]) == ["x"]
    assert await patched(api, key, {"b": {"c": None, "d": 1}}) == {"b": {"d": 1}}
    assert await patched(api, key, None) is None


async def test_a_patch_that_creates_merges_into_nothing_and_a_creation_outright_is_kept_as_sent(
    api: Api, key: str
) -> None:
    document = {"a": None, "b": {"c": None, "d": [None, {"e": None}]}}
    assert await patched(api, key, document, "new") == {"b": {"d": [None, {"e": None}]}}
    made = await api.create(key, name="y", custom_object_fields={"doc": document})
    assert record_of(made)["custom_object_fields"]["doc"] == document


async def test_an_update_by_id_merges_too(api: Api, key: str) -> None:
    made = record_of(await api.create(key, name="x", custom_object_fields={"doc": {"a": {"b": 1}}}))
    body = {"custom_object_record": {"custom_object_fields": {"doc": {"a": {"c": 2}}}}}
    response = await api.client.patch(f"/custom_objects/{key}/records/{made['id']}", json=body)
    assert record_of(response)["custom_object_fields"]["doc"] == {"a": {"b": 1, "c": 2}}


async def test_other_fields_are_patched_beside_a_document(api: Api, key: str) -> None:
    await patched(api, key, {"a": 1})
    response = await api.upsert(key, {"custom_object_fields": {"year": 5}}, external_id="v1")
    assert record_of(response)["custom_object_fields"] == {"doc": {"a": 1}, "year": 5}
    response = await api.upsert(key, {"custom_object_fields": {"year": None}}, external_id="v1")
    assert record_of(response)["custom_object_fields"] == {"doc": {"a": 1}, "year": None}


async def test_what_an_inactive_document_holds_outlives_patches_of_other_fields(api: Api, key: str) -> None:
    document = {"a": None, "b": {"c": None}}
    await api.create(key, name="x", external_id="v1", custom_object_fields={"doc": document})
    field = f"/custom_objects/{key}/fields/doc"
    await api.client.patch(field, json={"custom_object_field": {"active": False}})
    assert (await api.upsert(key, {}, external_id="v1")).headers["Upsert-Result"] == "unchanged"
    await api.upsert(key, {"custom_object_fields": {"year": 1}}, external_id="v1")
    await api.client.patch(field, json={"custom_object_field": {"active": True}})
    record = record_of(await api.upsert(key, {}, external_id="v1"))
    assert record["custom_object_fields"] == {"doc": document, "year": 1}


async def test_a_merge_that_changes_nothing_is_told_so(api: Api, key: str) -> None:
    await patched(api, key, {"a": {"b": 1.0}})
    same = {"custom_object_fields": {"doc": {"a": {"b": 1.0, "c": None}}}}
    response = await api.upsert(key, same, external_id="v1")
    assert response.headers["Upsert-Result"] == "unchanged"


async def test_any_value_but_null_fills_a_required_document(api: Api) -> None:
    key = await api.new_object({**DOC, "required": True})
    values: tuple[Any, ...] = ("", [], {}, False, 0)
    for value in values:
        assert await patched(api, key, value) == value
    response = await api.upsert(key, {"custom_object_fields": {"doc": None}}, external_id="v1")
    assert list(problems_of(response)) == ["doc"]


async def test_a_document_is_bounded_by_the_record_after_the_merge(api: Api, key: str) -> None:
    await patched(api, key, {"a": "x" * 20_000})
    response = await api.upsert(key, {"custom_object_fields": {"doc": {"b": "y" * 13_000}}}, external_id="v1")
    assert list(problems_of(response)) == ["base"]
    assert await patched(api, key, {"a": None, "b": "y" * 13_000}) == {"b": "y" * 13_000}


async def test_a_patch_that_no_record_could_hold_is_refused_before_it_is_written(
    api: Api, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = {"custom_object_fields": {"doc": {f"k{number}": "x" * 100 for number in range(1000)}}}
    nulls = {"custom_object_fields": {"doc": {f"k{number}": {"n": None} for number in range(5000)}}}
    assert len(orjson.dumps(nulls)) > 2 * SIZE_LIMIT
    with monkeypatch.context() as unwritten:
        unwritten.setattr(api.running.service.records, "_writer", None)
        queries: tuple[dict[str, Any], ...] = ({}, {"dry_run": "true"})
        for query in queries:
            response = await api.upsert(key, {"name": "x", **large}, external_id="v1", **query)
            assert list(problems_of(response)) == ["base"]
    response = await api.upsert(key, {"name": "x", **nulls}, external_id="v1")
    assert list(problems_of(response)) == ["base"], "validated once it is merged"


async def test_a_document_nested_deeper_than_a_body_may_be_is_refused(api: Api, key: str) -> None:
    document: Any = 1
    for _ in range(20):
        document = {"a": document}
    sent = {"name": "x", "custom_object_fields": {"doc": document}}
    assert (await api.upsert(key, sent, external_id="deep")).status_code == 400


async def test_a_large_patch_of_a_document_is_merged_in_no_time(api: Api, key: str) -> None:
    keys = [f"k{number:04d}" for number in range(2000)]
    assert len(await patched(api, key, dict.fromkeys(keys, 1))) == 2000
    body = {"custom_object_fields": {"doc": dict.fromkeys(keys[1:])}}
    response = await api.upsert(key, body, external_id="v1")
    assert record_of(response)["custom_object_fields"]["doc"] == {"k0000": 1}


WAYS = [
    ("POST", ""),
    ("PATCH", "?external_id=v1"),
    ("PATCH", "/{id}"),
    *(("PUT", f"?external_id=v1&strategy={way}") for way in ("force", "merge", "replace")),
    *(("PUT", f"/{{id}}?strategy={way}") for way in ("force", "merge", "replace")),
]


async def write(api: Api, key: str, method: str, end: str, doc: str) -> httpx.Response:
    """The write of a document, which is JSON text so that its digits arrive as they are."""
    return await api.client.request(
        method,
        f"/custom_objects/{key}/records{end}",
        content=f'{{"custom_object_record": {{"name": "x", "custom_object_fields": {{"doc": {doc}}}}}}}',
    )


@pytest.mark.parametrize(("method", "end"), WAYS)
async def test_every_write_names_the_place_of_a_number_or_text_that_a_document_may_not_have(
    api: Api, key: str, method: str, end: str
) -> None:
    made = record_of(await api.create(key, name="x", external_id="v1"))
    end = end.format(id=made["id"])
    for number in ("12345678901234567890", "1e15", "1e400", "1e-31", "0.123456789012345678"):
        problems = problems_of(
            await write(api, key, method, end, f'{{"a": {{"b": [1, {{"deep": {number}}}]}}}}')
        )
        assert list(problems) == ["doc"]
        assert problems["doc"][0].startswith("doc.a.b[1].deep must be a number below 10^15")
    problems = problems_of(await write(api, key, method, end, r'{"a": {"b": [1, {"deep": "\u0000"}]}}'))
    assert problems == {"doc": ["doc.a.b[1].deep: Text cannot hold the character U+0000"]}
    for word in ("NaN", "Infinity", "-Infinity"):
        assert (await write(api, key, method, end, f'{{"a": [{word}]}}')).status_code == 400
    assert await api.records(key) == [made]


@pytest.mark.parametrize(
    "number",
    [
        "0.9999999999999999", "9.999999999999999e-1", "1e-16", "10E-17", "100", "1E+2", "100.0", "-0", "-0.0",
        "0e-999", "0E+999", "1e-30", "1.2345678901234567e-30", "123456789012345.67", "999999999999999",
    ],
)  # fmt: skip
async def test_a_number_of_a_document_keeps_its_value_and_is_unchanged_when_it_is_sent_again(
    api: Api, key: str, number: str
) -> None:
    first = await write(api, key, "PATCH", "?external_id=v1", f'{{"a": [{number}]}}')
    assert first.headers["Upsert-Result"] == "created"
    for method, end in WAYS[1:]:
        end = end.format(id=record_of(first)["id"])
        again = await write(api, key, method, end, f'{{"a": [{number}]}}')
        assert again.headers.get("Upsert-Result", "unchanged") == "unchanged", (method, end)
    shown = jiter.from_json(
        (await api.client.get(f"/custom_objects/{key}/records")).content, float_mode="decimal"
    )
    (record,) = shown["custom_object_records"]
    assert record["updated_at"] == record["created_at"]
    assert Decimal(record["custom_object_fields"]["doc"]["a"][0]) == Decimal(number)
