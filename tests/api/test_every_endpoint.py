"""The good answer of every endpoint of the route table to either role, and the refusals of its kind."""

import asyncio
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import asyncpg
import httpx
import pytest

from tests.hostile.wire import Wire
from tests.support.endpoints import (
    AGENT_ENDPOINTS,
    BODY_ENDPOINTS,
    ENDPOINTS,
    IDENTIFIED_ENDPOINTS,
    NO_NAMES,
    READ_ENDPOINTS,
    ROOT,
    WRITE_ENDPOINTS,
    Endpoint,
    Place,
    ask,
    each,
)
from tests.support.harness import JSON_TYPE, Api, Cluster, problems_of, record_of, running

OBJECT = {
    "url", "key", "title", "raw_title", "title_pluralized", "raw_title_pluralized", "description",
    "raw_description", "include_in_list_view", "allows_photos", "allows_attachments", "created_by_user_id",
    "updated_by_user_id", "created_at", "updated_at",
}  # fmt: skip
FIELD = {
    "url", "id", "type", "key", "title", "raw_title", "description", "raw_description", "position", "active",
    "required", "system", "regexp_for_validation", "tag", "custom_field_options", "relationship_target_type",
    "relationship_filter", "properties", "created_at", "updated_at",
}  # fmt: skip
RECORD = {
    "url", "id", "name", "external_id", "custom_object_key", "custom_object_fields", "photo", "created_at",
    "updated_at", "created_by_user_id", "updated_by_user_id",
}  # fmt: skip
JOB = {"id", "job_type", "url", "total", "progress", "status", "message", "results"}
EVENT = {"id", "type", "source", "description", "actor", "properties", "created_at", "received_at"}
LINKS, PAGE = {"next", "prev"}, {"has_more", "after_cursor", "before_cursor"}
# of everything that stands under a name at the top of an answer
KEYS: Mapping[str, set[str]] = {
    "custom_object": OBJECT,
    "custom_objects": OBJECT,
    "custom_object_field": FIELD,
    "custom_object_fields": FIELD,
    "custom_object_record": RECORD,
    "custom_object_records": RECORD,
    "job_status": JOB,
    "job_statuses": JOB,
    "events": EVENT,
    "links": LINKS,
    "meta": {"has_more"},
    "count": {"value", "refreshed_at"},
    "user": {"id", "url", "name", "email", "role", "active", "verified", "created_at", "updated_at"},
}
ULID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
NOWHERE = {"key": "nowhere", "field": "nowhere", "id": ULID, "job": ULID}
IS_LIMIT = re.compile(r"/limits/\w+$")
RECORD_WRITES = [
    endpoint
    for endpoint in WRITE_ENDPOINTS
    if endpoint in IDENTIFIED_ENDPOINTS or endpoint.path.endswith("/records/{id}")
]
TEXT_ATTRIBUTE = {"custom_object": "title", "custom_object_field": "title", "custom_object_record": "name"}


async def fresh(api: Api, endpoint: Endpoint) -> Mapping[str, str]:
    """What to put in the path: the place itself to read, an object of its own to write.

    The object has the record that the writing is of, unless it is to be made.
    """
    if endpoint.operation.reads:
        return NO_NAMES
    key = await api.new_object({"key": "color", "type": "text"}, naming={"is_unique": True})
    if endpoint.method == "POST":
        return {"key": key}
    return {"key": key, "id": record_of(await api.create(key, name="Ford", external_id="v1"))["id"]}


def status_of(endpoint: Endpoint) -> int:
    """The status of the good answer."""
    if endpoint.method == "POST" and not (endpoint.operation.reads or endpoint.operation.streams):
        return 201
    return 204 if endpoint.method == "DELETE" else 200


async def unmake(api: Api) -> None:
    """Removes the object that a POST makes, so that the next one can."""
    (post,) = [e for e in ENDPOINTS if str(e) == "POST /custom_objects"]
    await api.client.delete(f"/custom_objects/{post.body['custom_object']['key']}")


def assert_whole(answer: Any) -> None:
    """Every resource of an answer has every documented key, and every id of a user is digits in a string."""
    for name, value in answer.items():
        items = value if isinstance(value, list) else [value]
        for item in items:
            if isinstance(item, dict) and name != "filter":
                assert KEYS[name] <= set(item), name
                users = [item[key] for key in item if key.endswith("_by_user_id")]
                assert all(isinstance(user, str) and user.isdigit() for user in users)


