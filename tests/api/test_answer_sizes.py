"""Every list is bounded in bytes as well as in rows, and its links lead over all of it nevertheless."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.support.harness import Api, problems_of, record_of
from upsert_svc.paging import PAGE_BYTES, PAGE_SIZE_LIMIT

# The first item may exceed the bound, and what a statement takes for a record's size is not to the byte.
MOST_BYTES = PAGE_BYTES * 1.1
COUNT = 100


@pytest.fixture(scope="module")
async def key(api: Api) -> str:
    """An object with records of nearly 32 KB."""
    key = await api.new_object({"key": "text", "type": "textarea"}, {"key": "data", "type": "json"})
    await _fill(api, key, "word " + "x" * 31_500)
    return key


async def _fill(api: Api, key: str, text: str) -> None:
    for number in range(COUNT):
        fields = {"text": text}
        record_of(
            await api.upsert(
                key, {"name": f"name {number:03}", "custom_object_fields": fields}, external_id=f"x{number}"
            )
        )


def requires_bound(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text[:200]
    assert len(response.content) <= MOST_BYTES
    body: dict[str, Any] = response.json()
    return body


async def pages(api: Api, first: httpx.Response, link: str = "next") -> list[dict[str, Any]]:
    found = [requires_bound(first)]
    while url := found[-1]["links"][link]:
        found.append(requires_bound(await api.client.get(url)))
    return found


def of(found: list[dict[str, Any]], name: str, attribute: str) -> list[Any]:
    return [item[attribute] for page in found for item in page[name]]


@pytest.mark.parametrize(
    "path",
    [
        "records",
        "records?sort=-id",
        "records?sort=updated_at",
        "records?sort=-updated_at",
        "records?filter[external_ids]=" + ",".join(f"x{number}" for number in range(COUNT)),
        "records/search?query=word",
        "records/search?query=word&sort=-name",
        "records/search?query=*",
        "records/autocomplete?name=name",
    ],
)
async def test_a_page_of_records_ends_where_it_is_large_enough_and_the_next_goes_on(
    api: Api, key: str, path: str
) -> None:
    found = await pages(api, await api.client.get(f"/custom_objects/{key}/{path}"))
    seen = of(found, "custom_object_records", "name")
    assert sorted(seen) == [f"name {number:03}" for number in range(COUNT)]
    assert len(found) == 2
    assert len(found[0]["custom_object_records"]) > COUNT / 2
    back = await api.client.get(found[-1]["links"]["prev"])
    before = await pages(api, back, "prev")
    seen_back = [name for page in reversed(before) for name in of([page], "custom_object_records", "name")]
    assert seen_back == seen[: len(seen_back)]


async def test_a_search_is_bounded_and_goes_on_by_its_cursor(api: Api, key: str) -> None:
    body: dict[str, Any] = {"filter": {"custom_object_fields.text": {"$contains": "WORD"}}}
    seen: list[str] = []
    while True:
        found = requires_bound(await api.client.post(f"/custom_objects/{key}/records/search", json=body))
        seen += [record["name"] for record in found["custom_object_records"]]
        if not found["meta"]["has_more"]:
            break
        body["page"] = {"after": found["meta"]["after_cursor"]}
    assert seen == [f"name {number:03}" for number in range(COUNT)]


@pytest.mark.parametrize("filler", ["x", "äöü", "\\\\"])
async def test_what_a_page_holds_is_measured_by_the_bytes_that_are_sent(api: Api, filler: str) -> None:
    key = await api.new_object({"key": "text", "type": "textarea"})
    await _fill(api, key, filler * (31_000 // len(json.dumps(filler, ensure_ascii=False)[1:-1].encode())))
    found = await pages(api, await api.client.get(f"/custom_objects/{key}/records"))
    assert len(of(found, "custom_object_records", "name")) == COUNT
    assert len(found) == 2


async def test_a_page_of_small_records_is_as_long_as_ever(api: Api) -> None:
    key = await api.new_object()
    for number in range(PAGE_SIZE_LIMIT + 1):
        await api.create(key, name=f"{number}")
    found = requires_bound(await api.client.get(f"/custom_objects/{key}/records"))
    assert len(found["custom_object_records"]) == PAGE_SIZE_LIMIT


async def test_a_page_of_an_export_is_bounded_and_whoever_follows_misses_nothing(api: Api, key: str) -> None:
    seen: list[str] = []
    query: dict[str, Any] = {"start_time": 0, "per_page": 1000}
    count = 0
    while True:
        page = requires_bound(await api.client.get(f"/incremental/custom_objects/{key}/cursor", params=query))
        count += 1
        seen += [record["name"] for record in page["custom_object_records"]]
        assert page["end_of_stream"] is (page["after_url"] is None)
        if page["end_of_stream"]:
            break
        assert page["meta"]["has_more"]
        query = {"cursor": page["after_cursor"], "per_page": 1000}
    assert sorted(seen) == [f"name {number:03}" for number in range(COUNT)]
    assert count == 2


async def test_a_page_of_events_is_bounded(api: Api, key: str) -> None:
    record = record_of(await api.create(key, name="of many events"))
    url = f"/custom_objects/{key}/records/{record['id']}"
    for number in range(60):
        changed = {"custom_object_fields": {"data": {"text": f"{number}" + "x" * 31_000}}}
        record_of(await api.client.patch(url, json={"custom_object_record": changed}))
    for sort in ("created_at", "-created_at"):
        found = await pages(api, await api.client.get(f"{url}/events?sort={sort}"))
        versions = [event["properties"]["version"] for page in found for event in page["events"]]
        assert versions == sorted(range(1, 62), reverse=sort.startswith("-"))
        assert len(found) == 2
    await api.client.delete(url)


async def test_pages_of_objects_are_bounded_also_those_from_before_descriptions_were(stranger: Api) -> None:
    keys = [await stranger.new_object() for _ in range(30)]
    async with stranger.running.sql() as connection:
        await connection.execute(
            "update objects set description = repeat('d', 120000) where key = any ($1)", keys
        )
    found = await pages(stranger, await stranger.client.get("/custom_objects"))
    assert set(keys) <= set(of(found, "custom_objects", "key"))
    assert len(of(found, "custom_objects", "key")) == len(set(of(found, "custom_objects", "key")))
    assert len(found) > 3
    for key in keys:
        await stranger.client.delete(f"/custom_objects/{key}")


async def test_pages_of_fields_are_bounded(api: Api) -> None:
    key = await api.new_object()
    options = [{"name": "n" * 50 + f"{number}", "value": f"v{number}"} for number in range(2000)]
    for number in range(12):
        await api.new_field(key, key=f"f{number}", type="dropdown", custom_field_options=options)
    found = await pages(api, await api.client.get(f"/custom_objects/{key}/fields"))
    assert of(found, "custom_object_fields", "key") == [f"f{number}" for number in range(12)]
    assert len(found) > 1


@pytest.mark.parametrize("resource", ["custom_object", "custom_object_field"])
async def test_a_description_is_bounded_when_it_is_sent(api: Api, resource: str) -> None:
    key = await api.new_object({"key": "f", "type": "text"})
    url = f"/custom_objects/{key}" + ("/fields/f" if resource == "custom_object_field" else "")
    assert (await api.client.patch(url, json={resource: {"description": "ä" * 32_768}})).status_code == 200
    for name in ("description", "raw_description"):
        problems = problems_of(await api.client.patch(url, json={resource: {name: "d" * 32_769}}))
        assert list(problems) == [name]
        assert len(problems[name][0]) < 200


async def test_a_refusal_of_many_attributes_tells_the_first_and_how_many_more(api: Api) -> None:
    key = await api.new_object({"key": "f", "type": "dropdown"})
    options = [{"value": "", "k": 1} for _ in range(1500)]
    response = await api.client.patch(
        f"/custom_objects/{key}/fields/f", json={"custom_object_field": {"custom_field_options": options}}
    )
    problems = problems_of(response)
    assert len(problems["custom_field_options"]) == 20
    assert problems["base"] == ["There are 1,480 more problems"]
    condition: dict[str, Any] = {"all": [{"k" * 100_000: {}}]}
    body = {"custom_object_field": {"relationship_filter": condition}}
    response = await api.client.patch(f"/custom_objects/{key}/fields/f", json=body)
    assert response.status_code == 422
    assert len(response.content) < 10_000


LARGE = "e" * 150_000


async def _job(api: Api, key: str, action: str, items: list[Any]) -> dict[str, Any]:
    return await api.finished_job(key, action, items)


@pytest.mark.parametrize(
    ("action", "item", "told"),
    [
        ("create", {"external_id": LARGE, "name": "n"}, "external_id"),
        ("create_or_update_by_external_id", {"external_id": LARGE}, "external_id"),
        ("delete_by_external_id", LARGE, "external_id"),
        ("update", {"id": LARGE}, "id"),
        ("delete", LARGE, "id"),
    ],
)
async def test_what_a_refused_item_was_sent_with_is_cut_in_its_result(
    api: Api, action: str, item: Any, told: str
) -> None:
    key = await api.new_object()
    status = await _job(api, key, action, [item])
    assert status["results"][0][told] == LARGE[:254] + "…"
    assert len(json.dumps(status)) < 5000


async def test_an_item_of_many_problems_tells_some_of_them(api: Api) -> None:
    key = await api.new_object({"key": "n", "type": "integer"})
    fields = {f"unknown {number} {'x' * 1000}": 1 for number in range(100)}
    status = await _job(api, key, "create", [{"name": "n", "custom_object_fields": fields}])
    errors = status["results"][0]["errors"]
    assert 1 <= len(errors) <= 21
    assert all(len(error["detail"]) <= 256 for error in errors)


@pytest.fixture
async def many_jobs(stranger: Api) -> list[str]:
    """Jobs of an account whose results are large, as the version before kept them."""
    key = await stranger.new_object()
    job_ids = [(await _job(stranger, key, "delete", ["x"] * 20))["id"] for _ in range(12)]
    async with stranger.running.sql() as connection:
        await connection.execute(
            """update jobs set results = (
                   select jsonb_agg(result || jsonb_build_object('external_id', repeat('e', 160000))
                                    order by place)
                     from jsonb_array_elements(results) with ordinality as r(result, place))
                where job_id = any ($1)""",
            job_ids,
        )
    return job_ids


async def test_results_that_were_kept_before_they_were_bounded_are_cut(
    stranger: Api, many_jobs: list[str]
) -> None:
    status = (await stranger.client.get(f"/job_statuses/{many_jobs[0]}")).json()["job_status"]
    assert [result["external_id"] for result in status["results"]] == ["e" * 255 + "…"] * 20
    assert [result["index"] for result in status["results"]] == list(range(20))
    found = await pages(stranger, await stranger.client.get("/job_statuses"))
    assert set(many_jobs) <= set(of(found, "job_statuses", "id"))


@pytest.fixture
async def jobs_of_500_kilobytes(stranger: Api, many_jobs: list[str]) -> list[str]:
    """Jobs whose results are as large as they may be, or nearly."""
    async with stranger.running.sql() as connection:
        await connection.execute(
            """update jobs set results = (
                   select jsonb_agg(result || jsonb_build_object('external_id', repeat('e', 25000))
                                    order by place)
                     from jsonb_array_elements(results) with ordinality as r(result, place))
                where job_id = any ($1)""",
            many_jobs,
        )
    return many_jobs


async def test_pages_of_jobs_are_bounded_both_ways(stranger: Api, jobs_of_500_kilobytes: list[str]) -> None:
    found = await pages(stranger, await stranger.client.get("/job_statuses"))
    seen = of(found, "job_statuses", "id")
    assert [job_id for job_id in seen if job_id in jobs_of_500_kilobytes] == jobs_of_500_kilobytes
    assert len(seen) == len(set(seen))
    back = await pages(stranger, await stranger.client.get(found[-1]["links"]["prev"]), "prev")
    seen_back = [job_id for page in reversed(back) for job_id in of([page], "job_statuses", "id")]
    assert seen_back == seen[: len(seen_back)]


async def test_many_jobs_asked_for_by_id_are_all_answered_the_later_ones_without_results(
    stranger: Api, jobs_of_500_kilobytes: list[str]
) -> None:
    asked = ",".join(jobs_of_500_kilobytes)
    found = requires_bound(await stranger.client.get(f"/job_statuses/show_many?ids={asked}"))["job_statuses"]
    assert [status["id"] for status in found] == jobs_of_500_kilobytes
    assert {status["status"] for status in found} == {"completed"}
    assert [status["results"] is not None for status in found] == [True] * 3 + [False] * 9


_FROM_A_CALLER: dict[str, Callable[[str], dict[str, Any]]] = {
    "cursor": lambda text: {"params": {"page[after]": text}},
    "size": lambda text: {"params": {"page[size]": text}},
    "sort": lambda text: {"params": {"sort": text}},
    "a parameter that cannot be stored": lambda text: {"params": {text + "\0": "1"}},
    "a header": lambda text: {"headers": {"If-Match": text}},
    "an idempotency key": lambda text: {"headers": {"Idempotency-Key": text}},
}


@pytest.mark.parametrize("place", _FROM_A_CALLER)
async def test_an_error_repeats_little_of_what_a_request_held(api: Api, key: str, place: str) -> None:
    response = await api.client.get(f"/custom_objects/{key}/records", **_FROM_A_CALLER[place]("v" * 20_000))
    assert len(response.content) < 2000 or response.status_code == 200
    record = {"custom_object_record": {"name": "n", "u" * 100_000: 1}}
    response = await api.client.patch(f"/custom_objects/{key}/records?external_id=warned", json=record)
    assert len(response.headers["X-Zendesk-API-Warn"]) <= 1024
    await api.client.delete(f"/custom_objects/{key}/records?external_id=warned")
