"""What a body says of a thing: names of which nothing is to be seen, lengths, what is repeated, how soon."""

import sys
import time
import unicodedata
from typing import Any

import pytest

from tests.support.harness import PATCH, PUT, Api, UpsertMethod, problems_of, record_of
from upsert_svc.api.responses import warning
from upsert_svc.errors import RecordInvalid
from upsert_svc.payloads import FieldBody, is_blank, name_problem, read, record_patch

# Of the category "format", but shown: they stand under or before what follows them.
SHOWN_FORMATS = {
    *range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD,
}  # fmt: skip
# Of other categories: Default_Ignorable_Code_Point of Unicode, and what is drawn as nothing.
IGNORED = {
    0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, *range(0x180B, 0x1810), 0x2065, 0x2800, 0x3164,
    *range(0xFE00, 0xFE10), 0xFFA0, *range(0xFFF0, 0xFFF9), 0x16FE4, 0x1D159, *range(0xE0000, 0xE1000),
}  # fmt: skip
INVISIBLE = (
    "\u200b",
    "\u202e",
    "\u3164",
    "\u115f\u1160",
    "\uffa0",
    "\u2800",
    "\ufe0f",
    "\U000e0041",
    "\u00a0",
)
MIXED = ("".join(INVISIBLE), " \u200d\t", "\u2003\u3000", "\u0001")


def test_what_is_not_to_be_seen_is_what_unicode_says() -> None:
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        category = unicodedata.category(character)
        if category == "Cn" and code not in IGNORED:
            continue  # this Python has yet to hear of it
        expected = (
            character.isspace()
            or category == "Cc"
            or (category == "Cf" and code not in SHOWN_FORMATS)
            or code in IGNORED
        )
        assert is_blank(character) == expected, f"U+{code:04X}"


@pytest.mark.parametrize(
    "name", ["a", "é", "e\u0301", "\u0301", "名", "👩\u200d🚀", "\u200ba", "a\u200bb", "‮א", "."]
)
def test_a_name_of_which_something_is_to_be_seen_is_one(name: str) -> None:
    assert name_problem(name) is None


def test_a_name_is_as_long_as_it_is_composed() -> None:
    composed = "\u1f82"  # the most that one character is made of: four
    apart = unicodedata.normalize("NFD", composed)
    assert len(apart) == 4
    assert name_problem(apart * 255) is None
    # the one before the last becomes longer when it is composed
    for name in (apart * 256, "x" * 256, "e\u0301" * 256, "\u0958" * 130, "\u200b" * 250_000):
        problem = name_problem(name)
        assert problem is not None
        assert problem.error == "TooLong"


@pytest.mark.parametrize("name", [*INVISIBLE, *MIXED])
@pytest.mark.parametrize("method", [PATCH, PUT], ids=str)
async def test_a_name_of_nothing_visible_is_refused_as_a_blank_one_is(
    api: Api, name: str, method: UpsertMethod
) -> None:
    key = await api.new_object(naming={"is_unique": True})
    body = {"custom_object_record": {"name": name}}
    url = f"/custom_objects/{key}/records"
    standing = record_of(await api.create(key, name="standing", external_id="standing"))
    answers = [
        await api.client.post(url, json=body),
        await api.client.request(method.method, url, params={"external_id": "new"}, json=body),
        await api.client.request(method.method, url, params={"external_id": "standing"}, json=body),
        await api.client.request(method.method, f"{url}/{standing['id']}", json=body),
        await api.client.request(
            method.method, url, params={"name": name}, json={"custom_object_record": {}}
        ),
    ]
    for answer in answers:
        assert problems_of(answer) == {"name": ["Name cannot be blank"]}
        assert answer.json()["details"]["name"][0]["error"] == "BlankValue"
    job = await api.finished_job(key, "create", [{"name": name}, {"name": "seen"}])
    assert [result["status"] for result in job["results"]] == ["Failed", "Created"]
    assert job["results"][0]["errors"][0]["detail"] == "Name cannot be blank"
    assert [record["name"] for record in await api.records(key)] == ["standing", "seen"]


