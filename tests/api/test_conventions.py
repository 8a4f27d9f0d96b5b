"""What holds for every answer: links, request ids, times, the query and bodies as clients send them."""

import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import Any

import httpx
import pytest

from tests.support.harness import JSON_TYPE, Api, Cluster, problems_of, record_of, running
from upsert_svc.api.requests import api_url
from upsert_svc.settings import Settings

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


@pytest.fixture(scope="module")
async def key(api: Api) -> str:
    key = await api.new_object({"key": "color", "type": "text"}, naming={"is_unique": True})
    for name in ("Ford", "Opel"):
        record_of(await api.create(key, name=name, external_id=name.lower()))
    return key


@pytest.fixture(scope="module")
async def untrusting(cluster: Cluster) -> AsyncIterator[Api]:
    """A service that trusts one proxy, which is not the caller."""
    trusted = (ip_network("10.1.0.0/16"),)
    async with running(await cluster.new_database(), trusted_proxies=trusted) as service:
        api = Api(service, await service.token())
        async with api.client:
            yield api


@pytest.fixture(scope="module")
async def trusting(cluster: Cluster) -> AsyncIterator[Api]:
    """A service whose operator named the caller a proxy."""
    trusted = (ip_network("127.0.0.1/32"),)
    async with running(await cluster.new_database(), trusted_proxies=trusted) as service:
        api = Api(service, await service.token())
        async with api.client:
            await api.new_object(key="car")
            yield api


def links(value: Any) -> list[str]:
    """Every absolute address in an answer."""
    if isinstance(value, dict):
        return [link for item in value.values() for link in links(item)]
    if isinstance(value, list):
        return [link for item in value for link in links(item)]
    return [value] if isinstance(value, str) and "://" in value else []


@pytest.mark.parametrize(
    ("headers", "base"),
    [
        ({"Host": "data.example.com"}, "http://data.example.com"),
        ({"Host": "data.example.com:8443"}, "http://data.example.com:8443"),
        ({"Host": "[::1]:9000"}, "http://[::1]:9000"),
        ({"Host": "a", "X-Forwarded-Proto": "https"}, "https://a"),
        ({"Host": "a", "X-Forwarded-Proto": "https, http"}, "https://a"),
        ({"Host": "a", "X-Forwarded-Proto": "javascript"}, "http://a"),
    ],
)
async def test_links_carry_the_scheme_and_host_that_the_caller_used(
    api: Api, key: str, headers: dict[str, str], base: str
) -> None:
    paths = ("/custom_objects", f"/custom_objects/{key}/fields", f"/custom_objects/{key}/records")
    for path in paths:
        response = await api.client.get(path, params={"page[size]": 1}, headers=headers)
        found = links(response.json())
        assert len(found) >= 1
        assert all(link.startswith(f"{base}/api/v2/custom_objects") for link in found), found
    created = await api.client.patch(
        f"/custom_objects/{key}/records",
        params={"external_id": f"at {headers}"},
        json={"custom_object_record": {"name": str(headers)}},
        headers=headers,
    )
    assert created.headers["Location"].startswith(f"{base}/api/v2/custom_objects/{key}/records/")


@pytest.mark.parametrize(
    ("headers", "base"),
    [
        ({"X-Forwarded-Proto": "https, http", "X-Forwarded-Host": "b, c"}, "https://b"),
        ({"X-Forwarded-Host": "b:444"}, "http://b:444"),
        ({"X-Forwarded-Host": "evil/path?x"}, "http://a"),
        ({"X-Forwarded-Host": ""}, "http://a"),
    ],
)
async def test_a_proxy_that_was_named_may_name_the_host(
    trusting: Api, headers: dict[str, str], base: str
) -> None:
    response = await trusting.client.get("/custom_objects/car", headers={"Host": "a", **headers})
    assert links(response.json()) == [f"{base}/api/v2/custom_objects/car.json"]


