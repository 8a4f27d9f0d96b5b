"""Random bodies and queries: whatever they are, they are answered, and never with an error of ours."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hostile.targets import TYPES, Target, aimed
from tests.support.harness import Api
from upsert_svc.jobs.job_items import ACTIONS

FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])

DEFINING = [
    "properties",
    "is_unique",
    "autoincrement_padding",
    "custom_field_options",
    "relationship_filter",
    "regexp_for_validation",
    "active",
    "required",
]
NAMING = ["custom_object_record", "custom_object_fields", "name", "external_id", "id", "key", "title", "type"]
WORDS = [*TYPES, *DEFINING, *NAMING, "all", "any", "value"]
SAMPLES = ["v1", "Ford", "red", "regexp", "lookup", "dropdown", "2024-02-30", "zen:custom_object:x"]
PARAMETERS = [
    "external_id",
    "name",
    "dry_run",
    "sort",
    "page[size]",
    "page[after]",
    "page[before]",
    "filter[ids]",
    "filter[external_ids]",
    "include_standard_fields",
]

keys = st.sampled_from(WORDS) | st.text(max_size=4)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**320), 10**320)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(SAMPLES)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)
parameters = st.lists(
    st.tuples(
        st.sampled_from(PARAMETERS) | st.text(max_size=5),
        st.sampled_from(["v1", "", "1", "id", "true", "-updated_at"]) | st.text(max_size=10),
    ),
    max_size=4,
)


@pytest.fixture(scope="module")
async def target(api: Api) -> Target:
    """One of this module's own: what happens to be valid is written."""
    return await aimed(api)


async def require_answer(target: Target, method: str, path: str, query: Any, content: Any) -> None:
    response = await target.api.client.request(method, path, params=query, content=content)
    assert response.status_code < 500, response.text
    if response.is_error and response.status_code != 401:
        assert set(response.json()) <= {"error", "description", "details", "max_count"}


def wrapped(wrapper: str) -> Any:
    return values.map(lambda value: json.dumps({wrapper: value}).encode("utf-8", "surrogatepass"))


@FEW
@given(query=parameters, content=st.binary(max_size=50) | wrapped("custom_object_record"))
async def test_no_upsert_is_an_error_of_ours(target: Target, query: Any, content: bytes) -> None:
    await require_answer(target, "PATCH", target.records, [("external_id", "random"), *query], content)
    await require_answer(target, "PATCH", target.records, query, content)
    await require_answer(target, "POST", target.records, query, content)


@FEW
@given(fields=st.dictionaries(st.sampled_from(TYPES), scalars, max_size=4))
async def test_no_field_value_is_an_error_of_ours(target: Target, fields: Any) -> None:
    content = json.dumps({"custom_object_record": {"name": "Random", "custom_object_fields": fields}})
    await require_answer(target, "PATCH", target.records, {"external_id": "values"}, content.encode())


# without blanks at the ends, which the client does not send
header_values = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=8
).map(str.strip)


@FEW
@given(
    fields=st.dictionaries(st.sampled_from(TYPES), values, max_size=4),
    strategy=st.sampled_from(["force", "merge", "replace"]),
    tag=header_values,
)
async def test_no_replacement_and_no_condition_is_an_error_of_ours(
    target: Target, fields: Any, strategy: str, tag: str
) -> None:
    content = json.dumps({"custom_object_record": {"name": "Replaced", "custom_object_fields": fields}})
    query = {"external_id": "replaced", "strategy": strategy}
    await require_answer(target, "PUT", target.records, query, content.encode("utf-8", "surrogatepass"))
    conditional = await target.api.client.put(
        target.records,
        params=query,
        content=content.encode("utf-8", "surrogatepass"),
        headers={b"If-Match": tag.encode("latin-1"), b"Idempotency-Key": tag.encode("latin-1")},
    )
    assert conditional.status_code < 500, conditional.text


