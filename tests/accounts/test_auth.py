"""Who may speak: Basic and Bearer credentials, and how long a revoked one is believed."""

import asyncio
import base64
import time

import pytest

from tests.support.harness import ADMIN_EMAIL, Api, Cluster, running
from upsert_svc.accounts import tokens
from upsert_svc.db.pools import Connection, owner_transaction
from upsert_svc.errors import NotAuthenticated, ServiceUnavailable

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
        listed = await tokens.list_all(connection)
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


async def test_requests_at_one_moment_share_one_look_at_their_token(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = counted_looks(monkeypatch)
    async with running(await cluster.new_database()) as service:
        api = Api(service, await service.token())
        async with api.client:
            statuses = await asyncio.gather(*(status(api, f"Bearer {api.token}") for _ in range(20)))
    assert statuses == [200] * 20
    assert len(looks) == 1


async def test_a_token_in_use_is_looked_up_again_before_anybody_would_wait(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = counted_looks(monkeypatch)
    async with running(await cluster.new_database()) as service:
        authenticate, authorization = service.service.authenticate, f"Bearer {await service.token()}".encode()
        await authenticate(authorization)
        (look,) = authenticate._looks.values()
        look.begun -= 0.6
        await authenticate(authorization)
        assert len(looks) == 1, "the caller does not wait"
        assert look.successor
        await look.successor.task
        await asyncio.sleep(0)
        assert [*authenticate._looks.values()] == [look.successor]
        assert len(looks) == 2


async def test_a_token_found_revoked_ahead_of_time_is_refused_at_once(
    cluster: Cluster,
) -> None:
    async with running(await cluster.new_database()) as service:
        authenticate, authorization = service.service.authenticate, f"Bearer {await service.token()}".encode()
        await authenticate(authorization)
        async with service.sql() as connection:
            await connection.execute("update tokens set revoked_at = now()")
        (look,) = authenticate._looks.values()
        look.begun -= 0.6
        await authenticate(authorization)
        assert look.successor
        await asyncio.wait([look.successor.task])
        with pytest.raises(NotAuthenticated):
            await authenticate(authorization)


async def test_a_look_that_took_longer_than_it_is_believed_says_nothing_to_who_joined_it(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(await cluster.new_database()) as service:
        authenticate, authorization = service.service.authenticate, f"Bearer {await service.token()}".encode()
        find, goes_on = tokens.find, asyncio.Event()

        async def stalled(connection: Connection, token_digest: bytes) -> tokens.Principal | None:
            found = await find(connection, token_digest)
            await goes_on.wait()
            return found

        with monkeypatch.context() as stalling:
            stalling.setattr(tokens, "find", stalled)
            first = asyncio.create_task(authenticate(authorization))
            while not authenticate._looks:  # noqa: ASYNC110
                await asyncio.sleep(0)
            (look,) = authenticate._looks.values()
            await asyncio.sleep(0.1)
        joined = asyncio.create_task(authenticate(authorization))
        await asyncio.sleep(0)
        async with service.sql() as connection:
            await connection.execute("update tokens set revoked_at = now()")
        look.begun -= 1.1
        goes_on.set()
        assert (await first).email == ADMIN_EMAIL
        with pytest.raises(NotAuthenticated):
            await joined


async def test_a_look_that_failed_is_not_believed(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(await cluster.new_database()) as service:
        authorization = f"Bearer {await service.token()}".encode()
        with monkeypatch.context() as failing:
            failing.setattr(tokens, "find", _unreachable)
            with pytest.raises(ServiceUnavailable):
                await service.service.authenticate(authorization)
        assert (await service.service.authenticate(authorization)).email == ADMIN_EMAIL


async def _unreachable(*_: object) -> None:
    raise OSError


def counted_looks(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The digests that are looked up from now on."""
    looks: list[bytes] = []
    find = tokens.find

    async def counted(connection: Connection, token_digest: bytes) -> tokens.Principal | None:
        looks.append(token_digest)
        return await find(connection, token_digest)

    monkeypatch.setattr(tokens, "find", counted)
    return looks
