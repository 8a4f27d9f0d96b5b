"""The refusals that every endpoint shares, for each path and method of the route table."""

import json
from importlib.metadata import version
from typing import Any

import httpx
import pytest

from tests.support.endpoints import (
    ADMIN_ENDPOINTS,
    BODY_ENDPOINTS,
    ENDPOINTS,
    GET_ENDPOINTS,
    ROOT,
    Endpoint,
    Place,
    ask,
    each,
)
from tests.support.harness import Api, Running
from upsert_svc.api.routes import TABLE

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PURGE")
NOT_FOUND = b'{"error":"RecordNotFound","description":"Not found"}'


@each(ENDPOINTS)
@pytest.mark.parametrize("authorization", [None, "Bearer wrong"])
async def test_an_unknown_caller_is_told_nothing_else(
    api: Api, place: Place, endpoint: Endpoint, authorization: str | None
) -> None:
    request = api.client.build_request(
        endpoint.method, place.url(endpoint.path), content=b"{broken", params={"external_id": "\0"}
    )
    del request.headers["Authorization"]
    if authorization:
        request.headers["Authorization"] = authorization
    response = await api.client.send(request)
    assert response.status_code == 401
    assert response.content == b"""{"error":"Couldn't authenticate you"}"""


@each(ADMIN_ENDPOINTS)
async def test_an_agent_is_forbidden_what_admins_do(
    api: Api, agent: Api, place: Place, endpoint: Endpoint
) -> None:
    before = await place.state(api)
    response = await ask(agent, place, endpoint)
    assert response.status_code == 403
    assert response.json()["error"] == "Forbidden"
    assert set(response.json()) == {"error", "description"}
    assert response.json()["description"]
    assert await place.state(api) == before


@each([endpoint for endpoint in ENDPOINTS if "{key}" in endpoint.path])
async def test_what_another_account_has_looks_exactly_like_what_is_missing(
    api: Api, stranger: Api, place: Place, endpoint: Endpoint
) -> None:
    before = await place.state(api)
    theirs = await ask(stranger, place, endpoint)
    missing = await ask(stranger, place, endpoint, names={"key": "nowhere_at_all"})
    assert (theirs.status_code, theirs.content) == (404, NOT_FOUND)
    assert answered(theirs) == answered(missing)
    assert await place.state(api) == before


def answered(response: httpx.Response) -> tuple[Any, ...]:
    headers = {
        name: value for name, value in response.headers.items() if name not in ("x-request-id", "date")
    }
    return response.status_code, response.content, headers


@each([endpoint for endpoint in ENDPOINTS if "{field}" in endpoint.path or "{id}" in endpoint.path])
async def test_a_field_or_record_of_another_object_looks_exactly_like_a_missing_one(
    api: Api, place: Place, endpoint: Endpoint
) -> None:
    other = await api.new_object()
    field_id = (await api.client.get(f"/custom_objects/{place.key}/fields/color")).json()[
        "custom_object_field"
    ]["id"]
    foreign = await ask(api, place, endpoint, names={"key": other, "field": str(field_id)})
    names = {"key": other, "field": "wheels", "id": "01" + "Z" * 24}
    missing = await ask(api, place, endpoint, names=names)
    malformed = await ask(api, place, endpoint, names={"key": other, "field": "'", "id": "x"})
    assert (foreign.status_code, foreign.content) == (404, NOT_FOUND)
    assert answered(foreign) == answered(missing) == answered(malformed)


@pytest.mark.parametrize("path", [pytest.param(path, id=path.removeprefix(ROOT)) for path in TABLE])
async def test_another_method_is_told_the_methods_allowed(api: Api, place: Place, path: str) -> None:
    allowed = {*TABLE[path], *({"HEAD"} if "GET" in TABLE[path] else ())}
    for method in set(METHODS) - allowed:
        response = await api.client.request(method, place.url(path))
        assert response.status_code == 405, method
        assert {word.strip() for word in response.headers["Allow"].split(",")} == allowed
        assert method == "HEAD" or response.json()["error"] == "MethodNotAllowed"


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_the_health_endpoints_answer_anyone_to_get_alone(service: Running, path: str) -> None:
    async with httpx.AsyncClient(base_url=service.address, trust_env=False) as client:
        assert (await client.get(path)).json() == {"status": "ok"}
        assert (await client.head(path)).status_code == 200
        assert (await client.post(path)).status_code == 405


