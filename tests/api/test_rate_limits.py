import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping

import httpx
import pytest

from tests.support.harness import JSON_TYPE, Api, Cluster, Running, record_of, running
from upsert_svc.accounts.auth import Authenticator
from upsert_svc.accounts.tokens import Principal

HEADERS = (
    "x-rate-limit",
    "x-rate-limit-remaining",
    "ratelimit-limit",
    "ratelimit-remaining",
    "ratelimit-reset",
)


@contextlib.asynccontextmanager
async def limited(cluster: Cluster, **settings: str) -> AsyncIterator[Running]:
    """A service of its own under rate limits."""
    named = {f"rate_limit_{name}": rate for name, rate in settings.items()}
    async with running(await cluster.new_database(), **named) as service:
        yield service


@contextlib.asynccontextmanager
async def calling(service: Running, token: str = "", account: str = "default") -> AsyncIterator[Api]:
    api = Api(service, token or await service.token(account=account))
    async with api.client:
        yield api


def remaining(response: httpx.Response) -> int:
    return int(response.headers["x-rate-limit-remaining"])


def limit_headers(response: httpx.Response) -> Mapping[str, str]:
    return {name: response.headers[name] for name in HEADERS if name in response.headers}


async def test_no_limit_is_set_unless_asked_for(api: Api) -> None:
    assert limit_headers(await api.client.get("/custom_objects")) == {}


async def test_the_headers_count_down_and_what_is_over_is_a_429(cluster: Cluster) -> None:
    async with limited(cluster, account="3/hour") as service, calling(service) as api:
        answers = [await api.client.get("/custom_objects") for _ in range(5)]

    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert [remaining(answer) for answer in answers] == [2, 1, 0, 0, 0]
    for answer in answers:
        assert tuple(limit_headers(answer)) == HEADERS
        assert answer.headers["x-rate-limit"] == answer.headers["ratelimit-limit"] == "3"
        assert remaining(answer) == int(answer.headers["ratelimit-remaining"])
        assert 3500 < int(answer.headers["ratelimit-reset"]) <= 3600
        assert answer.headers["x-request-id"]
    assert answers[3].headers["retry-after"] == answers[3].headers["ratelimit-reset"]
    assert answers[3].headers["content-type"] == JSON_TYPE
    seconds = answers[3].headers["retry-after"]
    assert answers[3].json() == {
        "error": "TooManyRequests",
        "description": f"The account's limit of 3 requests is reached; it starts anew in {seconds} s",
    }


async def test_a_refused_request_writes_nothing_and_takes_no_idempotency_key(cluster: Cluster) -> None:
    async with limited(cluster, token="3/hour") as service:
        async with calling(service) as api:
            car = await api.new_object()
            assert (await api.upsert(car, {"name": "Ada"}, external_id="A")).status_code == 200
            key = {"Idempotency-Key": "order-1"}
            created = await api.create(car, name="Bo")
            refused = await api.upsert(car, {"name": "Cy"}, key, external_id="C")
        async with calling(service) as api:
            names = [record["name"] for record in await api.records(car)]
            again = await api.upsert(car, {"name": "Cyd"}, key, external_id="C")
    assert (created.status_code, refused.status_code) == (201, 429)
    assert refused.json()["description"].startswith("The token's limit of 3 requests")
    assert names == ["Ada", "Bo"]
    assert (again.status_code, again.headers["x-idempotency-lookup"]) == (200, "miss")


async def test_accounts_have_limits_of_their_own_and_share_them_among_their_tokens(cluster: Cluster) -> None:
    async with (
        limited(cluster, account="2/hour") as service,
        calling(service) as one,
        calling(service) as two,
        calling(service, account="other") as stranger,
    ):
        statuses = [(await api.client.get("/custom_objects")).status_code for api in (one, two, one, two)]
        untouched = await stranger.client.get("/custom_objects")

    assert statuses == [200, 200, 429, 429]
    assert (untouched.status_code, remaining(untouched)) == (200, 1)


async def test_a_runaway_token_takes_nothing_from_the_others(cluster: Cluster) -> None:
    async with (
        limited(cluster, account="4/hour", token="2/hour") as service,
        calling(service) as runaway,
        calling(service) as other,
    ):
        refused = [(await runaway.client.get("/custom_objects")).status_code for _ in range(6)]
        answers = [await other.client.get("/custom_objects") for _ in range(2)]

    assert refused == [200, 200, 429, 429, 429, 429]
    assert [(answer.status_code, remaining(answer)) for answer in answers] == [(200, 1), (200, 0)]