async def test_of_a_proxy_on_this_host_that_nobody_named_the_scheme_counts_and_the_host_does_not(
    api: Api, key: str
) -> None:
    headers = {"Host": "a", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example.com"}
    response = await api.client.get(f"/custom_objects/{key}", headers=headers)
    assert links(response.json()) == [f"https://a/api/v2/custom_objects/{key}.json"]


def test_the_proxies_that_name_a_host_are_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().host_proxies == ()
    monkeypatch.setenv("UPSERT_SVC_TRUSTED_PROXIES", "127.0.0.1/32, 10.1.0.0/16")
    assert Settings().host_proxies == (ip_network("127.0.0.1/32"), ip_network("10.1.0.0/16"))


@pytest.mark.parametrize("host", ["a b", "a/b", "a@b", 'a"b', "x" * 10 + ":99999999"])
async def test_a_host_that_is_none_is_not_echoed(api: Api, key: str, host: str) -> None:
    response = await api.client.get(f"/custom_objects/{key}", headers={"Host": host})
    if response.status_code == 400:
        return  # refused by the server before it came here
    assert links(response.json()) == [f"{api.running.address}/api/v2/custom_objects/{key}.json"]


async def test_forwarded_headers_of_an_untrusted_caller_are_ignored(untrusting: Api) -> None:
    forwarded = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example.com"}
    key = await untrusting.new_object()
    response = await untrusting.client.get(f"/custom_objects/{key}", headers=forwarded)
    assert links(response.json()) == [f"{untrusting.running.address}/api/v2/custom_objects/{key}.json"]


@pytest.mark.parametrize(
    ("address", "scheme"),
    [("10.1.2.3", "https"), ("::ffff:10.1.2.3", "https"), ("10.2.0.1", "http"), ("x", "http")],
)
def test_a_proxy_is_known_by_its_address_in_either_family(address: str, scheme: str) -> None:
    headers = {b"host": b"a", b"x-forwarded-proto": b"https"}
    scope = {"type": "http", "scheme": "http", "client": (address, 1)}
    assert api_url(scope, headers, (ip_network("10.1.0.0/16"),)) == f"{scheme}://a/api/v2"


async def test_every_link_is_answered(api: Api, key: str) -> None:
    for path in ("/custom_objects", f"/custom_objects/{key}/fields", f"/custom_objects/{key}/records"):
        found = links((await api.client.get(path, params={"page[size]": 1})).json())
        assert [(await api.client.get(link)).status_code for link in found] == [200] * len(found)
    location = (await api.upsert(key, {"name": "Located"}, external_id="located")).headers["Location"]
    assert record_of(await api.client.get(location))["external_id"] == "located"


@pytest.mark.parametrize("sent", ["abc", "x" * 128, "!~{}"])
async def test_a_sane_request_id_is_echoed(api: Api, sent: str) -> None:
    for path in ("/custom_objects", "/custom_objects/missing", "/nowhere"):
        response = await api.client.get(path, headers={"X-Request-Id": sent})
        assert response.headers["X-Request-Id"] == sent


@pytest.mark.parametrize("sent", [b"", b"x" * 129, b"a b", "é".encode(), b"a\tb"])
async def test_another_request_id_is_replaced(api: Api, sent: bytes) -> None:
    response = await api.client.get("/custom_objects", headers={b"X-Request-Id": sent})
    assert re.fullmatch(r"[0-9a-f]{32}", response.headers["X-Request-Id"])


async def test_each_answer_has_a_request_id_of_its_own(api: Api, key: str) -> None:
    unauthenticated = httpx.AsyncClient(base_url=api.running.address, trust_env=False)
    async with unauthenticated:
        responses = [
            await api.client.get("/custom_objects"),
            await api.client.head("/custom_objects"),
            await api.client.get("/custom_objects/missing"),
            await api.client.post("/custom_objects", content=b"{"),
            await api.client.options("/custom_objects"),
            await api.upsert(key, external_id="ford"),
            await unauthenticated.get("/api/v2/custom_objects"),
            await unauthenticated.get("/nowhere"),
            await unauthenticated.get("/healthz"),
        ]
    ids = [response.headers["X-Request-Id"] for response in responses]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    "query",
    [
        "locale=en&page=1&per_page=100&page_size=100&sort=&unknown[]=1&filter[dynamic_values][a]=b",
        "organization_id=&requester_id=5&field_id=6&source=x&include=y&page=abc&=&%20=1&a&&",
    ],
)
async def test_unknown_query_keys_are_ignored(api: Api, key: str, query: str) -> None:
    for path in ("/custom_objects", f"/custom_objects/{key}", f"/custom_objects/{key}/fields",
                 f"/custom_objects/{key}/records", f"/custom_objects/{key}/records/count"):  # fmt: skip
        plain, asked = await api.client.get(path), await api.client.get(f"{path}?{query}")
        assert asked.status_code == 200
        plain_body, asked_body = plain.json(), asked.json()
        for body in (plain_body, asked_body):
            body.pop("count", None)  # it tells when it was counted
            body.pop("links", None)  # they repeat the query
        assert plain_body == asked_body
    response = await api.client.patch(
        f"/custom_objects/{key}/records?external_id=ford&{query}", json={"custom_object_record": {}}
    )
    assert response.headers["Upsert-Result"] == "unchanged"


