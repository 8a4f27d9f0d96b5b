"""Idempotency-Key over HTTP: what is sent again is answered again, and written once, whatever fails."""

import asyncio
import contextlib
import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from tests.support.batches import answered, until_blocked
from tests.support.faults import lossy_address
from tests.support.harness import JSON_TYPE, Api, Cluster, problems_of, record_of, running
from tests.support.processes import TOKEN, serving
from upsert_svc import purge
from upsert_svc.db.pools import connected, owner_transaction
from upsert_svc.settings import Settings

YEAR = {"key": "year", "type": "integer"}
CAR = {"name": "Ford", "custom_object_fields": {"year": 1}}
_VOLATILE = ("x-request-id", "date", "x-idempotency-lookup")


async def send(api: Api, method: str, path: str, key: str, body: Any = None) -> httpx.Response:
    return await api.client.request(method, path, json=body, headers={"Idempotency-Key": key})


async def create(api: Api, object_key: str, key: str, record: Mapping[str, Any] = CAR) -> httpx.Response:
    return await send(
        api, "POST", f"/custom_objects/{object_key}/records", key, {"custom_object_record": record}
    )


def seen_in(response: httpx.Response) -> tuple[Any, ...]:
    """All of an answer that is the same each time."""
    headers = {name: value for name, value in response.headers.items() if name not in _VOLATILE}
    return response.status_code, response.content, headers


async def test_a_creation_sent_again_is_answered_again_and_made_once(api: Api) -> None:
    key = await api.new_object(YEAR)
    first, second, third = [await create(api, key, "once") for _ in range(3)]
    assert first.status_code == 201
    assert seen_in(first) == seen_in(second) == seen_in(third)
    lookups = [answer.headers["X-Idempotency-Lookup"] for answer in (first, second, third)]
    assert lookups == ["miss", "hit", "hit"]
    assert len({answer.headers["X-Request-Id"] for answer in (first, second, third)}) == 3
    assert len(await api.records(key)) == 1
    assert {"location", "etag", "upsert-result"} <= {*first.headers}


async def test_an_answer_is_the_first_though_the_record_has_changed_since(api: Api) -> None:
    key = await api.new_object(YEAR)
    path = f"/custom_objects/{key}/records?external_id=v1"
    first = await send(api, "PATCH", path, "first of two", {"custom_object_record": CAR})
    await api.upsert(key, {"custom_object_fields": {"year": 2}}, external_id="v1")
    again = await send(api, "PATCH", path, "first of two", {"custom_object_record": CAR})
    assert seen_in(again) == seen_in(first)
    assert record_of(await api.upsert(key, {}, external_id="v1"))["custom_object_fields"] == {"year": 2}


async def test_every_way_to_write_takes_a_key(api: Api) -> None:
    key = await api.new_object(YEAR)
    made = record_of(await api.create(key, **CAR, external_id="v1"))
    other = record_of(await api.create(key, name="b", external_id="v2"))
    root, record = f"/custom_objects/{key}", {"custom_object_record": CAR}
    field = {"custom_object_field": {"key": "color", "title": "Color", "type": "text"}}
    new_object = {"custom_object": {"key": f"{key}_again", "title": "Again"}}
    writes: list[tuple[str, str, Any]] = [
        ("PATCH", f"{root}/records?external_id=v1", record),
        ("PUT", f"{root}/records?external_id=v1", record),
        ("PATCH", f"{root}/records/{made['id']}", record),
        ("PUT", f"{root}/records/{made['id']}?dataOnly=true", record),
        ("POST", f"{root}/records", record),
        ("DELETE", f"{root}/records/{made['id']}", None),
        ("DELETE", f"{root}/records?external_id=v2", None),
        ("POST", f"{root}/fields", field),
        ("PATCH", f"{root}/fields/color", {"custom_object_field": {"title": "Colour"}}),
        ("PUT", f"{root}/fields/color", {"custom_object_field": {"title": "Hue"}}),
        ("PUT", f"{root}/fields/reorder", {"field_ids": []}),
        ("DELETE", f"{root}/fields/color", None),
        ("POST", "/custom_objects", new_object),
        ("PATCH", f"/custom_objects/{key}_again", {"custom_object": {"title": "Anew"}}),
        ("DELETE", f"/custom_objects/{key}_again", None),
    ]
    for method, path, body in writes:
        first, again = [await send(api, method, path, f"{key} {method} {path}", body) for _ in range(2)]
        assert first.is_success, (method, path, first.text)
        assert seen_in(first) == seen_in(again)
        assert again.headers["X-Idempotency-Lookup"] == "hit"
    assert other["id"] not in [record["id"] for record in await api.records(key)]