async def test_the_bare_address_says_what_answers_here_to_anyone(service: Running) -> None:
    async with httpx.AsyncClient(base_url=service.address, trust_env=False) as client:
        answer = await client.get("/")
        assert (answer.status_code, answer.json()["name"]) == (200, "upsert-svc")
        assert answer.json()["version"] == version("upsert_svc")
        assert (await client.head("/")).status_code == 200
        assert (await client.post("/")).status_code == 405


@each(BODY_ENDPOINTS)
async def test_a_body_of_another_media_type_is_refused(api: Api, place: Place, endpoint: Endpoint) -> None:
    before = await place.state(api)
    for headers in (
        {"Content-Type": "application/xml"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": "application/json; charset=utf-16"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ):
        response = await ask(api, place, endpoint, headers=headers)
        assert (response.status_code, response.json()["error"]) == (415, "UnsupportedMediaType"), headers
        assert response.json()["description"]
    assert await place.state(api) == before


@each([endpoint for endpoint in BODY_ENDPOINTS if not endpoint.operation.bulk])
async def test_a_body_over_its_limit_is_refused(api: Api, place: Place, endpoint: Endpoint) -> None:
    response = await api.client.request(
        endpoint.method, place.url(endpoint.path), params=endpoint.query, content=b" " * (256 * 1024 + 1)
    )
    assert (response.status_code, response.json()["error"]) == (413, "PayloadTooLarge")
    assert "262144" in response.json()["description"]


@each(BODY_ENDPOINTS)
async def test_a_body_of_another_shape_is_a_bad_request_that_says_what_is_missing(
    api: Api, place: Place, endpoint: Endpoint
) -> None:
    before = await place.state(api)
    by_shape = [b"", b"  ", b"{", b"null", b"[]", b'"x"', b"5", b'{"title": "x"}']
    by_wrapper = [json.dumps({endpoint.wrapper: value}).encode() for value in (5, None)]
    for content in by_shape + by_wrapper:
        if endpoint.path.endswith("/reorder") and not content:
            continue  # some clients send no body there
        response = await api.client.request(
            endpoint.method, place.url(endpoint.path), params=endpoint.query, content=content
        )
        assert (response.status_code, response.json()["error"]) == (400, "BadRequest"), content
        assert set(response.json()) == {"error", "description"}
        assert response.json()["description"]
    assert await place.state(api) == before


@each(GET_ENDPOINTS)
async def test_head_answers_as_get_does_without_a_body(api: Api, place: Place, endpoint: Endpoint) -> None:
    shown = await ask(api, place, endpoint)
    headed = await ask(api, place, endpoint, method="HEAD")
    assert (shown.status_code, headed.status_code, headed.content) == (200, 200, b"")
    for name in ("content-type", "content-length"):
        assert headed.headers[name] == shown.headers[name]


@each(GET_ENDPOINTS)
async def test_every_path_answers_with_the_json_suffix(api: Api, place: Place, endpoint: Endpoint) -> None:
    plain = await ask(api, place, endpoint)
    suffixed = await ask(api, place, endpoint, suffix=".json")
    assert plain.status_code == suffixed.status_code == 200
    without_time = [{**answer.json(), "count": None} for answer in (plain, suffixed)]
    assert without_time[0] == without_time[1]


async def test_every_writing_path_answers_with_the_json_suffix(api: Api) -> None:
    async def write(method: str, path: str, body: Any = None, status: int = 200) -> Any:
        response = await api.client.request(method, f"/custom_objects{path}", json=body)
        assert response.status_code == status, (method, path, response.text)
        return response.json() if response.content else None

    await write("POST", ".json", {"custom_object": {"key": "suffixed", "title": "S"}}, 201)
    await write("PATCH", "/suffixed.json", {"custom_object": {"title": "T"}})
    field = {"custom_object_field": {"key": "f", "title": "F", "type": "text"}}
    made = await write("POST", "/suffixed/fields.json", field, 201)
    field_id = made["custom_object_field"]["id"]
    await write("PATCH", f"/suffixed/fields/{field_id}.json", {"custom_object_field": {"title": "T"}})
    await write("PUT", "/suffixed/fields/f.json", {"custom_object_field": {"title": "T"}})
    await write("PUT", "/suffixed/fields/reorder.json", {"field_ids": [field_id]})
    await write("DELETE", "/suffixed/fields/f.json", status=204)
    record = {"custom_object_record": {"name": "Ford"}}
    made = await write("POST", "/suffixed/records.json", record, 201)
    record_id = made["custom_object_record"]["id"]
    await write("PATCH", "/suffixed/records.json?external_id=v1", record)
    await write("PATCH", f"/suffixed/records/{record_id}.json", record)
    await write("DELETE", f"/suffixed/records/{record_id}.json", status=204)
    await write("DELETE", "/suffixed/records.json?external_id=v1", status=204)
    await write("DELETE", "/suffixed.json", status=204)


@pytest.mark.parametrize(
    "path",
    [
        "/api/v2",
        "/api/v2/",
        "/api/v3/custom_objects",
        "/API/V2/custom_objects",
        "/api/v2//custom_objects",
        "/api/v2/custom_objects/",
        "/api/v2/custom_objects/a/b",
        "/api/v2/custom_objects/a/records/b/c",
    ],
)
async def test_a_path_of_no_endpoint_is_not_found(api: Api, path: str) -> None:
    response = await api.client.get(f"{api.running.address}{path}")
    assert response.status_code == 404
    told = "Not found: no path of the API ends with a slash" if path.endswith("/") else "Not found"
    assert response.json() == {"error": "InvalidEndpoint", "description": told}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/custom_objects", {"custom_object": {"key": "", "title": 5}}),
        ("POST", "/custom_objects/{key}/fields", {"custom_object_field": {"active": "x", "tag": 5}}),
        (
            "POST",
            "/custom_objects/{key}/fields",
            {"custom_object_field": {"custom_field_options": [{"name": 1}, {"value": 2}, 3]}},
        ),
        ("PATCH", "/custom_objects/{key}/fields/color", {"custom_object_field": {"title": ""}}),
        ("DELETE", "/custom_objects/{key}/fields/standard::name", None),
        ("POST", "/custom_objects/{key}/records", {"custom_object_record": {"name": 5, "external_id": 5}}),
        ("POST", "/custom_objects/{key}/records", {"custom_object_record": {"name": "Ford"}}),
        (
            "POST",
            "/custom_objects/{key}/records",
            {"custom_object_record": {"name": "a", "external_id": "v1"}},
        ),
        ("POST", "/custom_objects/{key}/records", {"custom_object_record": {"custom_object_fields": []}}),
        (
            "PATCH",
            "/custom_objects/{key}/records?external_id=v1",
            {"custom_object_record": {"custom_object_fields": {"color": 5, "wheels": 4}}},
        ),
    ],
)
async def test_the_details_of_a_422_are_non_empty_lists_of_descriptions_and_errors(
    api: Api, place: Place, method: str, path: str, body: Any
) -> None:
    response = await api.client.request(method, path.format(key=place.key), json=body)
    assert response.status_code == 422
    answer = response.json()
    assert (answer["error"], answer["description"]) == ("RecordInvalid", "Record validation errors")
    assert answer["details"]
    for problems in answer["details"].values():
        assert problems
        for problem in problems:
            assert set(problem) == {"description", "error"}
            assert all(isinstance(text, str) and text for text in problem.values())


async def test_a_duplicate_unique_name_is_refused_in_the_words_that_clients_look_for(
    api: Api, place: Place
) -> None:
    response = await api.create(place.key, name="FORD")
    assert response.json()["details"]["base"][0]["description"] == "Name already exists. Try another one."
