"""What every published client sees of one and the same sync, each with its own words for a request."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

pytestmark = pytest.mark.clients
CLIENTS = ("dlt", "node_zendesk", "zenpy")
every_client = pytest.mark.parametrize("client", CLIENTS)
Run = Callable[[str], Awaitable[Any]]
JOB_KEYS = {"id", "job_type", "url", "total", "progress", "status", "message", "results"}


@every_client
async def test_an_object_and_its_fields_are_made(story: Run, client: str) -> None:
    reported = await story(client)
    made = reported.saw("create object")
    assert (made["status"], made["body"]["custom_object"]["title_pluralized"]) == (201, "Cars")
    for type_, key in (("text", "color"), ("integer", "year")):
        made = reported.saw(f"create {type_} field")
        field = made["body"]["custom_object_field"]
        assert (made["status"], field["type"], field["key"]) == (201, type_, key)
    named = reported.saw("make names unique")
    assert named["status"] == 200
    assert named["body"]["custom_object_field"]["properties"]["is_unique"] is True


@every_client
async def test_an_upsert_by_external_id_creates_once(story: Run, client: str) -> None:
    reported = await story(client)
    first, again = reported.saw("upsert by external_id"), reported.saw("upsert by external_id again")
    assert (first["status"], first["result"]) == (200, "created")
    assert (again["status"], again["result"]) == (200, "unchanged")
    assert again["body"] == first["body"]
    record = first["body"]["custom_object_record"]
    assert (record["name"], record["external_id"]) == ("Ford", "v 1&2")
    assert record["custom_object_fields"] == {"color": "red", "year": 2026}


@every_client
async def test_an_upsert_by_name_finds_it_in_another_spelling(story: Run, client: str) -> None:
    reported = await story(client)
    first, again = reported.saw("upsert by name"), reported.saw("upsert by name again")
    assert (first["result"], again["result"]) == ("created", "updated")
    record = again["body"]["custom_object_record"]
    assert (record["id"], record["name"]) == (first["body"]["custom_object_record"]["id"], "Opel")
    assert record["custom_object_fields"] == {"color": "grey", "year": 1990}


@every_client
async def test_a_patch_keeps_what_is_left_out_and_a_put_does_not(story: Run, client: str) -> None:
    reported = await story(client)
    patched, put = reported.saw("patch"), reported.saw("put")
    assert (patched["status"], put["status"]) == (200, 200)
    shown = [answer["body"]["custom_object_record"]["custom_object_fields"] for answer in (patched, put)]
    assert shown == [{"color": "blue", "year": 2026}, {"color": "blue", "year": None}]


@every_client
async def test_a_listing_is_followed_to_its_last_page_and_no_further(story: Run, client: str) -> None:
    reported = await story(client)
    assert reported.saw("list in pages") == [["Ford", "Opel"], ["Audi", "Fiat"], ["Seat"]]


@every_client
async def test_a_search_by_words_is_paged(story: Run, client: str) -> None:
    pages = (await story(client)).saw("search by words")
    assert [len(page) for page in pages] == [1, 1]
    assert sorted(name for page in pages for name in page) == ["Fiat", "Opel"]


@every_client
async def test_a_job_is_followed_until_it_is_completed(story: Run, client: str) -> None:
    reported = await story(client)
    queued, done = reported.saw("create job"), reported.saw("job completed")
    assert set(queued) >= JOB_KEYS
    assert set(done) >= JOB_KEYS
    assert queued["status"] in ("queued", "working", "completed")
    assert (queued["total"], queued["id"]) == (2, done["id"])
    assert (done["status"], done["total"], done["progress"]) == ("completed", 2, 2)
    assert [result["index"] for result in done["results"]] == [0, 1]
    for result in done["results"]:
        assert {"index", "id", "external_id", "account_id", "success", "action", "status"} <= set(result)
        assert (result["success"], result["status"]) == (True, "Created")


@every_client
async def test_a_job_tells_which_of_its_items_failed(story: Run, client: str) -> None:
    done = (await story(client)).saw("job with a taken name")
    assert done["status"] == "completed"
    good, bad = done["results"]
    assert (good["success"], good["external_id"]) == (True, "v 1&2")
    assert (bad["success"], bad["status"], bad["index"]) == (False, "Failed", 1)
    assert {"code", "title", "detail"} <= set(bad["errors"][0])
    assert "Name already exists. Try another one." in str(bad["errors"])


@every_client
async def test_records_and_objects_are_deleted(story: Run, client: str) -> None:
    reported = await story(client)
    for step in ("delete", "delete by name", "delete object"):
        assert reported.saw(step)["status"] == 204
