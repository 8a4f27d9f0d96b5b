"""Who may speak: Basic and Bearer credentials, and how long a revoked one is believed."""

import asyncio
import base64
import time

import pytest
from harness import ADMIN_EMAIL, Api

from upsert_svc import tokens
from upsert_svc.database import owner_transaction

UNAUTHENTICATED = b"""{"error":"Couldn't authenticate you"}"""
PATH = "/custom_objects"


def basic(user: str, token: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{token}".encode()).decode()


async def status(api: Api, *authorization: bytes | str) -> int:
    """The answer to a request with these Authorization headers; a refusal must be the one body."""
    request = api.client.build_request("GET", PATH)
    del request.headers["Authorization"]
    sent = [(b"authorization", part if isinstance(part, bytes) else part.encode()) for part in authorization]
    request.headers = type(request.headers)([*request.headers.raw, *sent])
    response = await api.client.send(request)
    assert response.status_code == 200 or response.content == UNAUTHENTICATED
    return response.status_code


@pytest.mark.parametrize("email", [ADMIN_EMAIL, ADMIN_EMAIL.upper(), "Admin@Example.com"])
async def test_basic_takes_the_email_of_the_token_in_any_case(api: Api, email: str) -> None:
    assert await status(api, basic(f"{email}/token", api.token)) == 200


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer  "])
async def test_bearer_takes_the_token_alone(api: Api, scheme: str) -> None:
    assert await status(api, f"{scheme} {api.token}") == 200


@pytest.mark.parametrize("scheme", ["basic", "BASIC"])
async def test_the_scheme_is_written_in_any_case(api: Api, scheme: str) -> None:
    assert await status(api, basic(f"{ADMIN_EMAIL}/token", api.token).replace("Basic", scheme)) == 200


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer wrong",
        "Bearer " + "x" * 10_000,
        "Token {token}",
        "{token}",
        "Basic",
        "Basic !!!",
        "Basic é",
        b"Basic \xff\xfe",
        b"Bearer \xff\xfe",
        "Digest username=admin",
    ],
)
async def test_a_credential_that_is_none_is_refused(api: Api, authorization: str | bytes) -> None:
    if isinstance(authorization, str):
        authorization = authorization.replace("{token}", api.token)
    assert await status(api, authorization) == 401


@pytest.mark.parametrize(
    "user",
    ["", "/token", "nobody@example.com/token", ADMIN_EMAIL, f"{ADMIN_EMAIL}/password", f"{ADMIN_EMAIL}/Token",
     "agent@example.com/token", f"{ADMIN_EMAIL}/token/", f" {ADMIN_EMAIL}/token"],
)  # fmt: skip
async def test_basic_needs_the_email_of_the_tokens_own_user(api: Api, user: str) -> None:
    assert await status(api, basic(user, api.token)) == 401


async def test_basic_that_is_not_utf_8_is_refused(api: Api) -> None:
    encoded = base64.b64encode(b"\xff/token:" + api.token.encode()).decode()
    assert await status(api, f"Basic {encoded}") == 401


async def test_no_credential_at_all_is_refused(api: Api) -> None:
    assert await status(api) == 401


async def test_one_token_among_the_users_own_is_not_another(api: Api) -> None:
    second = await api.running.token()
    assert second != api.token
    assert await status(api, f"Bearer {second}") == 200
    assert await status(api, f"Bearer {second[:-1]}") == 401


async def test_a_revoked_token_stops_within_a_second(api: Api) -> None:
    token = await api.running.token(email="leaver@example.com")
    assert await status(api, f"Bearer {token}") == 200
    async with owner_transaction(api.running.database_url) as connection:
        listed = await tokens.listed(connection)
        token_id = next(item.token_id for item in listed if item.email == "leaver@example.com")
        assert await tokens.revoke(connection, account="default", token_id=token_id)
    revoked = time.monotonic()
    while await status(api, f"Bearer {token}") == 200:
        assert time.monotonic() - revoked < 1.2
        await asyncio.sleep(0.1)
    assert await status(api, f"Bearer {token}") == 401


async def test_a_token_says_which_account_it_speaks_for(api: Api, stranger: Api) -> None:
    key = await api.new_object()
    assert (await stranger.client.get(f"/custom_objects/{key}")).status_code == 404
    theirs = (await stranger.client.get(PATH)).json()["custom_objects"]
    assert key not in [item["key"] for item in theirs]
