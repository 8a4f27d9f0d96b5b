"""Field values through the upsert: what each type takes, how it is stored and read, what is refused."""

import json
import time
from collections.abc import Sequence
from typing import Any

import pytest

from tests.support.every_type import EVERY_TYPE, definitions
from tests.support.harness import Api, problems_of, record_of

NO_TARGET = '"01HZXW3V5K8Y7QF2N4R6T8B0CD"'


@pytest.fixture(scope="module")
async def typed(api: Api) -> str:
    """An object with a field of each type, called by it, and one record, v1."""
    key = await api.new_object(
        *definitions(name for name in EVERY_TYPE if name != "lookup"),
        {"key": "elsewhere", "type": "lookup", "relationship_target_type": "zen:user"},
        {"key": "nowhere", "type": "lookup", "relationship_target_type": "zen:custom_object:not_made"},
    )
    await api.new_field(key, key="lookup", type="lookup", relationship_target_type=f"zen:custom_object:{key}")
    record_of(await api.create(key, name="Ford", external_id="v1"))
    return key


async def write(api: Api, typed: str, field: str, value_text: str) -> Any:
    """The upsert of one value, given as JSON text so that its digits arrive as they are."""
    return await api.client.patch(
        f"/custom_objects/{typed}/records",
        params={"external_id": "v1"},
        content=f'{{"custom_object_record": {{"custom_object_fields": {{"{field}": {value_text}}}}}}}',
    )


@pytest.mark.parametrize(
    ("field", "sent", "read"),
    [
        *((name, sent, read) for name, kind in EVERY_TYPE.items() for sent, read in kind.pairs()),
        ("elsewhere", '"35436"', '"35436"'),
        *((field, "null", "null") for field in ("text", "date", "decimal", "multiselect", "lookup")),
    ],
)  # fmt: skip
async def test_a_value_is_read_as_it_was_written(
    api: Api, typed: str, field: str, sent: str, read: str
) -> None:
    response = await write(api, typed, field, sent)
    assert response.status_code == 200, response.text
    shown = await api.client.get(f"/custom_objects/{typed}/records/{record_of(response)['id']}")
    for text in (response.text, shown.text):
        fields = json.loads(text, parse_float=str, parse_int=str)["custom_object_record"][
            "custom_object_fields"
        ]
        assert fields[field] == json.loads(read, parse_float=str, parse_int=str)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        *((name, kind.bad) for name, kind in EVERY_TYPE.items()),
        ("nowhere", [NO_TARGET]),
        ("elsewhere", ["5"]),
        ("unknown", ['"x"', "null"]),
        ("__proto__", ["1"]),
        ("", ["1"]),
    ],
)  # fmt: skip
async def test_a_value_of_another_form_is_refused_by_name_and_not_written(
    api: Api, typed: str, field: str, values: Sequence[str]
) -> None:
    before = await api.records(typed)
    for value in values:
        problems = problems_of(await write(api, typed, field, value))
        assert list(problems) == [field], value
        assert len(problems[field]) == 1
        assert problems[field][0].startswith((f"{field} ", f"{field}.", f"{field}["))
    assert await api.records(typed) == before


async def test_every_wrong_value_of_a_request_is_named(api: Api, typed: str) -> None:
    fields = {"integer": "x", "checkbox": "x", "wheels": 4, "text": "fine"}
    problems = problems_of(await api.upsert(typed, {"custom_object_fields": fields}, external_id="v1"))
    assert sorted(problems) == ["checkbox", "integer", "wheels"]


async def test_a_lookup_takes_the_id_of_a_standing_record_of_its_target(api: Api, typed: str) -> None:
    target = record_of(await api.create(typed, name="Target"))
    other = record_of(await api.create(await api.new_object(), name="Of another object"))
    record = record_of(await write(api, typed, "lookup", f'"{target["id"]}"'))
    assert record["custom_object_fields"]["lookup"] == target["id"]
    refused = problems_of(await write(api, typed, "lookup", f'"{other["id"]}"'))
    assert refused == {"lookup": ["lookup names a record that does not exist"]}
    await api.client.delete(f"/custom_objects/{typed}/records/{target['id']}")
    problems_of(await write(api, typed, "lookup", f'"{target["id"]}"'))


async def test_a_lookup_may_name_its_target_by_external_id_or_unique_name(api: Api) -> None:
    target = await api.new_object(naming={"is_unique": True})
    made = record_of(await api.create(target, name="Straße: 1", external_id="v:1"))
    other = record_of(await api.create(target, name="Other", external_id="Straße: 1"))
    key = await api.new_object(
        {"key": "to", "type": "lookup", "relationship_target_type": f"zen:custom_object:{target}"},
        {"key": "too", "type": "lookup", "relationship_target_type": f"zen:custom_object:{target}"},
    )
    for named in ("external_id:v:1", "name:STRASSE: 1", made["id"]):
        fields = {"to": named, "too": other["id"]}
        response = await api.upsert(key, {"name": "x", "custom_object_fields": fields}, external_id="v1")
        assert record_of(response)["custom_object_fields"] == {"to": made["id"], "too": other["id"]}
    assert response.headers["Upsert-Result"] == "unchanged"
    for named in ("external_id:V:1", "external_id:none", "name:v:1", f"external_id:{made['id']}"):
        fields = {"to": named, "too": made["id"]}
        for dry_run in ("true", "false"):
            response = await api.upsert(
                key, {"custom_object_fields": fields}, external_id="v1", dry_run=dry_run
            )
            assert problems_of(response) == {"to": ["to names a record that does not exist"]}