async def test_every_answer_to_a_known_caller_counts_whatever_it_is(cluster: Cluster) -> None:
    async with limited(cluster, account="100/hour") as service, calling(service) as api:
        car = await api.new_object()
        record = await api.upsert(car, {"name": "Ada"}, external_id="A")
        path, tag = f"/custom_objects/{car}/records", {"If-None-Match": record.headers["etag"]}
        answers = [
            record,
            await api.client.head("/custom_objects"),
            await api.client.get(f"{path}/{record_of(record)['id']}", headers=tag),
            await api.client.patch(path, content=b"{"),
            await api.client.get("/custom_objects/none"),
            await api.client.get("/nothing/here"),
            await api.client.put("/custom_objects"),
            await api.client.patch(f"{path}?name=A", content=b"x", headers={"Content-Type": "a/b"}),
            await api.upsert(car, {"name": ""}, external_id="B"),
            await api.client.delete(f"{path}?external_id=A"),
        ]

    statuses = [answer.status_code for answer in answers]
    assert statuses == [200, 200, 304, 400, 404, 404, 405, 415, 422, 204]
    assert [remaining(answer) for answer in answers] == list(range(98, 88, -1))
    assert all(tuple(limit_headers(answer)) == HEADERS for answer in answers)


async def test_an_agent_who_may_not_is_counted_and_then_refused(cluster: Cluster) -> None:
    async with limited(cluster, account="1/hour") as service:
        token = await service.token(role="agent", email="agent@example.com")
        async with calling(service, token) as agent:
            answers = [await agent.client.delete("/custom_objects/car") for _ in range(2)]

    assert [answer.status_code for answer in answers] == [403, 429]


@pytest.mark.parametrize("authorization", ["Bearer wrong", "Bearer", ""])
async def test_a_wrong_credential_is_a_401_however_often_and_takes_from_nobody(
    cluster: Cluster, authorization: str
) -> None:
    async with limited(cluster, account="1/hour", token="1/hour") as service, calling(service) as api:
        wrong = {"Authorization": authorization}
        answers = [await api.client.get("/custom_objects", headers=wrong) for _ in range(5)]
        answers.append(await api.client.head("/custom_objects", headers=wrong))
        unknown = await api.client.get("/nothing/here", headers=wrong)
        own = await api.client.get("/custom_objects")

    assert {answer.status_code for answer in answers} == {401}
    assert all(limit_headers(answer) == {} for answer in (*answers, unknown))
    assert unknown.status_code == 404
    assert own.status_code == 200


async def test_a_wrong_credential_is_a_401_where_the_limit_is_reached(cluster: Cluster) -> None:
    async with limited(cluster, account="1/hour") as service, calling(service) as api:
        known = [(await api.client.get("/custom_objects")).status_code for _ in range(2)]
        wrong = await api.client.get("/custom_objects", headers={"Authorization": "Bearer wrong"})

    assert (known, wrong.status_code) == ([200, 429], 401)


async def test_a_limited_request_is_authenticated_once(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []

    async def authenticate(authenticator: Authenticator, authorization: bytes) -> Principal:
        asked.append(authorization)
        return await looked_up(authenticator, authorization)

    looked_up = Authenticator.__call__
    monkeypatch.setattr(Authenticator, "__call__", authenticate)
    async with limited(cluster, token="9/hour") as service, calling(service) as api:
        for path in ("/custom_objects", "/custom_objects/no_such_object", "/no_such_path"):
            asked.clear()
            await api.client.get(path)
            assert len(asked) == 1


async def test_health_is_never_limited(cluster: Cluster) -> None:
    async with limited(cluster, account="1/hour", token="1/hour") as service, calling(service) as api:
        assert (await api.client.get("/custom_objects")).status_code == 200
        answers = [
            await api.client.request(method, f"{service.address}{path}")
            for path in ("/healthz", "/readyz", "/healthz.json")
            for method in ("GET", "HEAD", "GET")
        ]
        again = await api.client.get("/custom_objects")

    assert [answer.status_code for answer in answers] == [200] * 9
    assert all(limit_headers(answer) == {} for answer in answers)
    assert again.status_code == 429


async def test_after_retry_after_the_caller_is_served_again(cluster: Cluster) -> None:
    async with limited(cluster, token="2/second") as service, calling(service) as api:
        refused = await api.client.get("/custom_objects")
        while refused.status_code == 200:
            refused = await api.client.get("/custom_objects")
        await asyncio.sleep(int(refused.headers["retry-after"]))
        served = await api.client.get("/custom_objects")

    assert refused.status_code == 429
    assert (served.status_code, remaining(served)) == (200, 1)


async def test_a_hundred_at_once_are_counted_exactly(cluster: Cluster) -> None:
    async with limited(cluster, account="60/hour") as service, calling(service) as api:
        answers = await asyncio.gather(*(api.client.get("/custom_objects") for _ in range(100)))

    assert sorted(answer.status_code for answer in answers) == [200] * 60 + [429] * 40
    assert sorted(remaining(answer) for answer in answers) == [0] * 40 + list(range(60))


async def test_a_refusal_does_not_read_the_body(cluster: Cluster) -> None:
    async with limited(cluster, account="1/hour") as service, calling(service) as api:
        await api.client.get("/custom_objects")
        refused = await api.client.patch(
            "/custom_objects/car/records?external_id=A",
            content=b"x" * 1_000_000,
            headers={"Content-Type": "application/octet-stream"},
        )
        after = await api.client.get("/custom_objects")

    assert (refused.status_code, after.status_code) == (429, 429)