def assert_good(response: httpx.Response, endpoint: Endpoint) -> None:
    assert response.status_code == status_of(endpoint), response.text
    assert "X-Request-Id" in response.headers
    if endpoint.method == "DELETE":
        assert response.content == b""
        return
    assert response.headers["Content-Type"] == JSON_TYPE
    answer = response.json()
    if IS_LIMIT.search(endpoint.path):
        assert {name: type(value) for name, value in answer.items()} == {"count": int, "limit": int}
    elif endpoint.operation.streams:
        assert answer.keys() == {"results", "total", "created", "updated", "unchanged", "refused"}
        assert answer["results"][0].keys() == {"index", "status", "result", "id", "external_id", "name"}
    elif isinstance(answer, dict):
        assert_whole(answer)
    else:
        assert endpoint.path.endswith("/reorder")


@each(ENDPOINTS)
@pytest.mark.parametrize("suffix", ["", ".json"])
async def test_an_admin_is_answered_in_full_with_and_without_the_suffix(
    api: Api, place: Place, endpoint: Endpoint, suffix: str
) -> None:
    await unmake(api)
    names = await fresh(api, endpoint)
    assert_good(await ask(api, place, endpoint, suffix=suffix, names=names), endpoint)


@each(AGENT_ENDPOINTS)
async def test_an_agent_is_answered_in_full_where_admins_are_not_alone(
    api: Api, agent: Api, place: Place, endpoint: Endpoint
) -> None:
    names = await fresh(api, endpoint)
    assert_good(await ask(agent, place, endpoint, names=names), endpoint)


@each(ENDPOINTS)
def test_among_objects_only_definitions_are_written_by_admins_alone(endpoint: Endpoint) -> None:
    if endpoint.path.startswith(f"{ROOT}/custom_objects"):
        of_records = "/records" in endpoint.path or "/jobs" in endpoint.path
        assert endpoint.operation.admin is (endpoint.method != "GET" and not of_records)


@each(ENDPOINTS)
async def test_a_query_that_cannot_be_read_is_refused(api: Api, place: Place, endpoint: Endpoint) -> None:
    before = await place.state(api)
    for query, status, error in (
        ("x=%ff", 400, "BadRequest"),
        ("&".join(f"q{number}=1" for number in range(201)), 400, "BadRequest"),
        ("x=%00", 422, "RecordInvalid"),
        ("%00=1", 422, "RecordInvalid"),
    ):
        response = await ask(api, place, endpoint, query=query)
        assert (response.status_code, response.json()["error"]) == (status, error), query
    assert await place.state(api) == before


@each([endpoint for endpoint in ENDPOINTS if "{" in endpoint.path])
async def test_a_name_in_the_path_that_nothing_can_have_is_not_found(
    api: Api, place: Place, endpoint: Endpoint
) -> None:
    for named in ("%00", "a%00b", "%ED%A0%80", "x" * 300, "%F0%9F%9A%97", "'", "%20"):
        for name in re.findall(r"{(\w+)}", endpoint.path):
            response = await ask(api, place, endpoint, names={name: named})
            assert (response.status_code, response.json()["error"]) == (404, "RecordNotFound"), named


@each(IDENTIFIED_ENDPOINTS)
async def test_what_is_identified_needs_exactly_one_identifier(
    api: Api, place: Place, endpoint: Endpoint
) -> None:
    of_many_names = await api.new_object()
    before = await place.state(api)
    for query in (
        "",
        "external_id=&name=",
        "external_id=v1&name=Ford",
        "external_id=v1&external_id=v1",
        "name=Ford&name=Ford",
    ):
        response = await ask(api, place, endpoint, query=query)
        assert (response.status_code, response.json()["error"]) == (400, "BadRequest"), query
    for name in ("external_id", "name"):
        response = await ask(api, place, endpoint, query=f"{name}={'x' * 256}")
        assert list(problems_of(response)) == [name]
    response = await ask(api, place, endpoint, query="name=Ford", names={"key": of_many_names})
    assert list(problems_of(response)) == ["base"]
    assert await place.state(api) == before


@each(READ_ENDPOINTS)
async def test_every_listing_and_nothing_else_validates_the_page(
    api: Api, place: Place, endpoint: Endpoint
) -> None:
    good = (await ask(api, place, endpoint)).json()
    wanted = urlencode(endpoint.query)
    for page in ("page[size]=0", "page[size]=101", "page[size]=x", "page[after]=x", "page[before]=x"):
        response = await ask(api, place, endpoint, query=f"{wanted}&{page}")
        # an export has no such cursors, and does not begin anew for who sends one
        is_refused = "links" in good or ("end_of_stream" in good and "size" not in page)
        assert response.status_code == (400 if is_refused else 200), page
    if "links" in good:
        assert set(good["meta"]) == PAGE
        one = (await ask(api, place, endpoint, query=f"{wanted}&page[size]=1")).json()
        assert len(next(items for items in one.values() if isinstance(items, list))) <= 1