async def test_a_key_of_another_request_is_refused_and_nothing_is_written(api: Api) -> None:
    key = await api.new_object(YEAR)
    assert (await create(api, key, "taken")).status_code == 201
    path, record = f"/custom_objects/{key}/records", {"custom_object_record": CAR}
    others = [
        await create(api, key, "taken", {**CAR, "name": "Fiat"}),
        await send(api, "POST", f"{path}?x=1", "taken", record),
        await send(api, "PATCH", f"{path}?external_id=v1", "taken", record),
        await send(api, "DELETE", f"{path}?external_id=v1", "taken"),
    ]
    for response in others:
        assert (response.status_code, response.json()["error"]) == (400, "IdempotentRequestError")
    assert len(await api.records(key)) == 1


def differing_in(response: httpx.Response) -> str:
    """The parts of a request of which a refusal says that they differ."""
    assert (response.status_code, response.json()["error"]) == (400, "IdempotentRequestError")
    said = re.fullmatch(
        r"The Idempotency-Key belongs to another request, which differs in its (.*)"
        r" \(compared byte for byte\)",
        response.json()["description"],
    )
    assert said is not None, response.text
    return said[1]


async def test_a_key_of_another_request_is_refused_in_words_that_say_what_differs(api: Api) -> None:
    key, other = await api.new_object(YEAR), await api.new_object(YEAR)
    path, name = f"/custom_objects/{key}/records", f"{key} differs"
    record = {"custom_object_record": {"name": "Ford", "custom_object_fields": {"year": 1}}}
    reordered = {"custom_object_record": {"custom_object_fields": {"year": 1}, "name": "Ford"}}
    assert (await send(api, "POST", path, name, record)).status_code == 201
    asked: list[tuple[str, str, Any, str]] = [
        ("POST", path, reordered, "body"),
        ("POST", f"{path}?x=1", record, "query"),
        ("POST", f"/custom_objects/{other}/records", record, "path"),
        ("PATCH", f"{path}?external_id=v1", record, "method and query"),
        ("PUT", f"{path}/{'0' * 26}?x=1", reordered, "method and path and query and body"),
    ]
    for method, url, body, parts in asked:
        assert differing_in(await send(api, method, url, name, body)) == parts
    assert len(await api.records(key)) == 1


