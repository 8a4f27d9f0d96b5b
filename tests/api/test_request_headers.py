"""Bodies and headers as HTTP stacks send them: byte order marks, encodings, headers that are set twice."""

import base64
import json
from collections.abc import Mapping
from urllib.parse import urlencode

import httpx
import pytest

from tests.hostile.wire import Wire
from tests.support.endpoints import BODY_ENDPOINTS, ROOT, Endpoint, Place, ask, each, target, unmake
from tests.support.harness import ADMIN_EMAIL, JSON_TYPE, Api, record_of

MARK = b"\xef\xbb\xbf"
CAR = {"custom_object_record": {"name": "Zoë"}}


async def as_bytes(
    api: Api,
    place: Place,
    endpoint: Endpoint,
    content: bytes,
    names: Mapping[str, str] | None = None,
    **headers: str,
) -> httpx.Response:
    url = f"{place.url(endpoint.path, names or {})}?{urlencode(endpoint.query)}"
    return await api.client.request(endpoint.method, url, content=content, headers=headers)


# Byte order marks


@each(BODY_ENDPOINTS)
@pytest.mark.parametrize("content_type", ["application/json", "text/plain", ""])
async def test_a_byte_order_mark_before_the_body_is_taken(
    api: Api, place: Place, endpoint: Endpoint, content_type: str
) -> None:
    if str(endpoint) == "POST /custom_objects":
        await unmake(api)
    names = await target(api, endpoint)
    content = MARK + json.dumps(endpoint.body).encode()
    headers = {"Content-Type": content_type} if content_type else {}
    response = await as_bytes(api, place, endpoint, content, names, **headers)
    assert response.is_success, response.text


async def test_a_byte_order_mark_is_no_part_of_what_is_written(api: Api) -> None:
    key = await api.new_object()
    url = f"/custom_objects/{key}/records"
    content = MARK + json.dumps(CAR, ensure_ascii=False).encode()
    made = await api.client.patch(f"{url}?external_id=v1", content=content)
    again = await api.client.patch(f"{url}?external_id=v1", json=CAR)
    assert record_of(made)["name"] == "Zoë"
    assert again.headers["Upsert-Result"] == "unchanged"
    keyed = [
        await api.client.post(url, content=content, headers={"Idempotency-Key": f"{key} mark"})
        for _ in range(2)
    ]
    assert [answer.headers["X-Idempotency-Lookup"] for answer in keyed] == ["miss", "hit"]


async def test_a_job_with_a_byte_order_mark_is_carried_out(api: Api) -> None:
    key = await api.new_object()
    job = {"job": {"action": "create", "items": [{"name": "Zoë"}, {"name": "Ada"}]}}
    content = MARK + json.dumps(job, ensure_ascii=False).encode()
    response = await api.client.post(f"/custom_objects/{key}/jobs", content=content)
    assert response.status_code == 201, response.text
    done = await api.finished(response.json()["job_status"]["id"])
    assert [result["status"] for result in done["results"]] == ["Created"] * 2
    assert sorted(record["name"] for record in await api.records(key)) == ["Ada", "Zoë"]


@each(BODY_ENDPOINTS)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
async def test_a_body_in_another_encoding_of_unicode_is_refused_by_its_name(
    api: Api, place: Place, endpoint: Endpoint, encoding: str
) -> None:
    before = await place.state(api)
    response = await as_bytes(api, place, endpoint, json.dumps(endpoint.body).encode(encoding))
    assert (response.status_code, response.json()["error"]) == (400, "BadRequest")
    assert f"The body is not UTF-8: it seems to be {encoding.upper()}" in response.json()["description"]
    assert await place.state(api) == before


# Headers that are refused, or set twice


@each(BODY_ENDPOINTS)
@pytest.mark.parametrize("encoding", ["utf-8", "gzip", "br", "identity, gzip", "UTF-8, UTF-8"])
async def test_a_content_encoding_is_refused_by_name_and_value(
    api: Api, place: Place, endpoint: Endpoint, encoding: str
) -> None:
    before = await place.state(api)
    response = await ask(api, place, endpoint, headers={"Content-Encoding": encoding})
    assert (response.status_code, response.json()["error"]) == (415, "UnsupportedMediaType")
    assert f"Content-Encoding: {encoding} is not taken" in response.json()["description"]
    assert await place.state(api) == before


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Encoding": "identity"},
        {"Content-Encoding": "Identity, identity"},
        {"Content-Type": "application/json, application/json"},
        {"Content-Type": "application/json; charset=utf-8, application/json; charset=utf-8"},
        {"Content-Type": "application/json,application/json;charset=UTF-8"},
        {"Content-Type": 'text/plain; charset="utf-8", application/json'},
        {"X-HTTP-Method-Override": "PATCH, PATCH"},
        {"Accept": "text/html, application/xml, application/xml"},
        {"If-Match": '"x", {tag}, {tag}'},
    ],
    ids=str,
)
async def test_a_header_whose_values_are_all_taken_is_taken(api: Api, headers: Mapping[str, str]) -> None:
    key = await api.new_object()
    tag = (await api.upsert(key, {"name": "Ford"}, external_id="v1")).headers["ETag"]
    sent = {name: value.replace("{tag}", tag) for name, value in headers.items()}
    response = await api.upsert(key, {"name": "Fiat"}, external_id="v1", headers=sent)
    assert record_of(response)["name"] == "Fiat"
    assert response.headers["Content-Type"] == JSON_TYPE


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json, text/xml",
        "text/xml, application/json",
        "application/json; charset=utf-8, application/json; charset=utf-16",
        "application/xml",
    ],
)
async def test_a_content_type_that_is_refused_is_told(api: Api, place: Place, content_type: str) -> None:
    url = place.url("/custom_objects/{key}/records?external_id=v1")
    response = await api.client.patch(url, content=b"{}", headers={"Content-Type": content_type})
    assert response.status_code == 415
    assert (
        content_type in response.json()["description"] or "charset=utf-16" in response.json()["description"]
    )


