"""What published clients of this dialect send, to the byte where it matters, and cannot do without."""

import asyncio
import re
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from tests.support.harness import JSON_TYPE, Api, Cluster, record_of, running

OBJECT_KEYS = {
    "url", "key", "created_by_user_id", "updated_by_user_id", "created_at", "updated_at", "title",
    "raw_title", "title_pluralized", "raw_title_pluralized", "description", "raw_description",
    "include_in_list_view", "allows_photos", "allows_attachments",
}  # fmt: skip
FIELD_KEYS = {
    "url", "id", "type", "key", "title", "description", "raw_description", "position", "active", "system",
    "regexp_for_validation", "created_at", "updated_at", "tag", "custom_field_options",
    "relationship_target_type", "relationship_filter",
}  # fmt: skip
RECORD_KEYS = {
    "url", "id", "name", "custom_object_key", "custom_object_fields", "created_by_user_id",
    "updated_by_user_id", "created_at", "updated_at", "external_id", "photo",
}  # fmt: skip
JOB_KEYS = {"id", "job_type", "url", "total", "progress", "status", "message", "results"}
ZENDESK_TYPES = {
    "text", "textarea", "regexp", "checkbox", "date", "integer", "decimal", "dropdown",
    "multiselect", "lookup",
}  # fmt: skip
RED = {"name": "Red", "raw_name": "Red", "value": "red"}
FIELDS: list[dict[str, Any]] = [
    {"key": "color", "type": "text"},
    {"key": "note", "type": "textarea"},
    {"key": "plate", "type": "regexp", "regexp_for_validation": "^[A-Z]+$"},
    {"key": "electric", "type": "checkbox"},
    {"key": "sold", "type": "date"},
    {"key": "year", "type": "integer"},
    {"key": "price", "type": "decimal"},
    {"key": "paint", "type": "dropdown", "custom_field_options": [RED]},
    {"key": "extras", "type": "multiselect", "custom_field_options": [RED]},
    {"key": "owner", "type": "lookup", "relationship_target_type": "zen:user"},
]
NONE = {field["key"]: None for field in FIELDS}
# what a client of Go's zero values sends along in every record
ZEROED = {
    "url": "", "id": "", "custom_object_key": "", "created_by_user_id": "", "updated_by_user_id": "",
    "created_at": "0001-01-01T00:00:00Z", "updated_at": "0001-01-01T00:00:00Z",
}  # fmt: skip