async def test_of_a_key_kept_by_an_earlier_version_all_that_may_differ_is_told(api: Api) -> None:
    key = await api.new_object(YEAR)
    path, name = f"/custom_objects/{key}/records", f"{key} kept before"
    first = await create(api, key, name)
    parts = (b"POST", f"/api/v2{path}".encode(), b"", bytes(first.request.content))
    async with api.running.sql() as owner:
        await owner.execute(
            "update idempotency_keys set request_hash = $2,"
            " headers = replace(headers::text, '; charset=utf-8', '')::jsonb where key = $1",
            name,
            hashlib.sha256(b"\0".join(parts)).digest(),
        )
    again = await create(api, key, name)
    assert again.headers["X-Idempotency-Lookup"] == "hit"
    assert seen_in(again) == seen_in(first)
    assert again.headers["Content-Type"] == JSON_TYPE
    another = await create(api, key, name, {"name": "Fiat"})
    assert differing_in(another) == "method, path, query or body"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/records", {"custom_object_record": CAR}),
        ("PATCH", "/records?external_id=v1", {"custom_object_record": CAR}),
        ("PUT", "/records?external_id=v1", {"custom_object_record": CAR}),
        ("PATCH", "/records/{id}", {"custom_object_record": CAR}),
        ("PUT", "/records/{id}", {"custom_object_record": CAR}),
        ("DELETE", "/records/{id}", None),
        ("DELETE", "/records?external_id=v1", None),
        ("POST", "/jobs", {"job": {"action": "create", "items": [{"name": "x"}]}}),
        ("POST", "/fields", {"custom_object_field": {"key": "color", "title": "Color", "type": "text"}}),
        ("PATCH", "/fields/year", {"custom_object_field": {"title": "Year"}}),
        ("PUT", "/fields/reorder", {"field_ids": []}),
        ("DELETE", "/fields/year", None),
        ("PATCH", "", {"custom_object": {"title": "Car"}}),
        ("DELETE", "", None),
    ],
)
async def test_the_key_of_an_object_in_another_case_is_the_same_path(
    api: Api, method: str, path: str, body: Any
) -> None:
    key = await api.new_object(YEAR)
    made = record_of(await api.create(key, name="Ford", external_id="v1"))
    before, _, query = path.format(id=made["id"]).partition("?")
    first, *again = [
        await send(api, method, f"/custom_objects/{spelt}{before}{suffix}?{query}", f"{key} spelt", body)
        for spelt, suffix in (
            (key, ""),
            (key.upper(), ""),
            (key.title(), ".json"),
            (f"%{ord(key[0].upper()):X}{key[1:]}", ""),
        )
    ]
    assert first.headers["X-Idempotency-Lookup"] == "miss", first.text
    for answer in again:
        assert answer.headers["X-Idempotency-Lookup"] == "hit", answer.text
        assert seen_in(answer) == seen_in(first)


@pytest.mark.parametrize("key", [b"", b"x" * 256, b"\xe9", b"a\tb"])
async def test_a_key_that_is_none_is_a_bad_request(api: Api, key: bytes) -> None:
    object_key = await api.new_object()
    response = await api.client.post(
        f"/custom_objects/{object_key}/records",
        json={"custom_object_record": {"name": "x"}},
        headers={b"Idempotency-Key": key},
    )
    assert (response.status_code, response.json()["error"]) == (400, "BadRequest")
    assert "Idempotency-Key" in response.json()["description"]
    assert await api.records(object_key) == []


async def test_a_refused_request_keeps_nothing_so_that_it_can_be_mended(api: Api) -> None:
    key = await api.new_object(YEAR)
    refused = await create(api, key, "mended", {"custom_object_fields": {"year": 1}})
    assert list(problems_of(refused)) == ["name"]
    assert (await create(api, key, "mended")).headers["X-Idempotency-Lookup"] == "miss"


async def test_a_name_taken_is_told_though_the_request_has_a_key(api: Api) -> None:
    key = await api.new_object(naming={"is_unique": True})
    await api.create(key, name="Ford")
    assert problems_of(await create(api, key, "taken name", {"name": "FORD"})) == {
        "base": ["Name already exists. Try another one."]
    }
    taken = {"custom_object": {"key": key, "title": "x"}}
    assert list(problems_of(await send(api, "POST", "/custom_objects", "taken object", taken))) == ["key"]


async def test_a_dry_run_leaves_its_key_alone(api: Api) -> None:
    key = await api.new_object(YEAR)
    path, record = f"/custom_objects/{key}/records", {"custom_object_record": CAR}
    imagined = await send(api, "POST", f"{path}?dry_run=true", "imagined", record)
    assert imagined.status_code == 201
    assert "X-Idempotency-Lookup" not in imagined.headers
    assert await api.records(key) == []
    assert (await create(api, key, "imagined")).headers["X-Idempotency-Lookup"] == "miss"