TWO_LINES = [
    ("Content-Type", ("application/json", "text/html"), 415),
    ("Content-Type", ("application/json", "application/json; charset=utf-16"), 415),
    ("Content-Type", ("application/json", "application/json; charset=utf-8"), 200),
    ("Content-Encoding", ("identity", "gzip"), 415),
    ("Content-Encoding", ("identity", "identity"), 200),
    ("X-HTTP-Method-Override", ("{method}", "DELETE"), 400),
    ("X-Method-Override", ("{method}", "DELETE"), 400),
    ("X-HTTP-Method", ("{method}", "DELETE"), 400),
    ("X-HTTP-Method-Override", ("{method}", "{method}"), 200),
    ("If-Match", ("*", '"x"'), 400),
    ("If-None-Match", ("*", '"x"'), 400),
    ("If-Match", ("*", "x"), 400),
]


@each([endpoint for endpoint in BODY_ENDPOINTS if endpoint.path.endswith(("/records", "/records/{id}"))])
@pytest.mark.parametrize(("name", "values", "status"), TWO_LINES, ids=str)
@pytest.mark.parametrize("is_listed", [False, True], ids=["on two lines", "in a list"])
async def test_a_header_on_two_lines_is_judged_as_in_one_list(
    api: Api,
    place: Place,
    endpoint: Endpoint,
    name: str,
    values: tuple[str, str],
    status: int,
    is_listed: bool,
) -> None:
    names = await target(api, endpoint)
    url = f"{place.url(endpoint.path, names)}?{urlencode(endpoint.query)}"
    sent = [value.format(method=endpoint.method) for value in values]
    headers = [(name, ", ".join(sent))] if is_listed else [(name, value) for value in sent]
    before = await api.records(names["key"])
    response = await api.client.request(endpoint.method, url, json=endpoint.body, headers=headers)
    expected = 201 if status == 200 and endpoint.method == "POST" else status
    assert response.status_code == expected, response.text
    if status != 200:
        assert await api.records(names["key"]) == before


@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT"])
@pytest.mark.parametrize("name", ["If-Match", "If-None-Match"])
async def test_a_star_that_is_given_twice_is_as_good_as_once(api: Api, method: str, name: str) -> None:
    for count in range(2):
        answers = []
        for sent in ([(name, "*")], [(name, "*")] * 2, [(name, "*, *")]):
            key = await api.new_object()
            if count:
                await api.create(key, name="Ford", external_id="v1")
            query = "" if method == "POST" else "?external_id=v1"
            url = f"/custom_objects/{key}/records{query}"
            answers.append((await api.client.request(method, url, json=CAR, headers=sent)).status_code)
        assert answers[1:] == answers[:1] * 2


async def test_a_credential_that_is_given_twice_is_taken_where_it_is_the_same(api: Api, place: Place) -> None:
    basic = f"Basic {base64.b64encode(f'{ADMIN_EMAIL}/token:{api.token}'.encode()).decode()}"
    for credential in (f"Bearer {api.token}", basic):
        listed = await api.client.get(
            place.url("/custom_objects/{key}"), headers={"Authorization": f"{credential}, {credential}"}
        )
        assert listed.status_code == 200
    another = f"Bearer {api.token}, {basic}"
    assert (await api.client.get("/custom_objects", headers={"Authorization": another})).status_code == 401


async def test_two_credentials_that_differ_are_refused(api: Api, place: Place) -> None:
    wire = Wire(api.running, api.token)
    same, other = f"Authorization: Bearer {api.token}", "Authorization: Bearer another"
    path = f"{ROOT}{place.url('/custom_objects/{key}')}"
    assert (await wire.exchange(wire.head("GET", path, same)))[0] == 200
    status, answer = await wire.exchange(wire.head("GET", path, other))
    assert status == 400
    assert b"Authorization is given twice, with different values" in answer


async def test_two_idempotency_keys_that_differ_are_refused(api: Api) -> None:
    key = await api.new_object()
    url, name = f"/custom_objects/{key}/records", "Idempotency-Key"
    same = [(name, f"{key} a"), (name, f"{key} a")]
    made = [await api.client.post(url, json=CAR, headers=same) for _ in range(2)]
    assert [answer.headers["X-Idempotency-Lookup"] for answer in made] == ["miss", "hit"]
    refused = await api.client.post(url, json=CAR, headers=[(name, f"{key} a"), (name, f"{key} b")])
    assert (refused.status_code, refused.json()["error"]) == (400, "BadRequest")
    assert "Idempotency-Key is given twice" in refused.json()["description"]
    assert len(await api.records(key)) == 1
