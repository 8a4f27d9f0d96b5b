"""ETag, If-Match and If-None-Match over HTTP: what tags tell apart, what a failed condition prevents."""

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from tests.support.batches import batching_service, busy_connection, queued
from tests.support.harness import Api, Cluster, record_of

YEAR = {"key": "year", "type": "integer"}
CAR = {"name": "Ford", "custom_object_fields": {"year": 1}}
CHANGED = {"name": "Ford", "custom_object_fields": {"year": 2}}
# every way to write a record that stands, v1, by the method and what finds it
WAYS = [(method, by) for method in ("PATCH", "PUT", "DELETE") for by in ("id", "external_id", "name")]


@pytest.fixture
async def key(api: Api) -> str:
    return await api.new_object(YEAR, naming={"is_unique": True})


async def made(api: Api, key: str) -> tuple[dict[str, Any], str]:
    """A record, v1, and its tag."""
    response = await api.create(key, **CAR, external_id="v1")
    return record_of(response), response.headers["ETag"]


async def send(
    api: Api, key: str, method: str, by: str, record_id: str, headers: Mapping[str, str], body: Any = CHANGED
) -> httpx.Response:
    path = f"/custom_objects/{key}/records"
    ends = {"id": f"/{record_id}", "external_id": "?external_id=v1", "name": "?name=Ford"}
    url = path + ends[by]
    json = None if method == "DELETE" else {"custom_object_record": body}
    return await api.client.request(method, url, json=json, headers=headers)