@each([endpoint for endpoint in BODY_ENDPOINTS if endpoint.wrapper in TEXT_ATTRIBUTE])
async def test_an_attribute_of_the_wrong_type_is_named(api: Api, place: Place, endpoint: Endpoint) -> None:
    before = await place.state(api)
    wrapper = endpoint.wrapper
    attribute = TEXT_ATTRIBUTE[wrapper]
    all_wrong: tuple[Any, ...] = (5, True, [], {}, "x" * 256)
    for wrong in all_wrong:
        body = {wrapper: {**endpoint.body[wrapper], attribute: wrong}}
        response = await ask(api, place, endpoint, body=body)
        assert list(problems_of(response)) == [attribute]
    assert await place.state(api) == before


@each(RECORD_WRITES)
async def test_conditions_hold_wherever_a_record_is_written(
    api: Api, place: Place, endpoint: Endpoint
) -> None:
    before = await place.state(api)
    for headers, status, error in (
        ({"If-Match": '"another"'}, 412, "PreconditionFailed"),
        ({"If-None-Match": "*"}, 412, "PreconditionFailed"),
        ({"If-Match": "untagged"}, 400, "BadRequest"),
    ):
        response = await ask(api, place, endpoint, headers=headers)
        assert (response.status_code, response.json()["error"]) == (status, error)
    assert await place.state(api) == before


@each([endpoint for endpoint in WRITE_ENDPOINTS if not endpoint.operation.streams])
async def test_every_write_is_done_once_per_key(api: Api, place: Place, endpoint: Endpoint) -> None:
    await unmake(api)
    names = await fresh(api, endpoint)
    key = {"Idempotency-Key": f"every {endpoint}"}
    first, again = [await ask(api, place, endpoint, headers=key, names=names) for _ in range(2)]
    assert first.is_success, first.text
    assert [answer.headers["X-Idempotency-Lookup"] for answer in (first, again)] == ["miss", "hit"]
    assert (again.status_code, again.content) == (first.status_code, first.content)
    query = f"{urlencode(endpoint.query)}&other=1"
    other = await ask(api, place, endpoint, query=query, headers=key, names=names)
    assert (other.status_code, other.json()["error"]) == (400, "IdempotentRequestError")
    for bad in ("", "x" * 256):
        refused = await ask(api, place, endpoint, headers={"Idempotency-Key": bad}, names=names)
        assert (refused.status_code, refused.json()["error"]) == (400, "BadRequest")


async def test_a_body_that_does_not_come_is_waited_for_nowhere(cluster: Cluster, place: Place) -> None:
    async with running(await cluster.new_database(), body_timeout_seconds=0.3) as service:
        wire = Wire(service, await service.token())
        heads = [
            wire.head(
                endpoint.method,
                f"{ROOT}{place.url(endpoint.path, NOWHERE)}?{urlencode(endpoint.query)}",
                "Content-Length: 9",
            )
            for endpoint in BODY_ENDPOINTS
        ]
        answers = await asyncio.gather(*(wire.exchange(head + b"{") for head in heads))
    assert {status for status, _ in answers} == {408}
    assert all(b'"RequestTimeout"' in answer for _, answer in answers)


async def test_without_a_database_every_endpoint_asks_to_come_again(cluster: Cluster, place: Place) -> None:
    url = await cluster.new_database()
    name = re.findall(r"/(\w+)\?", url)[0]
    async with running(url, acquire_timeout_seconds=0.5) as service:
        api = Api(service, await service.token())
        administrator = await asyncpg.connect(cluster.url)
        try:
            assert (await api.client.get("/custom_objects")).status_code == 200  # now the token is believed
            await administrator.execute(f'alter database "{name}" with allow_connections false')
            await administrator.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1", name
            )
            answers = await asyncio.gather(*(ask(api, place, e, names=NOWHERE) for e in ENDPOINTS))
        finally:
            await administrator.execute(f'alter database "{name}" with allow_connections true')
            await administrator.close()
        await api.client.aclose()
    for answer in answers:
        assert (answer.status_code, answer.json()["error"]) == (503, "ServiceUnavailable"), answer.url
        assert int(answer.headers["Retry-After"]) > 0