async def test_names_that_need_not_be_unique_name_no_target(api: Api) -> None:
    target = await api.new_object()
    await api.create(target, name="Ford")
    key = await api.new_object(
        {"key": "to", "type": "lookup", "relationship_target_type": f"zen:custom_object:{target}"}
    )
    said = (
        f"to names a record of {target} by its name, which finds none as names need not be unique there: "
        "give its id or external_id:X, or turn is_unique of standard::name on"
    )
    for named in ("name:Ford", "name:none"):
        refused = await api.create(key, name="x", custom_object_fields={"to": named})
        assert problems_of(refused) == {"to": [said]}
        (problem,) = refused.json()["details"]["to"]
        assert problem["error"] == "NameNotUnique"
    job = await api.finished_job(key, "create", [{"name": "x", "custom_object_fields": {"to": "name:Ford"}}])
    assert [error["detail"] for error in job["results"][0]["errors"]] == [said]


async def test_a_lookup_outlives_its_target(api: Api) -> None:
    """What is written elsewhere must not change because a record was deleted."""
    target = await api.new_object()
    made = record_of(await api.create(target, name="a", external_id="v1"))
    key = await api.new_object(
        {"key": "to", "type": "lookup", "relationship_target_type": f"zen:custom_object:{target}"},
        {"key": "year", "type": "integer"},
    )
    record = record_of(await api.create(key, name="x", custom_object_fields={"to": "external_id:v1"}))
    await api.client.delete(f"/custom_objects/{target}/records/{made['id']}")
    path = f"/custom_objects/{key}/records/{record['id']}"
    assert record_of(await api.client.get(path)) == record
    patched = await api.client.patch(
        path, json={"custom_object_record": {"custom_object_fields": {"year": 1}}}
    )
    assert record_of(patched)["custom_object_fields"] == {"to": made["id"], "year": 1}
    again = {"custom_object_record": {"custom_object_fields": {"to": made["id"]}}}
    assert list(problems_of(await api.client.patch(path, json=again))) == ["to"]


async def test_a_lookup_never_reaches_another_account(api: Api, stranger: Api) -> None:
    theirs = await stranger.new_object()
    record = record_of(await stranger.create(theirs, name="Theirs"))
    key = await api.new_object(
        {"key": "f", "type": "lookup", "relationship_target_type": f"zen:custom_object:{theirs}"}
    )
    await api.new_object(key=theirs)
    assert list(problems_of(await api.create(key, name="r", custom_object_fields={"f": record["id"]}))) == [
        "f"
    ]


async def test_a_catastrophic_pattern_is_matched_at_once(api: Api, typed: str) -> None:
    started = time.monotonic()
    assert list(problems_of(await write(api, typed, "regexp", f'"{"a" * 30_000}!"'))) == ["regexp"]
    assert time.monotonic() - started < 1


async def test_standard_attributes_among_the_fields_are_ignored_and_named(api: Api, typed: str) -> None:
    before = record_of(await api.upsert(typed, external_id="v1"))
    response = await api.upsert(
        typed, {"custom_object_fields": {"name": "x", "external_id": "y", "id": 5}}, external_id="v1"
    )
    assert record_of(response) == before
    assert response.headers["Upsert-Result"] == "unchanged"
    for name in ("name", "external_id", "id"):
        assert name in response.headers["X-Zendesk-API-Warn"]


async def test_a_field_may_be_called_as_a_standard_attribute(api: Api) -> None:
    key = await api.new_object({"key": "name", "type": "integer"})
    record = record_of(await api.create(key, name="Ford", custom_object_fields={"name": 5}))
    assert (record["name"], record["custom_object_fields"]) == ("Ford", {"name": 5})
    assert list(problems_of(await api.create(key, name="x", custom_object_fields={"name": "x"}))) == ["name"]


async def test_a_record_of_32_kilobytes_is_taken_and_a_larger_one_refused(api: Api, typed: str) -> None:
    key = await api.new_object({"key": "f", "type": "textarea"})
    room = 32 * 1024 - len("r") - len('{"f": ""}')
    record_of(await api.create(key, name="r", custom_object_fields={"f": "x" * room}))
    refused = problems_of(await api.create(key, name="r", custom_object_fields={"f": "x" * (room + 1)}))
    assert list(refused) == ["base"]
    problems_of(await api.create(key, name="r", custom_object_fields={"f": "é" * (room // 2 + 1)}))


@pytest.mark.parametrize("kind", ["json", "decimal", "currency", "integer"])
async def test_zeros_at_the_end_of_a_number_are_kept_and_a_change_but_of_an_integer(
    api: Api, kind: str
) -> None:
    currency = {"properties": {"currency": "USD"}} if kind == "currency" else {}
    key = await api.new_object({"key": "value", "type": kind, **currency})
    stored = "1"
    await api.upsert(key, {"name": "x", "custom_object_fields": {"value": 1}}, external_id="v1")
    for sent, spelt in [
        ("1.0", "1.0"),
        ("1.00", "1.00"),
        ("1", "1"),
        ("1e0", "1"),
        ("100", "100"),
        ("1e2", "100"),
    ]:
        answer = await write(api, key, "value", sent)
        kept = spelt if kind != "integer" else spelt.partition(".")[0]
        assert f'"value": {kept}}}' in answer.text
        assert answer.headers["Upsert-Result"] == ("unchanged" if kept == stored else "updated")
        stored = kept