async def show(api: Api, key: str, record_id: str, **headers: str) -> httpx.Response:
    return await api.client.get(
        f"/custom_objects/{key}/records/{record_id}",
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


def assert_failed(response: httpx.Response) -> None:
    assert (response.status_code, response.json()["error"]) == (412, "PreconditionFailed")
    assert set(response.json()) == {"error", "description"}


# The tag


async def test_every_answer_with_one_record_has_its_tag(api: Api, key: str) -> None:
    record, tag = await made(api, key)
    assert tag[0] == tag[-1] == '"'
    for method, by in WAYS:
        if method != "DELETE":
            response = await send(api, key, method, by, record["id"], {}, CAR)
            assert (response.headers["Upsert-Result"], response.headers["ETag"]) == ("unchanged", tag)
    assert (await show(api, key, record["id"])).headers["ETag"] == tag
    head = await api.client.head(f"/custom_objects/{key}/records/{record['id']}")
    assert head.headers["ETag"] == tag


async def test_a_tag_changes_with_each_change_and_never_comes_again(api: Api, key: str) -> None:
    record, tag = await made(api, key)
    tags = [tag]
    for year in (2, 1, 2):
        body = {"custom_object_fields": {"year": year}}
        response = await send(api, key, "PATCH", "id", record["id"], {}, body)
        tags.append(response.headers["ETag"])
        assert (await show(api, key, record["id"])).headers["ETag"] == tags[-1]
    await send(api, key, "DELETE", "id", record["id"], {})
    tags.append((await made(api, key))[1])
    assert len({*tags}) == 5


async def test_a_tag_changes_with_the_definition_because_the_answer_does(api: Api, key: str) -> None:
    record, tag = await made(api, key)
    await api.new_field(key, key="color", type="text")
    shown = await show(api, key, record["id"], If_None_Match=tag)
    assert shown.status_code == 200
    assert record_of(shown)["custom_object_fields"] == {"year": 1, "color": None}
    assert_failed(await send(api, key, "PATCH", "id", record["id"], {"If-Match": tag}))
    renewed = {"If-Match": shown.headers["ETag"]}
    assert (await send(api, key, "PATCH", "id", record["id"], renewed)).status_code == 200


async def test_what_a_dry_run_would_write_has_no_tag(api: Api, key: str) -> None:
    _, tag = await made(api, key)
    assert "ETag" not in (await api.upsert(key, CHANGED, external_id="v1", dry_run="true")).headers
    assert (await api.upsert(key, CAR, external_id="v1", dry_run="true")).headers["ETag"] == tag


# Reading


@pytest.mark.parametrize("form", ["{}", "W/{}", '"x", {}', '{} , W/"y"', "*"])
async def test_who_has_the_record_as_it_stands_is_told_just_that(api: Api, key: str, form: str) -> None:
    record, tag = await made(api, key)
    response = await show(api, key, record["id"], If_None_Match=form.format(tag))
    assert (response.status_code, response.content, response.headers["ETag"]) == (304, b"", tag)
    head = await api.client.head(
        f"/custom_objects/{key}/records/{record['id']}", headers={"If-None-Match": tag}
    )
    assert head.status_code == 304


async def test_who_has_another_state_is_sent_the_record(api: Api, key: str) -> None:
    record, tag = await made(api, key)
    response = await show(api, key, record["id"], If_None_Match=f'"x", "*", "{tag[1:-2]}"')
    assert record_of(response) == record


async def test_a_reading_under_if_match_fails_for_another_state(api: Api, key: str) -> None:
    record, tag = await made(api, key)
    assert (await show(api, key, record["id"], If_Match=tag)).status_code == 200
    assert_failed(await show(api, key, record["id"], If_Match='"x"'))
    assert (await show(api, key, "0" * 26, If_None_Match="*")).status_code == 404


# Writing


@pytest.mark.parametrize(("method", "by"), WAYS)
async def test_a_write_under_if_match_needs_the_state_it_names(
    api: Api, key: str, method: str, by: str
) -> None:
    record, tag = await made(api, key)
    for stale in ('"x"', f"W/{tag}", '"*"', '""'):
        assert_failed(await send(api, key, method, by, record["id"], {"If-Match": stale}))
        assert record_of(await show(api, key, record["id"])) == record
    response = await send(api, key, method, by, record["id"], {"If-Match": f'"x", {tag}'})
    assert response.status_code == (204 if method == "DELETE" else 200)
    if method == "DELETE":
        assert await api.records(key) == []
    else:
        assert record_of(response)["custom_object_fields"] == {"year": 2}
        assert_failed(await send(api, key, method, by, record["id"], {"If-Match": tag}, CAR))


@pytest.mark.parametrize(("method", "by"), WAYS)
async def test_a_write_under_if_none_match_star_needs_a_record_that_is_missing(
    api: Api, key: str, method: str, by: str
) -> None:
    record, tag = await made(api, key)
    for condition in ("*", tag):
        assert_failed(await send(api, key, method, by, record["id"], {"If-None-Match": condition}))
    assert record_of(await show(api, key, record["id"])) == record


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
@pytest.mark.parametrize("by", ["external_id", "name"])
async def test_a_missing_record_is_created_under_if_none_match_and_not_under_if_match(
    api: Api, key: str, method: str, by: str
) -> None:
    for condition in ("*", '"x"'):
        assert_failed(await send(api, key, method, by, "", {"If-Match": condition}))
        assert await api.records(key) == []
    created = await send(api, key, method, by, "", {"If-None-Match": "*"})
    assert created.headers["Upsert-Result"] == "created"
    assert_failed(await send(api, key, method, by, "", {"If-None-Match": "*"}))


@pytest.mark.parametrize("method", ["PATCH", "PUT", "DELETE"])
@pytest.mark.parametrize("name", ["If-Match", "If-None-Match"])
async def test_a_missing_id_is_not_found_whatever_the_condition(
    api: Api, key: str, method: str, name: str
) -> None:
    for condition in ("*", '"x"'):
        assert (await send(api, key, method, "id", "0" * 26, {name: condition})).status_code == 404


async def test_if_match_star_takes_any_state_that_stands(api: Api, key: str) -> None:
    record, _ = await made(api, key)
    assert (await send(api, key, "PUT", "id", record["id"], {"If-Match": "*"})).status_code == 200


async def test_a_condition_that_fails_is_told_before_what_is_wrong_with_the_values(
    api: Api, key: str
) -> None:
    record, _ = await made(api, key)
    await api.create(key, name="Fiat")
    taken = {"name": "Fiat"}
    assert_failed(await send(api, key, "PATCH", "id", record["id"], {"If-Match": '"x"'}, taken))


async def test_a_dry_run_is_held_to_its_conditions(api: Api, key: str) -> None:
    _, tag = await made(api, key)
    path = f"/custom_objects/{key}/records?external_id=v1&dry_run=true"
    body = {"custom_object_record": CHANGED}
    assert_failed(await api.client.put(path, json=body, headers={"If-Match": '"x"'}))
    assert (await api.client.put(path, json=body, headers={"If-Match": tag})).status_code == 200


@pytest.mark.parametrize("name", ["If-Match", "If-None-Match"])
@pytest.mark.parametrize("value", ["", "x", '"x', "'x'", '"x" "y"', '"x",', '"x", *', 'w/"x"', '"a b"'])
async def test_a_condition_that_cannot_be_read_is_a_bad_request(
    api: Api, key: str, name: str, value: str
) -> None:
    record, _ = await made(api, key)
    for method in ("GET", "PATCH", "PUT", "DELETE"):
        response = await send(api, key, method, "id", record["id"], {name: value})
        assert (response.status_code, response.json()["error"]) == (400, "BadRequest")
        assert name in response.json()["description"]


async def test_a_condition_may_come_in_several_lines(api: Api, key: str) -> None:
    record, tag = await made(api, key)
    path = f"/custom_objects/{key}/records/{record['id']}"
    for lines, status in ((('"x"', tag), 200), (('"x"', '"y"'), 412), ((tag, "*"), 400)):
        response = await api.client.patch(
            path, json={"custom_object_record": CAR}, headers=[("If-Match", line) for line in lines]
        )
        assert response.status_code == status
    response = await api.client.get(path, headers=[("If-None-Match", '"x"'), ("If-None-Match", tag)])
    assert response.status_code == 304


# At one moment


async def test_of_two_writes_under_one_tag_in_one_batch_the_first_wins(cluster: Cluster) -> None:
    async with batching_service(cluster) as api:
        key = await api.new_object(YEAR)
        record, tag = await made(api, key)
        async with busy_connection(api):
            callers = []
            for place, method in enumerate(("PUT", "PATCH", "PUT"), 1):
                body = {"name": "Ford", "custom_object_fields": {"year": 10 + place}}
                callers.append(
                    asyncio.create_task(send(api, key, method, "id", record["id"], {"If-Match": tag}, body))
                )
                await queued(api, place)
        statuses = [answer.status_code for answer in await asyncio.gather(*callers)]
        assert statuses == [200, 412, 412]
        assert record_of(await show(api, key, record["id"]))["custom_object_fields"] == {"year": 11}


@pytest.mark.parametrize("method", ["PATCH", "PUT", "DELETE"])
async def test_a_write_that_waited_is_evaluated_by_the_state_it_waited_for(
    api: Api, key: str, method: str
) -> None:
    record, tag = await made(api, key)
    async with api.running.sql() as peer, peer.transaction():
        await peer.execute("update records set version = version + 1 where record_id = $1", record["id"])
        caller = asyncio.create_task(send(api, key, method, "id", record["id"], {"If-Match": tag}))
        await asyncio.sleep(0.05)
        assert not caller.done()
    assert_failed(await caller)