async def test_a_dry_run_of_a_deletion_leaves_its_key_alone(api: Api) -> None:
    key = await api.new_object()
    made = record_of(await api.create(key, name="x"))
    path = f"/custom_objects/{key}/records/{made['id']}"
    imagined = await send(api, "DELETE", f"{path}?dry_run=true", f"{key} gone")
    assert (imagined.status_code, "X-Idempotency-Lookup" in imagined.headers) == (204, False)
    assert await api.records(key) == [made]
    first, again = [await send(api, "DELETE", path, f"{key} gone") for _ in range(2)]
    assert (first.status_code, again.status_code) == (204, 204)
    assert again.headers["X-Idempotency-Lookup"] == "hit"


async def test_a_definition_and_its_answer_are_written_together_or_not_at_all(cluster: Cluster) -> None:
    async with running(await cluster.new_database()) as service:
        api = Api(service, await service.token())
        async with api.client, service.sql() as owner:
            key = await api.new_object(YEAR)
            await owner.execute("alter table idempotency_keys add constraint none check (status = 0)")
            path = f"/custom_objects/{key}/fields/year"
            assert (await send(api, "DELETE", path, "together")).status_code == 500
            assert (await api.client.get(path)).status_code == 200
            await owner.execute("alter table idempotency_keys drop constraint none")
            assert (await send(api, "DELETE", path, "together")).status_code == 204
            assert (await api.client.get(path)).status_code == 404


async def test_a_deletion_with_a_key_looks_at_its_body_as_little_as_one_without(api: Api) -> None:
    key = await api.new_object()
    for headers in ({}, {"Idempotency-Key": "form"}):
        made = record_of(await api.create(key, name="x"))
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        path = f"/custom_objects/{key}/records/{made['id']}"
        assert (await api.client.delete(path, headers=headers)).status_code == 204


async def test_a_deletion_sent_again_with_another_body_is_another_request(api: Api) -> None:
    key = await api.new_object()
    await api.create(key, name="x", external_id="v1")
    path = f"/custom_objects/{key}/records?external_id=v1"
    bodies: list[Any] = [{"reason": "x"}, {"reason": "x"}, {"reason": "y"}, None]
    answers = [await send(api, "DELETE", path, f"{key} with a body", body) for body in bodies]
    assert [answer.status_code for answer in answers] == [204, 204, 400, 400]
    assert {answer.json()["error"] for answer in answers[2:]} == {"IdempotentRequestError"}


async def test_requests_with_keys_that_wait_leave_the_others_their_connections(cluster: Cluster) -> None:
    chosen = {"pool_size": 2, "acquire_timeout_seconds": 0.3}
    async with running(await cluster.new_database(), **chosen) as service:
        api = Api(service, await service.token())
        async with api.client, service.sql() as peer:
            key = await api.new_object(YEAR)
            made = record_of(await api.upsert(key, CAR, external_id="v1"))
            path = f"/custom_objects/{key}/records?external_id=v1"
            async with peer.transaction():
                await peer.execute("select from records where record_id = $1 for update", made["id"])
                record: dict[str, Any] = {"custom_object_record": {}}
                waiting = [asyncio.create_task(send(api, "PATCH", path, f"k{n}", record)) for n in range(8)]
                await until_blocked(peer)
                shown = await api.client.get(f"/custom_objects/{key}/records/{made['id']}")
                listed = await api.client.get(f"/custom_objects/{key}/records")
                written = await api.upsert(key, {"name": "y"}, external_id="v2")
                assert [shown.status_code, listed.status_code, written.status_code] == [200] * 3
            assert set(await answered(waiting)) <= {200, 503}


async def test_the_keys_of_another_account_are_its_own(api: Api, stranger: Api) -> None:
    key = await api.new_object(YEAR)
    await stranger.new_object(YEAR, key=key)
    mine, theirs = await create(api, key, "shared"), await create(stranger, key, "shared")
    assert mine.headers["X-Idempotency-Lookup"] == theirs.headers["X-Idempotency-Lookup"] == "miss"
    assert record_of(mine)["id"] != record_of(theirs)["id"]


