"""Bulk jobs as their callers see them: each action, each refusal, every key of every answer."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.support.harness import Api, Cluster, Running, problems_of, record_of, running
from upsert_svc.jobs.job_items import ACTIONS

KEYS = {"id", "job_type", "url", "total", "progress", "status", "message", "results"}
RESULT_KEYS = {"index", "id", "external_id", "account_id", "success", "action", "status", "errors"}
FIELDS: list[dict[str, Any]] = [
    {"key": "color", "type": "text", "required": True},
    {"key": "price", "type": "decimal"},
    {"key": "data", "type": "json"},
]


def details_of(job: dict[str, Any]) -> list[list[str]]:
    """What was wrong with each item."""
    return [[error["detail"] for error in result["errors"]] for result in job["results"]]


def statuses_of(job: dict[str, Any]) -> list[str]:
    return [result["status"] for result in job["results"]]


@pytest.fixture
async def key(api: Api) -> str:
    return await api.new_object({"key": "color", "type": "text"}, naming={"is_unique": True})


@pytest.fixture
async def idle(cluster: Cluster) -> AsyncIterator[Api]:
    """A service without a worker, so that jobs stay queued."""
    async with running(await cluster.new_database(), run_jobs=False, job_limit=3) as service:
        api = Api(service, await service.token())
        async with api.client:
            yield api


async def test_a_job_is_answered_with_every_key_before_anything_is_done(idle: Api) -> None:
    key = await idle.new_object()
    response = await idle.job(key, "create", [{"name": "a"}, {"name": "b"}])
    assert response.status_code == 201
    job = response.json()["job_status"]
    assert set(response.json()) == {"job_status"}
    assert re.fullmatch(r"[0-9a-f]{32}", job["id"])
    assert job == {
        "id": job["id"],
        "job_type": "Bulk Create Custom Object Record",
        "url": f"{idle.running.address}/api/v2/job_statuses/{job['id']}.json",
        "total": 2,
        "progress": None,
        "status": "queued",
        "message": None,
        "results": None,
    }
    shown = await idle.client.get(job["url"])
    assert (shown.status_code, shown.json()) == (200, {"job_status": job})
    assert await idle.records(key) == []


@pytest.mark.parametrize("caller", ["api", "agent"])
async def test_admins_and_agents_have_a_job_done_and_see_it_in_every_way(
    api: Api, agent: Api, caller: str, key: str
) -> None:
    mine = {"api": api, "agent": agent}[caller]
    job = await mine.finished_job(key, "create", [{"name": "a", "external_id": "x"}])
    assert set(job) == KEYS
    assert (job["status"], job["total"], job["progress"]) == ("completed", 1, 1)
    assert re.fullmatch(r"Completed at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d \+0000", job["message"])
    (record,) = await mine.records(key)
    assert job["results"] == [
        {
            "index": 0,
            "id": record["id"],
            "external_id": "x",
            "account_id": job["results"][0]["account_id"],
            "success": True,
            "action": "create",
            "status": "Created",
            "errors": [],
        }
    ]
    for suffix in ("", ".json"):
        for path in (f"/job_statuses/{job['id']}", f"/custom_objects/{key}/jobs/{job['id']}"):
            assert (await mine.client.get(path + suffix)).json() == {"job_status": job}
        ids = {"ids": f"{job['id']},nowhere"}
        many = await mine.client.get(f"/job_statuses/show_many{suffix}", params=ids)
        assert many.json() == {"job_statuses": [job]}
        listed = (await mine.client.get(f"/job_statuses{suffix}")).json()
        assert set(listed) == {"job_statuses", "meta", "links"}
    assert (await mine.client.head(f"/job_statuses/{job['id']}")).status_code == 200


async def test_a_job_is_posted_with_the_json_suffix_too(api: Api, key: str) -> None:
    body = {"job": {"action": "create", "items": [{"name": "a"}]}}
    response = await api.client.post(f"/custom_objects/{key}/jobs.json", json=body)
    assert response.status_code == 201
    assert (await api.finished(response.json()["job_status"]["id"]))["status"] == "completed"


@pytest.mark.parametrize("action", ["create", "create_or_update_by_name"])
async def test_what_a_job_creates_is_listed_in_the_order_of_its_items(
    api: Api, key: str, action: str
) -> None:
    names = [f"n{number}" for number in range(60)]
    await api.finished_job(key, action, [{"name": name} for name in names])
    assert [record["name"] for record in await api.records(key)] == names


async def test_create_makes_every_record_and_refuses_each_bad_item_alone(api: Api) -> None:
    key = await api.new_object(*FIELDS, naming={"is_unique": True})
    fields = {"color": "red"}
    job = await api.finished_job(
        key,
        "create",
        [
            {"name": "a", "external_id": "a", "custom_object_fields": fields},
            {"name": "b", "custom_object_fields": {"color": "red", "wheels": 4}},
            {"name": "A", "custom_object_fields": fields},
            {"name": "c", "external_id": "a", "custom_object_fields": fields},
            {"name": "d"},
            {"name": " ", "external_id": 5, "custom_object_fields": []},
            {"custom_object_fields": fields},
            "e",
            None,
            {"name": "f", "custom_object_fields": {"color": 5}},
            {"name": "g", "custom_object_fields": fields | {"price": 10**18}},
            {"name": "z", "custom_object_fields": fields},
        ],
    )
    assert statuses_of(job) == ["Created", *["Failed"] * 10, "Created"]
    assert [result["success"] for result in job["results"]] == [True, *[False] * 10, True]
    assert [result["index"] for result in job["results"]] == list(range(12))
    assert all(set(result) == RESULT_KEYS for result in job["results"])
    details = details_of(job)
    assert details[2] == ["Name already exists. Try another one."]
    assert details[3] == ["External id is already in use by another record"]
    assert details[4] == ["color cannot be blank"]
    assert details[5] == [
        "Name cannot be blank",
        "external_id must be text",
        "custom_object_fields must be a JSON object",
    ]
    assert details[6] == ["Name cannot be blank"]
    assert details[7] == details[8] == ["The item must be a JSON object"]
    assert "wheels" in details[1][0]
    for result in job["results"][1:11]:
        for error in result["errors"]:
            assert set(error) == {"code", "title", "detail"}
            assert (error["code"], error["title"]) == ("RecordInvalid", "Record validation errors")
    assert [result["external_id"] for result in job["results"]][:6] == ["a", None, None, "a", None, "5"]
    assert sorted(record["name"] for record in await api.records(key)) == ["a", "z"]


async def test_an_item_that_no_request_could_carry_fails_and_spoils_no_other(api: Api, key: str) -> None:
    large = {"name": "b", "custom_object_fields": {"color": "x" * 300_000}}
    many = {"name": "c", "custom_object_fields": {f"f{number}": 1 for number in range(20_000)}}
    job = await api.finished_job(key, "create", [{"name": "a"}, large, many, {"name": "d"}])
    assert statuses_of(job) == ["Created", "Failed", "Failed", "Created"]
    for details in details_of(job)[1:3]:
        assert details == ["The item is larger than a record may be, or has more than 20000 values"]
    assert sorted(record["name"] for record in await api.records(key)) == ["a", "d"]


async def test_a_refused_item_has_the_first_problems_and_their_count(api: Api, key: str) -> None:
    item = {"name": "a", "custom_object_fields": {f"f{number}": 1 for number in range(5_000)}}
    job = await api.finished_job(key, "create", [item])
    details = details_of(job)[0]
    assert len(details) == 21
    assert details[20] == "There are 4,980 more problems"


async def test_what_clients_send_along_is_ignored(api: Api, key: str) -> None:
    sent = {
        "id": None, "external_id": None, "photo": None, "custom_object_key": "", "url": "x",
        "created_at": "0001-01-01T00:00:00Z", "created_by_user_id": 5,
    }  # fmt: skip
    item = {"name": "a", "custom_object_fields": {"color": None, "name": "a"}, **sent}
    job = await api.finished_job(key, "create", [item])
    assert statuses_of(job) == ["Created"], job
    (record,) = await api.records(key)
    assert (record["name"], record["external_id"]) == ("a", None)
    changed = {**item, "id": record["id"], "name": "b"}
    assert statuses_of(await api.finished_job(key, "update", [changed])) == ["Updated"]
    assert [found["name"] for found in await api.records(key)] == ["b"]


async def test_update_changes_what_is_sent_of_the_record_of_that_id(api: Api, key: str) -> None:
    record = record_of(
        await api.create(key, name="a", external_id="x", custom_object_fields={"color": "red"})
    )
    job = await api.finished_job(
        key,
        "update",
        [
            {"id": record["id"], "custom_object_fields": {"color": "blue"}},
            {"name": "lost"},
            {"id": "", "name": "lost"},
            {"id": 5, "name": "lost"},
            {"id": "01" + "Z" * 24, "name": "lost", "external_id": "y"},
            {"id": "x", "name": "lost"},
        ],
    )
    assert statuses_of(job) == ["Updated", *["Failed"] * 5]
    assert details_of(job)[1:] == [
        ["id is needed"], ["id is needed"], ["id must be text"], ["Not found"], ["Not found"],
    ]  # fmt: skip
    assert job["results"][4] == {
        "index": 4,
        "id": "01" + "Z" * 24,
        "external_id": "y",
        "account_id": job["results"][0]["account_id"],
        "success": False,
        "action": "update",
        "status": "Failed",
        "errors": [{"code": "RecordNotFound", "title": "Not found", "detail": "Not found"}],
    }
    assert (job["results"][0]["id"], job["results"][0]["external_id"]) == (record["id"], "x")
    (found,) = await api.records(key)
    assert (found["name"], found["external_id"], found["custom_object_fields"]) == (
        "a", "x", {"color": "blue"},
    )  # fmt: skip


async def test_an_item_that_went_well_is_told_by_the_identifiers_of_its_record(api: Api, key: str) -> None:
    made = [record_of(await api.create(key, name=name)) for name in ("a", "b")]
    items = [{"id": made[0]["id"], "external_id": "x"}, {"id": made[1]["id"], "external_id": ""}]
    (first, second) = (await api.finished_job(key, "update", items))["results"]
    assert [(result["id"], result["external_id"]) for result in (first, second)] == [
        (made[0]["id"], "x"),
        (made[1]["id"], None),
    ]
    items = [{"id": made[0]["id"], "external_id": "y"}, {"id": made[1]["id"], "external_id": 5}]
    (first, second) = (await api.finished_job(key, "delete", items))["results"]
    assert (first["status"], first["external_id"]) == ("Deleted", "x")
    assert (second["status"], second["external_id"]) == ("Deleted", None)


@pytest.mark.parametrize("action", [*ACTIONS])
async def test_a_refused_item_is_told_by_the_identifiers_that_it_was_sent_with(
    api: Api, key: str, action: str
) -> None:
    sent: list[tuple[Any, str | None]] = [
        (4711, "4711"), (4711.5, "4711.5"), (2**70, str(2**70)), (True, "true"), (["a"], '["a"]'),
        ("x" * 300, None), (0, "0"), ("", None), (None, None),
    ]  # fmt: skip
    items = [{"id": value, "external_id": value, "custom_object_fields": 5} for value, _ in sent]
    job = await api.finished_job(key, action, items)
    assert statuses_of(job) == ["Failed"] * len(items)
    for result, (value, told) in zip(job["results"], sent, strict=True):
        told = f"{'x' * 254}…" if isinstance(value, str) and value else told
        assert (result["id"], result["external_id"]) == (told, told)


@pytest.mark.parametrize(
    ("action", "attribute"), [("delete", "id"), ("delete_by_external_id", "external_id")]
)
async def test_a_bare_identifier_that_is_no_text_is_told_as_it_was_sent(
    api: Api, key: str, action: str, attribute: str
) -> None:
    job = await api.finished_job(key, action, [4711, 1.5, ["x"], None])
    assert statuses_of(job) == ["Failed"] * 4
    assert [result[attribute] for result in job["results"]] == ["4711", "1.5", '["x"]', None]
    other = "id" if attribute == "external_id" else "external_id"
    assert [result[other] for result in job["results"]] == [None] * 4


async def test_a_number_in_a_document_of_a_job_is_refused_by_its_place(api: Api) -> None:
    key = await api.new_object({"key": "specs", "type": "json"})
    items = [
        {
            "name": "a",
            "external_id": "a",
            "custom_object_fields": {"specs": {"a": {"b": [1, {"deep": 10**15}]}}},
        }
    ]
    for action in ("create", "create_or_update_by_external_id"):
        ((detail,),) = details_of(await api.finished_job(key, action, items))
        assert detail.startswith("specs.a.b[1].deep must be a number below 10^15")


@pytest.mark.parametrize(
    ("action", "attribute"), [("delete", "id"), ("delete_by_external_id", "external_id")]
)
async def test_delete_takes_identifiers_bare_or_in_an_object(
    api: Api, key: str, action: str, attribute: str
) -> None:
    made = [record_of(await api.create(key, name=name, external_id=name)) for name in ("a", "b", "c")]
    first, second = made[0][attribute], made[1][attribute]
    items = [first, {attribute: second}, first, None, {}, 5, "nowhere", ["x"]]
    job = await api.finished_job(key, action, items)
    assert statuses_of(job) == ["Deleted", "Deleted", *["Failed"] * 6]
    assert [result["id"] for result in job["results"][:2]] == [made[0]["id"], made[1]["id"]]
    assert [result["external_id"] for result in job["results"][:2]] == ["a", "b"]
    assert job["results"][2][attribute] == first
    assert details_of(job)[2:] == [
        ["Not found"],
        [f"{attribute} is needed"],
        [f"{attribute} is needed"],
        [f"{attribute} must be text"],
        ["Not found"],
        [f"{attribute} must be text"],
    ]
    assert [found["id"] for found in await api.records(key)] == [made[2]["id"]]


@pytest.mark.parametrize("identifier", ["external_id", "name"])
async def test_create_or_update_does_either_in_the_order_of_the_items(
    api: Api, key: str, identifier: str
) -> None:
    action = f"create_or_update_by_{identifier}"
    await api.upsert(key, {"name": "a", "external_id": "a"}, external_id="a")
    items = [
        {identifier: "a", "custom_object_fields": {"color": "1"}},
        {identifier: "b", "name": "b", "custom_object_fields": {"color": "2"}},
        {identifier: "b", "custom_object_fields": {"color": "3"}},
        {"custom_object_fields": {"color": "4"}},
        {identifier: None},
        {identifier: ["a"]},
        {identifier: "a", "custom_object_fields": {"color": "5"}},
        {identifier: "a", "custom_object_fields": {"color": 6}},
    ]
    job = await api.finished_job(key, action, items)
    assert statuses_of(job) == [*["CreateOrUpdate"] * 3, *["Failed"] * 3, "CreateOrUpdate", "Failed"]
    assert details_of(job)[3:5] == [[f"{identifier} is needed"]] * 2
    assert details_of(job)[5] == [f"{identifier} must be text"]
    found = {record["name"]: record["custom_object_fields"]["color"] for record in await api.records(key)}
    assert found == {"a": "5", "b": "3"}
    assert job["results"][1]["id"] == job["results"][2]["id"]


async def test_by_name_where_names_need_not_be_unique_each_item_fails(api: Api) -> None:
    key = await api.new_object()
    job = await api.finished_job(key, "create_or_update_by_name", [{"name": "a"}, {"name": "b"}])
    assert (job["status"], statuses_of(job)) == ("completed", ["Failed", "Failed"])
    assert "uniqueness must be turned on" in details_of(job)[0][0]
    assert await api.records(key) == []


async def test_names_that_items_free_and_take_are_validated_in_their_order(api: Api, key: str) -> None:
    one, two = [record_of(await api.create(key, name=name))["id"] for name in ("a", "b")]
    job = await api.finished_job(
        key,
        "update",
        [
            {"id": two, "name": "A"},  # taken by one, still
            {"id": one, "name": "c"},
            {"id": two, "name": "a"},
            {"id": one, "name": "b"},
        ],
    )
    assert statuses_of(job) == ["Failed", "Updated", "Updated", "Updated"]
    assert {record["id"]: record["name"] for record in await api.records(key)} == {one: "b", two: "a"}


async def test_a_name_that_a_later_item_gives_up_is_still_taken(api: Api, key: str) -> None:
    await api.create(key, name="a", external_id="1")
    items = [{"external_id": "2", "name": "A"}, {"external_id": "1", "name": "b"}]
    job = await api.finished_job(key, "create_or_update_by_external_id", items)
    assert statuses_of(job) == ["Failed", "CreateOrUpdate"]
    again = await api.finished_job(key, "create_or_update_by_external_id", items)
    assert statuses_of(again) == ["CreateOrUpdate", "CreateOrUpdate"]


async def test_an_external_id_that_a_later_item_gives_up_is_still_taken(api: Api, key: str) -> None:
    await api.create(key, name="a", external_id="1")
    items = [{"external_id": "1", "name": "b"}, {"external_id": "2", "name": "a"}]
    job = await api.finished_job(key, "create_or_update_by_name", items)
    assert statuses_of(job) == ["Failed", "CreateOrUpdate"]


async def test_of_two_items_that_take_one_name_the_first_has_it(api: Api, key: str) -> None:
    items = [{"name": "n", "external_id": "z"}, {"name": "N", "external_id": "a"}]
    job = await api.finished_job(key, "create", items)
    assert statuses_of(job) == ["Created", "Failed"]


async def test_numbers_are_given_in_the_order_of_the_items(api: Api) -> None:
    key = await api.new_object(naming={"autoincrement_enabled": True, "autoincrement_prefix": "N-"})
    items: list[Any] = [{"external_id": str(number)} for number in reversed(range(60))]
    items.insert(3, {"name": "mine"})
    job = await api.finished_job(key, "create", items)
    assert statuses_of(job).count("Created") == 60
    assert details_of(job)[3] == ["Name is generated by autonumbering and cannot be set"]
    names = {record["id"]: record["name"] for record in await api.records(key)}
    made = [names[result["id"]] for result in job["results"] if result["success"]]
    assert made == [f"N-{number}" for number in range(1, 61)]


async def test_lookups_find_what_items_before_made(api: Api) -> None:
    key = f"parts_{(await api.new_object())}"
    await api.new_object(key=key)
    target = f"zen:custom_object:{key}"
    await api.new_field(key, key="parent", type="lookup", relationship_target_type=target)
    items = [
        {"name": "a", "external_id": "a", "custom_object_fields": {"parent": "external_id:b"}},
        {"name": "b", "external_id": "b"},
        {"name": "c", "external_id": "c", "custom_object_fields": {"parent": "external_id:b"}},
        {"name": "d", "external_id": "d", "custom_object_fields": {"parent": "external_id:c"}},
    ]
    job = await api.finished_job(key, "create", items)
    assert statuses_of(job) == ["Failed", "Created", "Created", "Created"]
    assert details_of(job)[0] == ["parent names a record that does not exist"]
    ids = {record["external_id"]: record["id"] for record in await api.records(key)}
    parents = {
        record["external_id"]: record["custom_object_fields"]["parent"] for record in await api.records(key)
    }
    assert parents == {"b": None, "c": ids["b"], "d": ids["c"]}


async def test_numbers_of_any_size_reach_the_record_or_fail_their_item_alone(api: Api) -> None:
    key = await api.new_object({"key": "data", "type": "json"}, {"key": "price", "type": "decimal"})
    body = b"""{"job": {"action": "create", "items": [
        {"name": "a", "custom_object_fields": {"price": 0.100000000000001, "data": {"n": 12345.6789012345}}},
        {"name": "b", "custom_object_fields": {"data": 1e999999}},
        {"name": "c", "custom_object_fields": {"data": %b}},
        {"name": "d", "custom_object_fields": {"data": [true, null, "\\u00e9"]}}]}}""" % (b"9" * 400)
    response = await api.client.post(f"/custom_objects/{key}/jobs", content=body)
    assert response.status_code == 201, response.text
    job = await api.finished(response.json()["job_status"]["id"])
    assert statuses_of(job)[0::3] == ["Created", "Created"]
    assert statuses_of(job)[1:3] == ["Failed", "Failed"]
    raw = await api.client.get(f"/custom_objects/{key}/records")
    assert b"0.100000000000001" in raw.content
    assert b"12345.6789012345" in raw.content


async def test_a_hundred_items_are_taken_and_a_hundred_and_one_are_not(api: Api, key: str) -> None:
    job = await api.finished_job(key, "create", [{"name": str(number)} for number in range(100)])
    assert (job["total"], job["progress"], len(job["results"])) == (100, 100, 100)
    assert [result["index"] for result in job["results"]] == list(range(100))
    refused = await api.job(key, "create", [{"name": str(number)} for number in range(101)])
    assert (refused.status_code, refused.json()["error"]) == (400, "TooManyValues")
    assert refused.json()["max_count"] == 100
    assert "items" in refused.json()["description"]


@pytest.mark.parametrize(
    ("job", "name"),
    [
        ({"items": ["x"]}, "action"),
        ({"action": "upsert", "items": ["x"]}, "action"),
        ({"action": ["delete"], "items": ["x"]}, "action"),
        ({"action": None, "items": ["x"]}, "action"),
        ({"action": "delete"}, "items"),
        ({"action": "delete", "items": None}, "items"),
        ({"action": "delete", "items": []}, "items"),
        ({"action": "delete", "items": {"id": "x"}}, "items"),
        ([], "job"),
    ],
)
async def test_a_job_of_another_shape_is_a_bad_request_that_names_what_is_wrong(
    api: Api, key: str, job: Any, name: str
) -> None:
    response = await api.client.post(f"/custom_objects/{key}/jobs", json={"job": job})
    assert (response.status_code, response.json()["error"]) == (400, "BadRequest")
    assert name in response.json()["description"]


async def test_text_that_cannot_be_stored_is_refused_before_there_is_a_job(api: Api, key: str) -> None:
    before = (await api.client.get("/job_statuses")).json()
    content = b'{"job": {"action": "create", "items": [{"name": "a\\u0000b"}]}}'
    response = await api.client.post(f"/custom_objects/{key}/jobs", content=content)
    assert problems_of(response) == {"name": ["items[0]: Text cannot hold the character U+0000"]}
    content = (
        b'{"job": {"action": "create", "items": [{}, {"custom_object_fields": {"f": {"a": ["\\ud800"]}}}]}}'
    )
    response = await api.client.post(f"/custom_objects/{key}/jobs", content=content)
    assert problems_of(response) == {"f": ["items[1]: f.a[0]: Text cannot hold half of a surrogate pair"]}
    assert (await api.client.get("/job_statuses")).json() == before


async def test_what_a_job_does_not_know_is_named_in_the_warning(api: Api, key: str) -> None:
    body = {"job": {"action": "delete", "items": ["x"], "priority": 5}, "beside": 1}
    response = await api.client.post(f"/custom_objects/{key}/jobs", json=body)
    assert response.status_code == 201
    assert '"beside", "priority"' in response.headers["X-Zendesk-API-Warn"]


async def test_a_body_over_the_limit_of_jobs_is_refused_and_one_over_that_of_others_is_not(
    cluster: Cluster,
) -> None:
    async with running(await cluster.new_database(), job_body_limit_bytes=600_000) as service:
        api = Api(service, await service.token())
        async with api.client:
            key = await api.new_object({"key": "note", "type": "textarea"})
            items = [
                {"name": str(number), "custom_object_fields": {"note": "x" * 20_000}} for number in range(20)
            ]
            job = await api.finished_job(key, "create", items)
            assert statuses_of(job) == ["Created"] * 20
            refused = await api.client.post(f"/custom_objects/{key}/jobs", content=b" " * 600_001)
            assert (refused.status_code, refused.json()["error"]) == (413, "PayloadTooLarge")
            assert "600000" in refused.json()["description"]


async def test_a_job_of_another_account_looks_exactly_like_a_missing_one(
    api: Api, stranger: Api, key: str
) -> None:
    job = await api.finished_job(key, "delete", ["x"])
    not_found = b'{"error":"RecordNotFound","description":"Not found"}'
    for job_id in (job["id"], "0" * 32, "x", "%00"):
        response = await stranger.client.get(f"/job_statuses/{job_id}")
        assert (response.status_code, response.content) == (404, not_found)
    many = await stranger.client.get("/job_statuses/show_many", params={"ids": job["id"]})
    assert many.json() == {"job_statuses": []}
    theirs = await stranger.client.get("/job_statuses")
    assert job["id"] not in theirs.text


async def test_a_job_of_another_object_is_not_found_there(api: Api, key: str) -> None:
    job = await api.finished_job(key, "delete", ["x"])
    other = await api.new_object()
    response = await api.client.get(f"/custom_objects/{other}/jobs/{job['id']}")
    assert (response.status_code, response.json()["error"]) == (404, "RecordNotFound")


async def test_a_job_of_an_unknown_object_is_not_found(api: Api) -> None:
    response = await api.job("nowhere_at_all", "create", [{"name": "a"}])
    assert (response.status_code, response.json()["error"]) == (404, "RecordNotFound")


@pytest.mark.parametrize("query", ["", "?ids=", "?ids=,,"])
async def test_show_many_needs_ids(api: Api, query: str) -> None:
    response = await api.client.get(f"/job_statuses/show_many{query}")
    assert (response.status_code, response.json()["error"]) == (400, "BadRequest")
    assert "ids" in response.json()["description"]


async def test_show_many_takes_a_hundred_ids(api: Api) -> None:
    response = await api.client.get("/job_statuses/show_many", params={"ids": ",".join("x" * 101)})
    assert (response.status_code, response.json()["max_count"]) == (400, 100)


async def test_jobs_are_listed_page_by_page_the_newest_last(idle: Api) -> None:
    key = await idle.new_object()
    made = [(await idle.job(key, "delete", ["x"])).json()["job_status"] for _ in range(3)]
    seen: list[dict[str, Any]] = []
    url: str | None = f"{idle.running.address}/api/v2/job_statuses.json?page[size]=2&locale=en"
    pages = []
    while url:
        page = (await idle.client.get(url)).json()
        pages.append(page)
        seen += page["job_statuses"]
        url = page["links"]["next"]
    assert seen == made
    assert [page["meta"]["has_more"] for page in pages] == [True, False]
    assert pages[-1]["meta"]["after_cursor"] is None
    back = (await idle.client.get(pages[-1]["links"]["prev"])).json()
    assert back["job_statuses"] == made[:2]
    for query in ("page[size]=0", "page[after]=x"):
        refused = await idle.client.get(f"/job_statuses?{query}")
        assert (refused.status_code, refused.json()["error"]) == (400, "BadRequest")


async def test_an_account_has_no_more_unfinished_jobs_than_its_limit_whoever_asks_at_once(
    idle: Api,
) -> None:
    key = await idle.new_object()
    responses = await asyncio.gather(*(idle.job(key, "delete", ["x"]) for _ in range(20)))
    assert sorted(response.status_code for response in responses) == [201] * 3 + [429] * 17
    for response in responses:
        if response.status_code == 429:
            assert response.json() == {
                "error": "TooManyJobs",
                "description": "Too many jobs are currently queued or running. Try again later.",
            }
            assert int(response.headers["Retry-After"]) >= 1
    stranger = Api(idle.running, await idle.running.token(account="other", email="s@example.com"))
    async with stranger.client:
        theirs = await stranger.new_object()
        assert (await stranger.job(theirs, "delete", ["x"])).status_code == 201


async def test_thirty_jobs_in_flight_are_the_limit_unless_another_is_set(service: Running) -> None:
    assert service.service.settings.job_limit == 30


async def test_a_job_sent_again_with_its_key_is_the_same_job(api: Api, key: str) -> None:
    async def send(items: list[Any]) -> httpx.Response:
        return await api.client.post(
            f"/custom_objects/{key}/jobs",
            json={"job": {"action": "create", "items": items}},
            headers={"Idempotency-Key": f"job of {key}"},
        )

    first = await send([{"name": "a"}])
    job = await api.finished(first.json()["job_status"]["id"])
    again = await send([{"name": "a"}])
    other = await send([{"name": "b"}])
    assert (first.status_code, first.headers["X-Idempotency-Lookup"]) == (201, "miss")
    assert (again.status_code, again.headers["X-Idempotency-Lookup"]) == (201, "hit")
    assert again.content == first.content
    assert statuses_of(job) == ["Created"]
    assert (other.status_code, other.json()["error"]) == (400, "IdempotentRequestError")
    assert len(await api.records(key)) == 1


async def test_a_refused_job_leaves_its_key_free(idle: Api) -> None:
    key = await idle.new_object()

    async def send() -> httpx.Response:
        body = {"job": {"action": "delete", "items": ["x"]}}
        headers = {"Idempotency-Key": "k"}
        return await idle.client.post(f"/custom_objects/{key}/jobs", json=body, headers=headers)

    for _ in range(3):
        await idle.job(key, "delete", ["x"])
    assert (await send()).status_code == 429
    async with idle.running.sql() as connection:
        await connection.execute("delete from jobs")
    assert (await send()).status_code == 201


async def test_records_are_written_in_the_name_of_whoever_made_the_job(agent: Api, key: str) -> None:
    own = record_of(await agent.create(key, name="own"))
    await agent.finished_job(key, "create", [{"name": "by job"}])
    by_name = {record["name"]: record for record in await agent.records(key)}
    assert by_name["by job"]["created_by_user_id"] == own["created_by_user_id"]


@pytest.mark.parametrize("name", ["dry_run", "dryRun"])
async def test_an_item_of_a_job_that_asks_for_a_dry_run_fails_and_is_not_written(api: Api, name: str) -> None:
    key = await api.new_object(naming={"is_unique": True})
    made = record_of(await api.create(key, name="Ford", external_id="v1"))
    for action, item in (
        ("create", {"name": "Fiat"}),
        ("update", {"id": made["id"], "name": "Fiat"}),
        ("delete", {"id": made["id"]}),
        ("delete_by_external_id", {"external_id": "v1"}),
        ("create_or_update_by_external_id", {"external_id": "v1", "name": "Fiat"}),
        ("create_or_update_by_name", {"name": "Fiat"}),
    ):
        (result,) = (await api.finished_job(key, action, [{**item, name: True}]))["results"]
        assert (result["status"], result["errors"][0]["code"]) == ("Failed", "RecordInvalid"), action
        assert "dry_run is not taken: a job cannot be tried out" in result["errors"][0]["detail"]
    assert await api.records(key) == [made]
    problems = problems_of(await api.create(key, external_id="v2"))
    assert list(problems) == ["name"]