class Caller:
    """An object with a field of every type and a unique name, and requests at its path as written."""

    def __init__(self, api: Api, key: str) -> None:
        self.api = api
        self.key = key

    async def send(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        """The JSON of an answer that must have this status."""
        response = await self.raw(method, path, body)
        assert response.status_code == status, response.text
        return response.json() if response.content else None

    async def raw(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        url = f"/custom_objects/{self.key}{path}"
        return await self.api.client.request(method, url, json=body, headers=headers)

    async def record(self, method: str, path: str, status: int = 200, **record: Any) -> dict[str, Any]:
        answer = await self.send(method, path, {"custom_object_record": record}, status)
        made: dict[str, Any] = answer["custom_object_record"]
        return made

    async def job(self, action: str, *items: Any, suffix: str = ".json") -> dict[str, Any]:
        """A job as it was queued."""
        body = {"job": {"action": action, "items": items}}
        status: dict[str, Any] = (await self.send("POST", f"/jobs{suffix}", body, 201))["job_status"]
        return status

    async def completed(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """The job once it is done, asked for at its own address as often as it takes."""
        async with asyncio.timeout(30):
            while True:
                response = await self.api.client.get(job["url"])
                status: dict[str, Any] = response.json()["job_status"]
                assert response.status_code == 200
                assert status["status"] in ("queued", "working", "completed")
                if status["status"] == "completed":
                    return status


@pytest.fixture
async def cars(api: Api) -> Caller:
    return Caller(api, await api.new_object(*FIELDS, naming={"is_unique": True}))


async def test_every_path_takes_the_json_suffix_before_its_query(cars: Caller) -> None:
    made = await cars.record("PATCH", "/records.json?external_id=v-1", name="Ford")
    assert (await cars.record("PATCH", f"/records/{made['id']}.json"))["external_id"] == "v-1"
    await cars.send("GET", f"/records/{made['id']}.json")
    await cars.send("GET", "/records.json?page%5Bsize%5D=1")
    await cars.send("GET", "/fields/color.json")
    await cars.send("DELETE", "/records.json?external_id=v-1", status=204)


async def test_jobs_and_their_status_take_the_json_suffix(cars: Caller) -> None:
    job = await cars.job("create", {"name": "Ford"}, suffix=".json")
    for path in (f"/job_statuses/{job['id']}.json", f"/job_statuses/{job['id']}"):
        assert (await cars.api.client.get(path)).json()["job_status"]["id"] == job["id"]
    assert (await cars.api.client.get("/job_statuses.json")).status_code == 200


async def test_an_upsert_answers_200_whether_it_creates_or_updates(cars: Caller) -> None:
    for outcome in ("created", "unchanged"):
        response = await cars.raw(
            "PATCH", "/records?external_id=v-1", {"custom_object_record": {"name": "Ford"}}
        )
        assert (response.status_code, response.headers["Upsert-Result"]) == (200, outcome)


async def test_each_verb_answers_with_the_one_status_that_generated_clients_know(api: Api) -> None:
    cars = Caller(api, "statuses")
    key = {"custom_object": {"key": "statuses", "title": "Status", "title_pluralized": "Statuses"}}
    field = {"custom_object_field": {"key": "color", "type": "text", "title": "Color"}}
    record = {"custom_object_record": {"name": "Ford"}}
    made = await api.client.post("/custom_objects", json=key)
    answers = [
        (made, 201),
        (await cars.raw("PATCH", "", {"custom_object": {"title": "S"}}), 200),
        (await cars.raw("POST", "/fields", field), 201),
        (await cars.raw("PATCH", "/fields/color", {"custom_object_field": {"title": "C"}}), 200),
        (created := await cars.raw("POST", "/records", record), 201),
        (await cars.raw("PATCH", f"/records/{record_of(created)['id']}", record), 200),
        (await cars.raw("GET", "/records"), 200),
        (await cars.raw("GET", "/limits/field_limit"), 200),
    ]
    for answer, status in answers:
        assert (answer.status_code, answer.headers["Content-Type"]) == (status, JSON_TYPE)
    for path in (f"/records/{record_of(created)['id']}", "/fields/color", ""):
        response = await cars.raw("DELETE", path)
        assert (response.status_code, response.content) == (204, b"")


async def test_a_job_is_answered_with_201(cars: Caller) -> None:
    response = await cars.raw("POST", "/jobs", {"job": {"action": "create", "items": [{"name": "Ford"}]}})
    assert (response.status_code, response.headers["Content-Type"]) == (201, JSON_TYPE)


async def test_the_ids_of_users_are_digits_in_a_string_on_objects_and_records(cars: Caller) -> None:
    record = await cars.record("POST", "/records", 201, name="Ford")
    shown = (await cars.send("GET", ""))["custom_object"]
    listed = (await cars.api.client.get("/custom_objects")).json()["custom_objects"]
    for item in (record, shown, *listed):
        for name in ("created_by_user_id", "updated_by_user_id"):
            assert isinstance(item[name], str)
            assert item[name].isdigit()


async def test_an_object_has_every_key_that_typed_clients_read(cars: Caller) -> None:
    shown = (await cars.send("GET", ""))["custom_object"]
    assert set(shown) >= OBJECT_KEYS
    listed = (await cars.api.client.get("/custom_objects")).json()["custom_objects"]
    assert all(set(item) >= OBJECT_KEYS for item in listed)


@pytest.mark.parametrize("query", ["", "?include_standard_fields=true"])
async def test_a_field_of_each_type_has_every_key_that_typed_clients_read(cars: Caller, query: str) -> None:
    fields = (await cars.send("GET", f"/fields{query}"))["custom_object_fields"]
    assert {field["type"] for field in fields} == ZENDESK_TYPES
    for field in fields:
        assert set(field) >= FIELD_KEYS
        assert type(field["id"]) is type(field["position"]) is int
        assert field["relationship_filter"] == {"all": [], "any": []}
        for option in field["custom_field_options"]:
            assert {"id", "name", "raw_name", "value"} <= set(option)
        assert bool(field["custom_field_options"]) == (field["type"] in ("dropdown", "multiselect"))
        assert bool(field["relationship_target_type"]) == (field["type"] == "lookup")
        if field["type"] == "checkbox":
            assert field["tag"] is None


async def test_a_record_has_every_key_and_values_of_json_types(cars: Caller) -> None:
    values = {"electric": True, "year": 2026, "price": 19.5, "sold": "2026-02-03", "extras": ["red"]}
    record = await cars.record("POST", "/records", 201, name="Ford", custom_object_fields=values)
    assert set(record) == RECORD_KEYS
    assert record["custom_object_fields"] == NONE | values
    assert record["custom_object_fields"]["electric"] is True
    bare = await cars.record("POST", "/records", 201, name="Opel")
    assert (set(bare), bare["external_id"], bare["photo"]) == (RECORD_KEYS, None, None)
    assert bare["custom_object_fields"] == NONE


async def test_the_last_page_of_everything_leads_nowhere(cars: Caller) -> None:
    for name in ("Ford", "Opel"):
        await cars.record("POST", "/records", 201, name=name)
    every = {"filter": {"name": {"$exists": True}}}
    pages = [
        await cars.send("GET", "/records?page[size]=2"),
        await cars.send("GET", "/records/autocomplete?name=&page[size]=2"),
        await cars.send("POST", "/records/search?page[size]=2", every),
        await cars.send("GET", f"/fields?page[size]={len(FIELDS)}"),
        (await cars.api.client.get("/custom_objects?page[size]=100")).json(),
    ]
    while pages[-1]["custom_objects"][-1]["key"] != cars.key:  # there may be any number of objects by now
        pages[-1] = (await cars.api.client.get(pages[-1]["links"]["next"])).json()
    for page in pages:
        assert page["links"]["next"] is None
        assert page["meta"]["after_cursor"] is None
        assert page["meta"]["has_more"] is False


async def test_the_last_page_of_a_search_by_words_leads_nowhere(cars: Caller) -> None:
    await cars.record("POST", "/records", 201, name="Ford")
    page = await cars.send("GET", "/records/search?query=ford&page[size]=1")
    assert (page["links"]["next"], page["meta"]["after_cursor"]) == (None, None)


@pytest.mark.parametrize(
    "path",
    [
        "?locale=en",
        "/fields?locale=en&include_standard_fields=true",
        "/records?locale=en&page[size]=100",
        "/records?page=1&page_size=100",
        "/records?per_page=100&sort=",
        "/records/count?locale=en",
        "/records/autocomplete?name=f&field_id=5&source=x&requester_id=6&organization_id=7"
        "&filter[dynamic_values][a]=b",
    ],
)
async def test_what_clients_add_to_the_query_is_ignored(cars: Caller, path: str) -> None:
    await cars.record("POST", "/records", 201, name="Ford")
    plain = await cars.send("GET", path.partition("?")[0])
    asked = await cars.send("GET", path)
    for name in plain.keys() - {"links", "count", "custom_object_fields"}:
        assert asked[name] == plain[name]


@pytest.mark.parametrize("query", ["page=1&page_size=100", "per_page=100", "locale=en"])
async def test_objects_are_listed_for_clients_that_count_pages(api: Api, query: str) -> None:
    response = await api.client.get(f"/custom_objects?{query}")
    assert response.status_code == 200
    assert isinstance(response.json()["custom_objects"], list)


async def test_an_empty_sort_of_a_search_by_words_is_no_sort(cars: Caller) -> None:
    await cars.record("POST", "/records", 201, name="Ford")
    found = await cars.send("GET", "/records/search?query=ford&sort=&locale=en")
    assert [record["name"] for record in found["custom_object_records"]] == ["Ford"]


@pytest.mark.parametrize(
    "along",
    [
        {"id": None, "external_id": None},
        {"id": None, "external_id": None, "photo": None, "custom_object_key": None, "url": None},
        ZEROED,
    ],
    ids=["nulls", "every attribute", "zero values"],
)
async def test_read_only_attributes_sent_along_are_ignored(cars: Caller, along: dict[str, Any]) -> None:
    made = await cars.record("POST", "/records", 201, name="Ford", **along)
    by_id = await cars.record("PATCH", f"/records/{made['id']}", name="Ford", **along)
    upserted = await cars.record("PATCH", "/records?external_id=v-1", name="Opel", **along)
    assert made == by_id
    assert (made["external_id"], upserted["external_id"]) == (None, "v-1")
    for record in (made, upserted):
        assert re.fullmatch("[0-9A-Z]{26}", record["id"])
        assert record["custom_object_key"] == cars.key
        assert record["created_at"] > "2020"


async def test_a_name_and_an_external_id_among_the_fields_are_no_error(cars: Caller) -> None:
    fields = {**NONE, "color": "red", "name": "Ford", "external_id": None}
    made = await cars.record(
        "POST", "/records?locale=en", 201, custom_object_fields=fields, id=None, external_id=None, name="Ford"
    )
    saved = await cars.record(
        "PATCH",
        f"/records/{made['id']}?locale=en",
        custom_object_fields={**fields, "name": "Other"},
        id=made["id"],
        external_id=None,
        name="Ford",
    )
    assert saved == made
    assert saved["custom_object_fields"] == NONE | {"color": "red"}


async def test_a_field_may_be_called_as_an_attribute_is(cars: Caller) -> None:
    for key in ("name", "created_at"):
        await cars.api.new_field(cars.key, key=key, type="text")
    fields = {"name": "inner", "created_at": "noon"}
    made = await cars.record("POST", "/records", 201, name="Ford", custom_object_fields=fields)
    assert made["name"] == "Ford"
    assert made["custom_object_fields"] == NONE | fields


async def test_every_field_may_be_sent_as_null(cars: Caller) -> None:
    made = await cars.record("POST", "/records", 201, name="Ford", custom_object_fields=NONE)
    await cars.record("PATCH", f"/records/{made['id']}", custom_object_fields={"color": "red"})
    cleared = await cars.record("PATCH", f"/records/{made['id']}", custom_object_fields=NONE)
    assert made["custom_object_fields"] == cleared["custom_object_fields"] == NONE


async def test_an_identifier_that_is_sent_empty_is_not_sent(cars: Caller) -> None:
    by_external_id = await cars.record("PATCH", "/records?external_id=x-1&name=", name="Opel")
    by_name = await cars.record("PATCH", "/records?external_id=&name=Ford")
    assert (by_external_id["external_id"], by_name["name"]) == ("x-1", "Ford")
    for both_or_none in ("external_id=x-1&name=Ford", "external_id=&name="):
        refused = await cars.send("PATCH", f"/records?{both_or_none}", {"custom_object_record": {}}, 400)
        assert refused["error"] == "BadRequest"
    await cars.send("DELETE", "/records?external_id=x-1&name=", status=204)
    await cars.send("DELETE", "/records?external_id=&name=Ford", status=204)


async def test_a_null_external_id_in_the_body_leaves_that_of_the_query(cars: Caller) -> None:
    made = await cars.record("PATCH", "/records?external_id=v-1&name=", name="Ford", external_id=None)
    again = await cars.record("PATCH", "/records?external_id=v-1&name=", external_id=None, name=None)
    assert made["external_id"] == again["external_id"] == "v-1"
    assert again["name"] == "Ford"


@pytest.mark.parametrize("path", ["", "/fields/color", "/records/{id}", "/records?external_id=v-1&name="])
async def test_a_patch_without_a_body_is_a_bad_request_in_json(cars: Caller, path: str) -> None:
    made = await cars.record("PATCH", "/records?external_id=v-1", name="Ford")
    for headers in ({}, {"Content-Type": "application/json"}):
        response = await cars.raw("PATCH", path.format(id=made["id"]), None, **headers)
        assert (response.status_code, response.json()["error"]) == (400, "BadRequest")
        assert "empty" in response.json()["description"]


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_fields_are_changed_by_either_verb_at_their_id_key_or_standard_name(
    cars: Caller, method: str
) -> None:
    field = (await cars.send("GET", "/fields/color"))["custom_object_field"]
    for address in (field["id"], "color", "standard::name", "standard%3A%3Aname", "standard::external_id"):
        body = {"custom_object_field": {"title": f"T{address}", "raw_title": f"T{address}"}}
        changed = await cars.send(method, f"/fields/{address}.json", body)
        assert changed["custom_object_field"]["title"] == f"T{address}"


async def test_a_field_is_deleted_at_its_key_and_at_its_id(cars: Caller) -> None:
    field = (await cars.send("GET", "/fields/year"))["custom_object_field"]
    await cars.send("DELETE", "/fields/color", status=204)
    await cars.send("DELETE", f"/fields/{field['id']}", status=204)
    left = (await cars.send("GET", "/fields"))["custom_object_fields"]
    assert {"color", "year"}.isdisjoint(field["key"] for field in left)


async def test_the_name_is_set_up_by_a_put_of_all_its_properties(api: Api) -> None:
    cars = Caller(api, await api.new_object())
    properties = {
        "is_unique": False, "autoincrement_enabled": True, "autoincrement_prefix": "C-",
        "autoincrement_padding": 4, "autoincrement_next_sequence": 1,
    }  # fmt: skip
    body = {"custom_object_field": {"properties": properties}}
    answer = await cars.send("PUT", "/fields/standard::name?locale=en", body)
    assert answer["custom_object_field"]["properties"] == properties
    assert (await cars.record("POST", "/records", 201, id=None, external_id=None))["name"] == "C-0001"


@pytest.mark.parametrize("kind", ["custom_object_field_ids of text", "field_ids of numbers", "no body"])
async def test_a_reorder_takes_either_list_or_none_and_answers_a_json_string(cars: Caller, kind: str) -> None:
    ids = [field["id"] for field in (await cars.send("GET", "/fields"))["custom_object_fields"]]
    bodies = {
        "custom_object_field_ids of text": {"custom_object_field_ids": [str(ids[2]), str(ids[1])]},
        "field_ids of numbers": {"field_ids": [ids[2], ids[1]]},
        "no body": None,
    }
    response = await cars.raw("PUT", "/fields/reorder", bodies[kind])
    assert (response.status_code, response.json()) == (200, "")
    after = [field["id"] for field in (await cars.send("GET", "/fields"))["custom_object_fields"]]
    wanted = ids if bodies[kind] is None else [ids[2], ids[1], ids[0], *ids[3:]]
    assert after == wanted


async def test_a_text_and_its_raw_twin_may_both_be_sent(api: Api) -> None:
    both = {"title": "Car", "raw_title": "Car", "title_pluralized": "Cars", "raw_title_pluralized": "Cars"}
    described = {"description": "D", "raw_description": "D"}
    body = {"custom_object": {"key": "twins", **both, **described}}
    response = await api.client.post("/custom_objects", json=body)
    assert response.status_code == 201
    assert response.json()["custom_object"].items() >= {**both, **described}.items()
    cars = Caller(api, "twins")
    field = {
        "key": "paint", "type": "dropdown", "title": "Paint", "raw_title": "Paint", **described,
        "custom_field_options": [{"name": "Dark red", "raw_name": "Dark red", "value": "dark_red"}],
    }  # fmt: skip
    made = (await cars.send("POST", "/fields", {"custom_object_field": field}, 201))["custom_object_field"]
    (option,) = made["custom_field_options"]
    assert (option["name"], option["raw_name"], option["value"]) == ("Dark red", "Dark red", "dark_red")
    assert (made["raw_title"], made["raw_description"]) == ("Paint", "D")


async def test_a_job_status_has_every_key_from_the_first_answer_on(cars: Caller) -> None:
    queued = await cars.job("create", {"name": "Ford", "id": None, "external_id": None}, {"name": "Opel"})
    assert set(queued) >= JOB_KEYS
    assert (type(queued["total"]), queued["total"]) == (int, 2)
    assert queued["status"] in ("queued", "working", "completed")
    done = await cars.completed(queued)
    assert set(done) >= JOB_KEYS
    assert (done["id"], done["total"], done["progress"]) == (queued["id"], 2, 2)
    assert [result["index"] for result in done["results"]] == [0, 1]
    for result in done["results"]:
        assert {"index", "id", "account_id"} <= set(result)
        assert result["id"] is not None
        assert result["account_id"] is not None


async def test_jobs_are_asked_for_one_by_one_and_together(cars: Caller) -> None:
    jobs = [await cars.job("create", {"name": name}) for name in ("Ford", "Opel")]
    ids = [job["id"] for job in jobs]
    for suffix in ("", ".json"):
        shown = await cars.api.client.get(f"/job_statuses/{ids[0]}{suffix}?locale=en")
        assert shown.json()["job_status"]["id"] == ids[0]
        many = await cars.api.client.get(f"/job_statuses/show_many{suffix}?ids={','.join(ids)}")
        assert {job["id"] for job in many.json()["job_statuses"]} == set(ids)
    assert jobs[0]["url"].startswith(f"{cars.api.running.address}/api/v2/job_statuses/{ids[0]}")


async def test_a_small_job_is_done_before_clients_lose_patience(cars: Caller) -> None:
    items = [{"external_id": f"v-{n}", "name": f"Car {n}"} for n in range(100)]
    job = await cars.job("create_or_update_by_external_id", *items)
    for _ in range(10):  # the most impatient asks ten times, a second apart
        status = (await cars.api.client.get(f"/job_statuses/{job['id']}")).json()["job_status"]
        if status["status"] == "completed":
            break
        await asyncio.sleep(1)
    assert [result["success"] for result in status["results"]] == [True] * 100


async def test_what_is_missing_is_told_in_two_words_that_clients_compare(cars: Caller) -> None:
    missing = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
    for path in (f"/records/{missing}", f"/records/{missing}.json", "/fields/nothing", "/fields/1"):
        assert await cars.send("GET", path, status=404) == {
            "error": "RecordNotFound",
            "description": "Not found",
        }


async def test_a_taken_unique_name_is_told_at_base_to_the_letter(cars: Caller) -> None:
    await cars.record("POST", "/records", 201, name="Ford")
    saved = {"custom_object_fields": NONE, "id": None, "external_id": None, "name": "Ford"}
    refused = await cars.send("POST", "/records?locale=en", {"custom_object_record": saved}, 422)
    assert (refused["error"], refused["description"]) == ("RecordInvalid", "Record validation errors")
    assert refused["details"]["base"][0]["description"] == "Name already exists. Try another one."


async def test_a_taken_field_key_is_told_at_key(cars: Caller) -> None:
    field = {"custom_object_field": {"type": "text", "key": "color", "title": "Color"}}
    refused = await cars.send("POST", "/fields?locale=en", field, 422)
    assert isinstance(refused["details"]["key"][0]["description"], str)


async def test_an_error_without_a_base_has_no_empty_one(cars: Caller) -> None:
    refused = await cars.send("POST", "/records", {"custom_object_record": {}}, 422)
    assert isinstance(refused["details"], dict)
    assert all(refused["details"].values())
    assert "base" not in refused["details"]


async def test_the_error_of_every_answer_is_text(cars: Caller) -> None:
    wrong: Mapping[tuple[str, str], int] = {
        ("GET", "/records?page[size]=0"): 400,
        ("GET", "/records/x"): 404,
        ("GET", "/nothing/here"): 404,
        ("PURGE", "/records"): 405,
        ("POST", "/records"): 400,
    }
    for (method, path), status in wrong.items():
        error = (await cars.send(method, path, status=status))["error"]
        assert isinstance(error, str)
    unknown = await cars.raw("GET", "/records", Authorization="Bearer nobody")
    assert unknown.json() == {"error": "Couldn't authenticate you"}


async def test_what_is_over_a_limit_says_in_whole_seconds_when_to_come_again(cluster: Cluster) -> None:
    async with running(await cluster.new_database(), rate_limit_token="1/minute") as service:
        api = Api(service, await service.token())
        async with api.client:
            first, second = [await api.client.get("/custom_objects") for _ in range(2)]
    assert (first.status_code, first.headers["X-Rate-Limit-Remaining"]) == (200, "0")
    assert (second.status_code, second.json()["error"]) == (429, "TooManyRequests")
    assert 1 <= int(second.headers["Retry-After"]) <= 60


@pytest.mark.parametrize("written", ["x 2", "x+2", "x%202", "x 2&a=b#c"])
async def test_a_space_is_a_space_however_it_is_written(cars: Caller, written: str) -> None:
    made = await cars.record("PATCH", f"/records?external_id={written}", name="Ford")
    assert made["external_id"] == "x 2"
    await cars.send("DELETE", "/records?external_id=x+2", status=204)


async def test_a_filter_is_one_comparison_or_a_list_of_them(cars: Caller) -> None:
    for number, color in enumerate(("red", "blue", "red")):
        fields = {"color": color, "year": 2020 + number}
        await cars.record("POST", "/records", 201, name=f"Car {number}", custom_object_fields=fields)
    red, late = (
        {"custom_object_fields.color": {"$eq": "red"}},
        {"custom_object_fields.year": {"$gte": 2021}},
    )
    for filter_, names in (
        (red, ["Car 0", "Car 2"]),
        ({"$and": [red, late]}, ["Car 2"]),
        ({"$or": [red, late]}, ["Car 0", "Car 1", "Car 2"]),
    ):
        found = await cars.send("POST", "/records/search?locale=en&page[size]=100", {"filter": filter_})
        assert [record["name"] for record in found["custom_object_records"]] == names


async def test_a_search_takes_its_page_from_the_query_or_from_the_body(cars: Caller) -> None:
    for number in range(3):
        await cars.record("POST", "/records", 201, name=f"Car {number}")
    filter_ = {"filter": {"name": {"$contains": "car"}}}
    first = await cars.send("POST", "/records/search?page[size]=2", filter_)
    after = first["meta"]["after_cursor"]
    in_body = await cars.send("POST", "/records/search", {**filter_, "page": {"after": after}})
    in_query = await cars.send("POST", f"/records/search?page[after]={after}", filter_)
    for page in (in_body, in_query):
        assert [record["name"] for record in page["custom_object_records"]] == ["Car 2"]


@pytest.mark.parametrize("query", ["external_id=v-1", "name=Ford", "name=ford&external_id="])
async def test_a_record_is_deleted_by_its_identifier_and_then_missing(cars: Caller, query: str) -> None:
    await cars.record("POST", "/records", 201, name="Ford", external_id="v-1")
    await cars.send("DELETE", f"/records?{query}", status=204)
    gone = await cars.send("DELETE", f"/records?{query}", status=404)
    assert gone["error"] == "RecordNotFound"


async def test_a_star_finds_every_record(cars: Caller) -> None:
    for name in ("Ford", "Opel"):
        await cars.record("POST", "/records", 201, name=name)
    found = await cars.send("GET", "/records/search?query=*")
    assert sorted(record["name"] for record in found["custom_object_records"]) == ["Ford", "Opel"]


@pytest.mark.parametrize("name", ["a", "ÄRÖ", "äro", "aud"])
async def test_a_name_is_completed_in_lower_case(cars: Caller, name: str) -> None:
    for made in ("Audi", "Ärö", "Äro"):
        await cars.record("POST", "/records", 201, name=made)
    found = await cars.send("GET", f"/records/autocomplete?name={name}")
    names = {"a": ["Audi"], "ÄRÖ": ["Ärö"], "äro": ["Äro"], "aud": ["Audi"]}[name]
    assert [record["name"] for record in found["custom_object_records"]] == names


async def test_an_object_is_asked_for_by_its_key_in_any_case(cars: Caller) -> None:
    record = await cars.record("POST", "/records", 201, name="Ford")
    url = f"/custom_objects/{cars.key.upper()}/records/{record['id']}"
    shown = await cars.api.client.get(url)
    assert shown.json() == {"custom_object_record": record}
    headed = await cars.api.client.head(url)
    assert (headed.status_code, headed.headers["ETag"]) == (200, shown.headers["ETag"])
    assert (await cars.api.client.delete(url)).status_code == 204


@pytest.mark.parametrize("scheme", ["basic", "basic of another case", "bearer"])
async def test_a_caller_is_known_by_basic_or_bearer(cars: Caller, scheme: str) -> None:
    token = cars.api.token
    email = "ADMIN@example.com" if scheme == "basic of another case" else "admin@example.com"
    async with httpx.AsyncClient(base_url=cars.api.running.address, trust_env=False) as client:
        known: Any = (f"{email}/token", token) if scheme != "bearer" else None
        headers = {"Authorization": f"Bearer {token}"} if scheme == "bearer" else {}
        response = await client.get(f"/api/v2/custom_objects/{cars.key}", auth=known, headers=headers)
    assert response.status_code == 200


async def test_links_begin_as_the_caller_began(cars: Caller) -> None:
    for name in ("Ford", "Opel"):
        await cars.record("POST", "/records", 201, name=name)
    base = "http://data.example.com:8080/api/v2"
    page = (await cars.raw("GET", "/records?page[size]=1", Host="data.example.com:8080")).json()
    links = [page["links"]["next"], page["custom_object_records"][0]["url"]]
    assert all(link.startswith(f"{base}/custom_objects/{cars.key}/records") for link in links)
    followed = await cars.api.client.get(links[0].removeprefix(base))
    assert [record["name"] for record in followed.json()["custom_object_records"]] == ["Opel"]