async def test_a_key_does_not_open_what_its_caller_may_not_do(api: Api, agent: Api) -> None:
    body = {"custom_object": {"key": "made_by_admin", "title": "x"}}
    assert (await send(api, "POST", "/custom_objects", "of an admin", body)).status_code == 201
    assert (await send(agent, "POST", "/custom_objects", "of an admin", body)).status_code == 403


async def test_a_twin_of_a_request_under_way_is_told_to_come_back(api: Api) -> None:
    key = await api.new_object(YEAR)
    made = record_of(await api.upsert(key, CAR, external_id="v1"))
    path = f"/custom_objects/{key}/records?external_id=v1"
    record: dict[str, Any] = {"custom_object_record": {}}
    async with api.running.sql() as peer, peer.transaction():
        await peer.execute("select from records where record_id = $1 for update", made["id"])
        first = asyncio.create_task(send(api, "PUT", path, "under way", record))
        await until_blocked(peer)
        twin = await send(api, "PUT", path, "under way", record)
        other = await send(api, "PUT", path, "under way", {"custom_object_record": CAR})
    for response in (twin, other):
        assert (response.status_code, response.json()["error"]) == (409, "Conflict")
        assert response.headers["Retry-After"] == "1"
    assert (await first).headers["X-Idempotency-Lookup"] == "miss"
    assert seen_in(await send(api, "PUT", path, "under way", record)) == seen_in(await first)


async def test_a_record_and_its_answer_are_written_together_or_not_at_all(cluster: Cluster) -> None:
    async with running(await cluster.new_database()) as service:
        api = Api(service, await service.token())
        async with api.client, service.sql() as owner:
            key = await api.new_object(YEAR, naming={"autoincrement_enabled": True})
            await owner.execute("alter table idempotency_keys add constraint none check (status = 0)")
            response = await create(api, key, "together", {})
            assert response.status_code == 500
            assert await api.records(key) == []
            await owner.execute("alter table idempotency_keys drop constraint none")
            assert record_of(await create(api, key, "together", {}))["name"] == "1"


async def test_a_write_that_meets_a_changed_definition_is_validated_again_under_its_key(
    cluster: Cluster,
) -> None:
    url = await cluster.new_database()
    async with running(url) as service, running(url) as elsewhere:
        api = Api(service, await service.token())
        admin = Api(elsewhere, api.token)
        async with api.client, admin.client:
            key = await api.new_object(YEAR)
            assert (await create(api, key, "before")).status_code == 201  # and the definition is cached
            await admin.client.delete(f"/custom_objects/{key}/fields/year")
            assert list(problems_of(await create(api, key, "after"))) == ["year"]
            assert (await create(api, key, "after", {"name": "x"})).status_code == 201


async def test_eight_racing_twins_make_one_record_and_are_all_told_of_it(api: Api) -> None:
    key = await api.new_object(YEAR)

    async def insist(number: int) -> httpx.Response:
        response = await create(api, key, f"twin {number}")
        return response if response.status_code != 409 else await insist(number)

    for number in range(10):
        answers = await asyncio.gather(*(insist(number) for _ in range(8)))
        assert {answer.status_code for answer in answers} == {201}
        assert len({answer.content for answer in answers}) == 1
        lookups = Counter(answer.headers["X-Idempotency-Lookup"] for answer in answers)
        assert lookups == {"miss": 1, "hit": 7}
    assert len(await api.records(key)) == 10


async def test_an_answer_lost_after_the_commit_is_given_to_who_asks_again(cluster: Cluster) -> None:
    async with lossy_address(await cluster.new_database()) as line, running(line.url) as service:
        api = Api(service, await service.token())
        async with api.client:
            key = await api.new_object(YEAR)
            line.lose_the_answer_to("lost forever", ending="COMMIT")
            caller = asyncio.create_task(create(api, key, "cut", {"name": "lost forever"}))
            await asyncio.wait_for(line.is_committed.wait(), 5)
            line.part()
            assert await answered([caller]) == [503]
            assert caller.result().headers["Retry-After"] == "1"
            again = await create(api, key, "cut", {"name": "lost forever"})
            assert (again.status_code, again.headers["X-Idempotency-Lookup"]) == (201, "hit")
            assert len(await api.records(key)) == 1


