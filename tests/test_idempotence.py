"""PUT as a property: sent any number of times by any number of callers, it leaves the state of one."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest
from batches import gathering_service
from harness import Api, Cluster, record_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

FIELDS = [
    {"key": "text", "type": "text"},
    {"key": "integer", "type": "integer"},
    {"key": "decimal", "type": "decimal"},
    {"key": "checkbox", "type": "checkbox"},
    {"key": "doc", "type": "json"},
]
_examples = itertools.count(1)
_times = "select version, updated_at from records where record_id = $1"

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
numbers = st.integers(-(10**9), 10**9) | st.floats(-1000, 1000).map(lambda value: round(value, 3))
documents = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
records = st.fixed_dictionaries(
    {},
    optional={
        "text": st.none() | texts,
        "integer": st.none() | st.integers(-(10**11), 10**11),
        "decimal": st.none() | numbers,
        "checkbox": st.none() | st.booleans(),
        "doc": documents,
    },
)


@pytest.fixture(scope="module", params=["manual", "unique", "autonumbered"])
async def place(cluster: Cluster, request: pytest.FixtureRequest) -> AsyncIterator[tuple[Api, str, str]]:
    """A service, an object, and how its records are named."""
    naming = {"unique": {"is_unique": True}, "autonumbered": {"autoincrement_enabled": True}}
    async with gathering_service(cluster) as api:
        yield api, await api.new_object(*FIELDS, naming=naming.get(request.param)), request.param


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=st.none() | records,
    sent=records,
    strategy=st.sampled_from(["force", "merge", "replace"]),
    by=st.sampled_from(["external_id", "name", "id"]),
    callers=st.integers(1, 4),
    times=st.integers(1, 3),
)
async def test_any_put_sent_again_by_anyone_leaves_the_state_of_one(
    place: tuple[Api, str, str],
    before: Mapping[str, Any] | None,
    sent: Mapping[str, Any],
    strategy: str,
    by: str,
    callers: int,
    times: int,
) -> None:
    api, key, naming = place
    name = f"n{next(_examples)}"
    named = {} if naming == "autonumbered" else {"name": name}
    path, query = f"/custom_objects/{key}/records", {"external_id": name}
    if before is not None or by == "id":
        made = record_of(await api.create(key, **named, external_id=name, custom_object_fields=before or {}))
        if by == "id":
            path, query = f"{path}/{made['id']}", {}
    if by == "name" and naming == "unique":
        query = {"name": name}
    body = {"custom_object_record": {**named, "custom_object_fields": sent}}

    async def put() -> Any:
        return await api.client.put(path, params={**query, "strategy": strategy}, json=body)

    first = await put()
    assert first.status_code in (200, 422), first.text
    if first.status_code == 422:
        assert strategy == "replace", first.text
        return
    record = record_of(first)
    async with api.running.sql() as connection:
        written = await connection.fetchrow(_times, record["id"])
        answers: Sequence[Any] = await asyncio.gather(*(put() for _ in range(callers * times)))
        assert {answer.headers["Upsert-Result"] for answer in answers} == {"unchanged"}
        assert all(record_of(answer) == record for answer in answers)
        assert await connection.fetchrow(_times, record["id"]) == written
    listed = [item for item in await api.records(key) if item["name"] == record["name"]]
    assert listed == [record]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=st.none() | records,
    sent=records,
    strategy=st.sampled_from(["force", "merge"]),
    callers=st.integers(2, 6),
)
async def test_a_put_that_many_send_at_one_moment_is_written_once(
    place: tuple[Api, str, str],
    before: Mapping[str, Any] | None,
    sent: Mapping[str, Any],
    strategy: str,
    callers: int,
) -> None:
    api, key, naming = place
    name = f"n{next(_examples)}"
    named = {} if naming == "autonumbered" else {"name": name}
    if before is not None:
        await api.create(key, **named, external_id=name, custom_object_fields=before)
    path, query = f"/custom_objects/{key}/records", {"external_id": name, "strategy": strategy}
    body = {"custom_object_record": {**named, "custom_object_fields": sent}}
    answers = await asyncio.gather(*(api.client.put(path, params=query, json=body) for _ in range(callers)))
    outcomes = [answer.headers["Upsert-Result"] for answer in answers]
    changes = [outcome for outcome in outcomes if outcome != "unchanged"]
    assert changes in ([["created"]] if before is None else [["updated"], []])
    assert len({answer.content for answer in answers}) == 1
