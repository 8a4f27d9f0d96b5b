"""What callers read in the headers of an answer: a challenge, where they are not known, and the charset."""

import asyncio
import json
import urllib.request
from typing import Any

import httpx
import pytest

from tests.hostile.wire import Wire
from tests.support.endpoints import ENDPOINTS, ROOT, Endpoint, Place, ask, each, target, unmake
from tests.support.harness import ADMIN_EMAIL, JSON_TYPE, Api, Cluster, running
from upsert_svc.http import connection, exchange, protocol


def said_type(answer: bytes) -> list[str]:
    """The types that an answer of bytes says it has."""
    head = answer.partition(b"\r\n\r\n")[0].decode("latin-1").lower()
    return [line[14:] for line in head.split("\r\n") if line.startswith("content-type: ")]


# The challenge


@each(ENDPOINTS)
@pytest.mark.parametrize("authorization", ["", "Bearer wrong", "Basic d3Jvbmc6d3Jvbmc=", "Digest x", "x"])
async def test_a_caller_who_is_not_known_is_asked_for_a_credential(
    api: Api, place: Place, endpoint: Endpoint, authorization: str
) -> None:
    response = await ask(api, place, endpoint, headers={"Authorization": authorization})
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == 'Basic realm="upsert_svc", charset="UTF-8"'
    assert response.json() == {"error": "Couldn't authenticate you"}


async def test_only_a_401_asks_for_a_credential(api: Api, agent: Api, place: Place) -> None:
    answers = [
        await api.client.get("/custom_objects"),
        await api.client.get("/custom_objects/nowhere"),
        await agent.client.delete(f"/custom_objects/{place.key}"),
        await api.client.put("/custom_objects"),
    ]
    assert [answer.status_code for answer in answers] == [200, 404, 403, 405]
    assert not any("WWW-Authenticate" in answer.headers for answer in answers)


async def test_a_client_that_waits_for_the_challenge_logs_in(api: Api, place: Place) -> None:
    url = f"{api.running.address}{ROOT}{place.url('/custom_objects/{key}')}"
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    passwords.add_password(None, url, f"{ADMIN_EMAIL}/token", api.token)
    handlers = (urllib.request.ProxyHandler({}), urllib.request.HTTPBasicAuthHandler(passwords))
    opener = urllib.request.build_opener(*handlers)

    def ask_for_it() -> Any:
        with opener.open(url, timeout=10) as answer:
            return json.load(answer)

    assert (await asyncio.to_thread(ask_for_it))["custom_object"]["key"] == place.key


async def test_a_caller_of_a_limited_service_is_asked_for_a_credential(cluster: Cluster) -> None:
    async with (
        running(await cluster.new_database(), rate_limit_token="5/minute") as service,
        httpx.AsyncClient(base_url=service.address, trust_env=False) as client,
    ):
        answer = await client.get(f"{ROOT}/custom_objects")
    assert answer.status_code == 401
    assert 'Basic realm="' in answer.headers["WWW-Authenticate"]


# The type of an answer


@each(ENDPOINTS)
async def test_every_answer_says_that_it_is_json_in_utf8(api: Api, endpoint: Endpoint, place: Place) -> None:
    names = await target(api, endpoint)
    answers = [
        await ask(api, place, endpoint, names=names),
        await ask(api, place, endpoint, names={"key": "nowhere", "id": "x", "field": "x", "job": "x"}),
        await ask(api, place, endpoint, headers={"Authorization": ""}),
        await ask(api, place, endpoint, query="%ff=1"),
        await ask(api, place, endpoint, method="PURGE"),
    ]
    if str(endpoint) == "POST /custom_objects":
        await unmake(api)
    typed = [answer for answer in answers if answer.status_code != 204]
    assert [answer.headers["Content-Type"] for answer in typed] == [JSON_TYPE] * len(typed)
    assert all("Content-Type" not in answer.headers for answer in answers if answer.status_code == 204)


async def test_health_and_what_is_no_endpoint_say_that_they_are_json_in_utf8(api: Api) -> None:
    for path in ("/healthz", "/readyz", "/nowhere", "/"):
        answer = await api.client.get(f"{api.running.address}{path}")
        assert answer.headers["Content-Type"] == JSON_TYPE


async def test_what_never_becomes_a_request_is_answered_as_json_in_utf8(api: Api, place: Place) -> None:
    wire = Wire(api.running, api.token)
    records = f"{ROOT}/custom_objects/{place.key}/records?external_id=v1"
    answers = [
        await wire.exchange(b"nonsense\r\n\r\n"),
        await wire.exchange(wire.head("GET", f"/{'a' * 70_000}")),
        await wire.exchange(wire.head("GET", records, f"X-A: {'a' * 70_000}")),
        await wire.exchange(wire.head("PATCH", records, "Content-Length: 999999999")),
    ]
    assert [status for status, _ in answers] == [400, 414, 431, 413]
    assert [said_type(answer) for _, answer in answers] == [[JSON_TYPE]] * 4


async def test_a_body_that_is_too_slow_is_answered_as_json_in_utf8(cluster: Cluster) -> None:
    async with running(await cluster.new_database(), body_timeout_seconds=0.2) as service:
        wire = Wire(service, await service.token())
        head = wire.head("POST", f"{ROOT}/custom_objects", "Content-Length: 9")
        status, answer = await wire.exchange(head + b"{")
    assert (status, said_type(answer)) == (408, [JSON_TYPE])


@pytest.mark.parametrize(
    "ready",
    [
        exchange._BUG,
        exchange._STOPPING,
        protocol._REFUSED,
        protocol._REFUSED_AND_CLOSED,
        connection._TURNED_AWAY,
    ],
)
def test_answers_that_are_made_at_the_start_are_json_in_utf8(ready: bytes) -> None:
    assert said_type(ready) == [JSON_TYPE]