async def test_two_hundred_requests_outlive_a_crashed_service(cluster: Cluster) -> None:
    """Killed while they are under way: what was begun is sent again, and made once."""
    url = await cluster.new_database()
    settings = {"BOOTSTRAP_EMAIL": "a@example.com", "BOOTSTRAP_TOKEN": TOKEN, "DATABASE_URL": url}
    path = "/api/v2/custom_objects/car/records"

    async def make(client: httpx.AsyncClient, number: int) -> httpx.Response | None:
        body, headers = {"custom_object_record": {"name": f"n{number}"}}, {"Idempotency-Key": f"k{number}"}
        with contextlib.suppress(httpx.TransportError):
            return await client.post(path, json=body, headers=headers)
        return None

    async with serving(**settings) as (client, process):
        body = {"custom_object": {"key": "car", "title": "Car"}}
        assert (await client.post("/api/v2/custom_objects", json=body)).status_code == 201
        early = [await make(client, number) for number in range(100)]
        under_way = [asyncio.create_task(make(client, number)) for number in range(100, 200)]
        await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
        process.kill()
        early += await asyncio.gather(*under_way)
    first = [answer for answer in early if answer is not None]
    assert {answer.status_code for answer in first} == {201}
    assert 100 < len(first) < 200, "some were cut off"

    async with serving(**settings) as (client, _):
        again = [await make(client, number) for number in range(200)]
        third = [await make(client, number) for number in range(200)]
        count = (await client.get(f"{path}/count")).json()["count"]["value"]
    assert [seen_in(answer) for answer in again if answer] == [seen_in(answer) for answer in third if answer]
    assert {answer.headers["X-Idempotency-Lookup"] for answer in third if answer} == {"hit"}
    for before, after in zip(early, again, strict=True):
        assert after is not None
        if before is not None:
            assert (after.content, after.headers["X-Idempotency-Lookup"]) == (before.content, "hit")
    assert count == 200


async def test_a_key_is_forgotten_after_a_day_and_purged(api: Api) -> None:
    key = await api.new_object(YEAR)
    first = await create(api, key, "old")
    async with api.running.sql() as owner:
        await owner.execute("update idempotency_keys set created_at = created_at - interval '25 hours'")
        again = await create(api, key, "old", {**CAR, "name": "another"})
        assert again.headers["X-Idempotency-Lookup"] == "miss"
        assert record_of(again)["id"] != record_of(first)["id"]
        await owner.execute(
            "update idempotency_keys set created_at = now() - interval '25 hours' where key <> 'old'"
        )
        while await purge.step(api.running.service.database.main):
            pass
        assert [row["key"] for row in await owner.fetch("select key from idempotency_keys")] == ["old"]


async def test_a_purge_of_many_answers_goes_in_steps(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purge, "_ANSWERS", 3)
    url = await cluster.new_database()
    async with owner_transaction(url) as owner:
        await owner.execute("insert into accounts (name) values ('a')")
        await owner.execute(
            "insert into idempotency_keys select 1, n, '', 200, '[]', '', now() - interval '25 hours'"
            " from generate_series(1, 7) as n"
        )
    async with connected(Settings(), url) as database:
        assert [await purge.step(database.main) for _ in range(3)] == [True, True, False]
    async with owner_transaction(url) as owner:
        assert await owner.fetchval("select count(*) from idempotency_keys") == 0


async def test_a_request_without_a_key_is_kept_nowhere(api: Api) -> None:
    key = await api.new_object(YEAR)
    async with api.running.sql() as owner:
        before = await owner.fetchval("select count(*) from idempotency_keys")
        assert "X-Idempotency-Lookup" not in (await api.create(key, **CAR)).headers
        assert await owner.fetchval("select count(*) from idempotency_keys") == before