@pytest.mark.parametrize("value", ["x+2", "x%202"])
async def test_plus_and_percent_20_are_both_a_space_in_the_query(api: Api, key: str, value: str) -> None:
    response = await api.client.patch(
        f"/custom_objects/{key}/records?external_id={value}",
        json={"custom_object_record": {"name": "Spaced"}},
    )
    assert record_of(response)["external_id"] == "x 2"


@pytest.mark.parametrize(
    "headers", [{"Content-Type": "text/plain"}, {"Content-Type": "text/plain; charset=utf-8"}, {}]
)
async def test_json_is_taken_as_plain_text_or_untyped(api: Api, key: str, headers: dict[str, str]) -> None:
    response = await api.client.patch(
        f"/custom_objects/{key}/records",
        params={"external_id": "ford"},
        content=json.dumps({"custom_object_record": {"name": "FORD"}}),
        headers=headers,
    )
    assert record_of(response)["name"] == "FORD"


async def test_answers_are_json_with_a_content_type(api: Api, key: str) -> None:
    responses = [
        await api.client.get(f"/custom_objects/{key}/records"),
        await api.create(key, name="Typed"),
        await api.client.get("/custom_objects/missing"),
        await api.client.get("/nowhere"),
        await api.client.put("/custom_objects"),
    ]
    assert {response.headers["Content-Type"] for response in responses} == {JSON_TYPE}
    deleted = await api.client.delete(f"/custom_objects/{key}/records/{record_of(responses[1])['id']}")
    assert (deleted.status_code, deleted.content) == (204, b"")


async def test_times_are_utc_by_the_second(api: Api, key: str) -> None:
    started = datetime.now(UTC).replace(microsecond=0)
    record = record_of(await api.create(key, name="Timed"))
    field = (await api.client.get(f"/custom_objects/{key}/fields/color")).json()["custom_object_field"]
    shown = [
        record["created_at"],
        record["updated_at"],
        (await api.client.get(f"/custom_objects/{key}")).json()["custom_object"]["updated_at"],
        field["created_at"],
        (await api.client.get(f"/custom_objects/{key}/records/count")).json()["count"]["refreshed_at"],
    ]
    assert all(TIME.fullmatch(text) for text in shown)
    assert started <= datetime.fromisoformat(record["created_at"]) <= datetime.now(UTC)


async def test_what_generated_clients_send_along_is_ignored_and_named(api: Api, key: str) -> None:
    sent = {
        "id": None,
        "external_id": None,
        "photo": None,
        "custom_object_key": "",
        "created_at": "0001-01-01T00:00:00Z",
        "created_by_user_id": 0,
        "name": "Sent back",
        "custom_object_fields": {"color": None},
    }
    response = await api.create(key, **sent)
    assert response.status_code == 201
    assert record_of(response)["external_id"] is None
    for name in ("id", "photo", "custom_object_key", "created_at", "created_by_user_id"):
        assert name in response.headers["X-Zendesk-API-Warn"]


async def test_a_record_has_every_documented_key(api: Api, key: str) -> None:
    record = record_of(await api.create(key, name="Whole"))
    assert set(record) == {
        "url", "id", "name", "external_id", "custom_object_key", "custom_object_fields", "photo",
        "created_at", "updated_at", "created_by_user_id", "updated_by_user_id",
    }  # fmt: skip
    assert re.fullmatch(r"[0-9A-HJKMNP-TV-Z]{26}", record["id"])
    assert record["created_by_user_id"].isdigit()
    assert (record["external_id"], record["photo"], record["custom_object_key"]) == (None, None, key)
    assert record["custom_object_fields"] == {"color": None}


@pytest.mark.parametrize("query", ["external_id=%00", "external_id=a%00b", "filter[ids]=%00", "%00=1"])
async def test_a_nul_in_the_query_is_refused_by_name(api: Api, key: str, query: str) -> None:
    method = "PATCH" if query.startswith("external_id") else "GET"
    response = await api.client.request(
        method, f"/custom_objects/{key}/records?{query}", json={} if method == "PATCH" else None
    )
    problems = problems_of(response)
    assert list(problems) == [query.split("=", 1)[0].replace("%00", "\\u0000")]