items = values | st.fixed_dictionaries(
    {},
    optional={
        "id": scalars,
        "name": st.sampled_from(SAMPLES) | scalars,
        "external_id": st.sampled_from(SAMPLES) | scalars,
        "custom_object_fields": st.dictionaries(st.sampled_from(TYPES) | keys, values, max_size=4),
    },
)


@settings(FEW, max_examples=25)
@given(action=st.sampled_from(list(ACTIONS)), order=st.lists(items, min_size=1, max_size=30) | values)
async def test_no_job_is_an_error_of_ours_or_without_an_end(target: Target, action: str, order: Any) -> None:
    content = json.dumps({"job": {"action": action, "items": order}})
    response = await target.api.client.post(f"/custom_objects/{target.key}/jobs", content=content)
    assert response.status_code in (201, 400, 422), response.text
    if response.status_code == 201:
        job = await target.api.finished(response.json()["job_status"]["id"])
        assert (job["status"], len(job["results"])) == ("completed", len(order))
        for result in job["results"]:
            assert bool(result["errors"]) != result["success"]
            assert {error["code"] for error in result["errors"]} <= {"RecordInvalid", "RecordNotFound"}, job


names = st.sampled_from(
    [*(f"custom_object_fields.{field}" for field in TYPES), "name", "id", "created_at", "created_by_user_id"]
)
operators = st.sampled_from(
    ["$eq", "$noteq", "$in", "$notin", "$exists", "$contains", "$notcontains", "$gt", "$gte", "$lt", "$lte"]
)
moments = st.datetimes(timezones=st.timezones()).map(lambda moment: moment.isoformat())
operands = scalars | moments | st.dates().map(str) | st.lists(scalars | moments, max_size=3)
filters = st.recursive(
    st.dictionaries(names, st.dictionaries(operators, operands, max_size=2), max_size=3),
    lambda inner: st.dictionaries(st.sampled_from(["$and", "$or"]), st.lists(inner, max_size=3), max_size=2),
    max_leaves=6,
)


@settings(FEW, max_examples=300)
@given(filter_=filters | values)
async def test_no_filter_is_an_error_of_ours(target: Target, filter_: Any) -> None:
    content = json.dumps({"filter": filter_}).encode("utf-8", "surrogatepass")
    await require_answer(target, "POST", f"{target.records}/search", {"sort": "-name"}, content)


@FEW
@given(
    field=st.fixed_dictionaries(
        {"key": st.text(max_size=5), "title": st.text(max_size=5), "type": st.sampled_from(WORDS)},
        optional=dict.fromkeys(DEFINING, values),
    ),
    other=values,
)
async def test_no_definition_is_an_error_of_ours(target: Target, field: Any, other: Any) -> None:
    custom_object = f"/custom_objects/{target.key}"
    path = f"{custom_object}/fields"
    for content in ({"custom_object_field": field}, {"custom_object_field": other}, other):
        await require_answer(target, "POST", path, None, json.dumps(content).encode())
        await require_answer(target, "PATCH", f"{path}/text", None, json.dumps(content).encode())
    for content in ({"custom_object": field}, {"custom_object": other}, other):
        await require_answer(
            target, "PATCH", f"/custom_objects/{target.key}", None, json.dumps(content).encode()
        )
    await require_answer(target, "PUT", f"{path}/reorder", None, json.dumps({"field_ids": other}).encode())


@FEW
@given(query=parameters, segment=st.text(max_size=10))
async def test_no_query_and_no_path_is_an_error_of_ours(target: Target, query: Any, segment: str) -> None:
    client = target.api.client
    for path in (target.records, "/custom_objects", f"/custom_objects/{target.key}/fields"):
        response = await client.get(path, params=query)
        assert response.status_code < 500, response.text
    for path, name in ((f"{target.records}/search", "query"), (f"{target.records}/autocomplete", "name")):
        response = await client.get(path, params={**dict(query), name: segment})
        assert response.status_code < 500, response.text
    try:
        url = client.build_request("GET", f"/custom_objects/{segment}").url
    except Exception:  # what httpx itself refuses to send
        return
    assert (await client.get(url)).status_code < 500