@pytest.mark.parametrize("title", INVISIBLE)
async def test_a_title_of_nothing_visible_is_refused_as_a_blank_one_is(api: Api, title: str) -> None:
    key = await api.new_object({"key": "f", "type": "text"})
    new: dict[str, Any] = {"key": "new", "title": title, "type": "text"}
    answers = [
        await api.client.post("/custom_objects", json={"custom_object": new}),
        await api.client.patch(f"/custom_objects/{key}", json={"custom_object": {"title": title}}),
        await api.client.post(f"/custom_objects/{key}/fields", json={"custom_object_field": new}),
        await api.client.patch(
            f"/custom_objects/{key}/fields/f", json={"custom_object_field": {"title": title}}
        ),
    ]
    for answer in answers:
        assert problems_of(answer) == {"title": ["Title cannot be blank"]}


async def test_a_record_that_has_such_a_name_already_is_read_updated_and_renamed(api: Api) -> None:
    key = await api.new_object({"key": "color", "type": "text"})
    record = record_of(await api.create(key, name="seen", external_id="v1"))
    async with api.running.sql() as connection:
        await connection.execute("update records set name = $2 where record_id = $1", record["id"], "\u3164")
    url = f"/custom_objects/{key}/records/{record['id']}"
    assert record_of(await api.client.get(url))["name"] == "\u3164"
    changed = {"custom_object_record": {"custom_object_fields": {"color": "red"}}}
    assert record_of(await api.client.patch(url, json=changed))["name"] == "\u3164"
    assert record_of(await api.client.put(url, json=changed))["name"] == "\u3164"
    renamed = {"custom_object_record": {"name": "seen again"}}
    assert record_of(await api.client.patch(url, json=renamed))["name"] == "seen again"


@pytest.mark.parametrize(
    "attributes",
    [
        {"relationship_filter": {"all": [{"a": {}}] * 9_000}},
        {"relationship_filter": {"all": [{"a" * 100_000: [1] * 18_000}]}},
        {"relationship_filter": {f"key {number}": [] for number in range(9_000)}},
        {"relationship_filter": {"all": [{f"key {number}": {} for number in range(9_000)}]}},
        {"custom_field_options": [{}] * 9_000},
        {"custom_field_options": [{"value": "", "name": 5}] * 2_000},
        {"custom_field_options": [{"value": "x" * 100_000}, {"x" * 100_000: 1}]},
    ],
)
def test_thousands_of_faults_are_refused_soon_and_briefly(attributes: dict[str, Any]) -> None:
    started = time.process_time()
    with pytest.raises(RecordInvalid) as caught:
        read(FieldBody, attributes)
    assert time.process_time() - started < 0.25
    assert len(str(caught.value.body())) < 5_000


@pytest.mark.parametrize("value", [None, True, 1, "x", ["x"], []])
def test_a_filter_of_a_lookup_is_kept_as_it_is_sent(value: Any) -> None:
    condition = {"field": "f", "operator": "is", "value": value}
    body, _ = read(FieldBody, {"relationship_filter": {"any": [condition]}})
    assert body.relationship_filter == {"all": [], "any": [condition]}


@pytest.mark.parametrize("value", [{}, [1], 10**15, 1.5, [None]])
def test_a_condition_of_another_form_is_refused(value: Any) -> None:
    with pytest.raises(RecordInvalid):
        read(FieldBody, {"relationship_filter": {"all": [{"value": value}]}})


def test_of_many_ignored_names_as_many_are_kept_as_a_warning_can_tell() -> None:
    names = [f"{number}" * 100_000 if number < 10 else f"{number}" for number in range(17_000)]
    patch = record_patch({"custom_object_record": dict.fromkeys(names, 1)})
    assert sum(map(len, patch.ignored)) < 10_000
    assert warning(patch.ignored) == warning(names)
    few = dict.fromkeys("abc", 1)
    assert record_patch({"custom_object_record": few, "d": 1}).ignored == ("d", "a", "b", "c")
