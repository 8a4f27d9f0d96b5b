"""PUT as a property: sent any number of times by any number of callers, it leaves the state of one."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.batches import batching_service
from tests.support.harness import Api, Cluster, record_of

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


@dataclass(frozen=True)
class Place:
    """An object of a service, and how its records are named."""

    api: Api
    key: str
    naming: str

    async def new(self, before: Mapping[str, Any] | None) -> tuple[str, Mapping[str, str], str | None]:
        """An identifier of its own, the name to be sent with it, and the id of its record if one stands."""
        name = f"n{next(_examples)}"
        named = {} if self.naming == "autonumbered" else {"name": name}
        if before is None:
            return name, named, None
        made = await self.api.create(self.key, **named, external_id=name, custom_object_fields=before)
        return name, named, record_of(made)["id"]


@pytest.fixture(scope="module", params=["manual", "unique", "autonumbered"])
async def place(cluster: Cluster, request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    naming = {"unique": {"is_unique": True}, "autonumbered": {"autoincrement_enabled": True}}
    async with batching_service(cluster) as api:
        yield Place(api, await api.new_object(*FIELDS, naming=naming.get(request.param)), request.param)


moderate = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@moderate
@given(
    before=st.none() | records,
    sent=records,
    strategy=st.sampled_from(["force", "merge", "replace"]),
    by=st.sampled_from(["external_id", "name", "id"]),
    count=st.integers(1, 10),
)
async def test_any_put_sent_again_by_anyone_leaves_the_state_of_one(
    place: Place,
    before: Mapping[str, Any] | None,
    sent: Mapping[str, Any],
    strategy: str,
    by: str,
    count: int,
) -> None:
    name, named, record_id = await place.new({} if before is None and by == "id" else before)
    path, query = f"/custom_objects/{place.key}/records", {"external_id": name}
    if by == "id":
        path, query = f"{path}/{record_id}", {}
    elif by == "name" and place.naming == "unique":
        query = {"name": name}
    body = {"custom_object_record": {**named, "custom_object_fields": sent}}

    async def put() -> httpx.Response:
        return await place.api.client.put(path, params={**query, "strategy": strategy}, json=body)

    first = await put()
    if first.status_code == 422 and strategy == "replace":
        return  # of another type than what stood
    record = record_of(first)
    async with place.api.running.sql() as connection:
        written = await connection.fetchrow(_times, record["id"])
        answers = await asyncio.gather(*(put() for _ in range(count)))
        assert {answer.headers["Upsert-Result"] for answer in answers} == {"unchanged"}
        assert all(record_of(answer) == record for answer in answers)
        assert await connection.fetchrow(_times, record["id"]) == written
    listed = [item for item in await place.api.records(place.key) if item["name"] == record["name"]]
    assert listed == [record]


@moderate
@given(
    before=st.none() | records,
    sent=records,
    strategy=st.sampled_from(["force", "merge"]),
    callers=st.integers(2, 6),
)
async def test_a_put_that_many_send_at_one_moment_is_written_once(
    place: Place, before: Mapping[str, Any] | None, sent: Mapping[str, Any], strategy: str, callers: int
) -> None:
    name, named, _ = await place.new(before)
    path, query = f"/custom_objects/{place.key}/records", {"external_id": name, "strategy": strategy}
    body = {"custom_object_record": {**named, "custom_object_fields": sent}}
    answers = await asyncio.gather(
        *(place.api.client.put(path, params=query, json=body) for _ in range(callers))
    )
    outcomes = [answer.headers["Upsert-Result"] for answer in answers]
    changes = [outcome for outcome in outcomes if outcome != "unchanged"]
    assert changes in ([["created"]] if before is None else [["updated"], []])
    assert len({answer.content for answer in answers}) == 1
