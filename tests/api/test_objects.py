"""Custom objects over HTTP: made, shown, listed, changed, deleted, and how many there may be."""

import re
from typing import Any
from urllib.parse import unquote

import pytest

from tests.support.harness import Api, Cluster, problems_of, record_of, running
from upsert_svc.api import routes

PATH = "/custom_objects"
TEXT = {"key": "color", "type": "text"}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


async def make(api: Api, **attributes: Any) -> Any:
    return await api.client.post(PATH, json={"custom_object": attributes})


def object_of(response: Any) -> dict[str, Any]:
    assert response.is_success, response.text
    made: dict[str, Any] = response.json()["custom_object"]
    return made


async def listed(api: Api) -> list[dict[str, Any]]:
    """All objects of the account, page after page."""
    url: str | None = PATH
    found: list[dict[str, Any]] = []
    while url:
        page = (await api.client.get(url)).json()
        found += page["custom_objects"]
        url = page["links"]["next"]
    return found


async def test_an_object_is_made_with_every_documented_key(api: Api) -> None:
    response = await make(api, key="full_car", title="Car", title_pluralized="Cars", description="Wheels")
    assert response.status_code == 201
    made = object_of(response)
    user_id = made["created_by_user_id"]
    assert isinstance(user_id, str)
    assert user_id.isdigit()
    assert TIME.fullmatch(made["created_at"])
    assert made == {
        "url": f"{api.running.address}/api/v2/custom_objects/full_car.json",
        "key": "full_car",
        "title": "Car",
        "raw_title": "Car",
        "title_pluralized": "Cars",
        "raw_title_pluralized": "Cars",
        "description": "Wheels",
        "raw_description": "Wheels",
        "include_in_list_view": True,
        "allows_photos": False,
        "allows_attachments": False,
        "created_by_user_id": user_id,
        "updated_by_user_id": user_id,
        "created_at": made["created_at"],
        "updated_at": made["created_at"],
    }
    assert object_of(await api.client.get(made["url"])) == made
    assert made in await listed(api)


async def test_the_title_alone_is_enough_beside_the_key(api: Api) -> None:
    made = object_of(await make(api, key="only_title", title="Car"))
    assert (made["title_pluralized"], made["description"]) == ("Car", None)


async def test_the_raw_twins_set_what_their_plain_ones_do_not(api: Api) -> None:
    raw = {"raw_title": "Car", "raw_title_pluralized": "Cars", "raw_description": "d"}
    made = object_of(await make(api, key="raw_car", **raw))
    assert {name: made[name] for name in raw} == raw
    assert (made["title"], made["title_pluralized"], made["description"]) == ("Car", "Cars", "d")
    changed = object_of(
        await api.client.patch(
            f"{PATH}/raw_car", json={"custom_object": {"raw_title": "Lorry", "title": "Van"}}
        )
    )
    assert (changed["title"], changed["raw_title"]) == ("Van", "Van")


@pytest.mark.parametrize("key", ["a", "_", "a1_2", "1a", "x" * 100, "limits", "null"])
async def test_a_key_of_lower_case_letters_digits_and_underscores_is_taken(api: Api, key: str) -> None:
    made = object_of(await make(api, key=key, title="Car"))
    assert made["key"] == key
    assert (await api.client.get(f"{PATH}/{key}")).status_code == 200
    assert (await api.client.delete(f"{PATH}/{key}")).status_code == 204


@pytest.mark.parametrize(
    "key", ["Car", "car-1", "my car", "123", "é", "a.b", "a/b", "x" * 101, "a\n", "", None]
)
async def test_another_key_is_refused(api: Api, key: str | None) -> None:
    problems = problems_of(await make(api, key=key, title="Car"))
    assert list(problems) == ["key"]
    assert problems["key"][0].startswith("Key")


async def test_a_key_taken_is_refused_and_the_first_object_stands(api: Api) -> None:
    key = await api.new_object()
    before = object_of(await api.client.get(f"{PATH}/{key}"))
    assert problems_of(await make(api, key=key, title="Other")) == {"key": ["Key has already been taken"]}
    assert object_of(await api.client.get(f"{PATH}/{key}")) == before


async def test_two_accounts_may_use_one_key(api: Api, stranger: Api) -> None:
    key = await api.new_object(TEXT)
    await stranger.new_object(key=key)
    assert (await stranger.client.get(f"{PATH}/{key}/fields")).json()["custom_object_fields"] == []


@pytest.mark.parametrize(
    ("attributes", "blamed"),
    [
        ({"title": ""}, "title"),
        ({"title": "  "}, "title"),
        ({"title": 7}, "title"),
        ({"title": "x" * 256}, "title"),
        ({"title": None}, "title"),
        ({"title_pluralized": ["x"]}, "title_pluralized"),
        ({"description": {}}, "description"),
        ({"allows_photos": "yes"}, "allows_photos"),
        ({"include_in_list_view": 1}, "include_in_list_view"),
        ({"key": 5}, "key"),
    ],
)
async def test_an_attribute_of_another_form_is_refused_by_name(
    api: Api, attributes: dict[str, Any], blamed: str
) -> None:
    problems = problems_of(await make(api, **{"key": "never_made", "title": "Car"} | attributes))
    assert list(problems) == [blamed]
    assert (await api.client.get(f"{PATH}/never_made")).status_code == 404


async def test_a_change_touches_only_what_is_sent(api: Api) -> None:
    key = await api.new_object()
    before = object_of(await api.client.get(f"{PATH}/{key}"))
    response = await api.client.patch(
        f"{PATH}/{key}", json={"custom_object": {"title": "New", "allows_photos": True, "description": None}}
    )
    assert response.status_code == 200
    changed = {"title": "New", "raw_title": "New", "allows_photos": True}
    assert object_of(response) == before | changed | {"updated_at": object_of(response)["updated_at"]}
    assert object_of(await api.client.get(f"{PATH}/{key}")) == object_of(response)


async def test_a_change_names_who_made_it(api: Api) -> None:
    key = await api.new_object()
    other = Api(api.running, await api.running.token(email="second@example.com"))
    async with other.client:
        changed = object_of(await other.client.patch(f"{PATH}/{key}", json={"custom_object": {"title": "N"}}))
    assert changed["created_by_user_id"] != changed["updated_by_user_id"]


@pytest.mark.parametrize("title", ["", " "])
async def test_a_title_is_not_blanked(api: Api, title: str) -> None:
    key = await api.new_object()
    for attribute in ("title", "raw_title"):
        response = await api.client.patch(f"{PATH}/{key}", json={"custom_object": {attribute: title}})
        assert problems_of(response) == {"title": ["Title cannot be blank"]}


async def test_a_key_is_never_changed(api: Api) -> None:
    key = await api.new_object()
    response = await api.client.patch(f"{PATH}/{key}", json={"custom_object": {"key": "other", "title": "N"}})
    assert object_of(response)["key"] == key
    assert '"key"' in unquote(response.headers["X-Zendesk-API-Warn"])
    same = await api.client.patch(f"{PATH}/{key}", json={"custom_object": {"key": key}})
    assert "X-Zendesk-API-Warn" not in same.headers


async def test_unknown_and_read_only_attributes_are_ignored_and_named(api: Api) -> None:
    key = await api.new_object()
    sent_back = object_of(await api.client.get(f"{PATH}/{key}"))
    body = {"custom_object": {**sent_back, "colour é": 1}, "beside": True}
    response = await api.client.patch(f"{PATH}/{key}", json=body)
    warned = response.headers["X-Zendesk-API-Warn"]
    assert warned.isascii()
    for name in ("beside", "url", "created_by_user_id", "created_at", "colour é"):
        assert f'"{name}"' in unquote(warned)
    assert "title" not in unquote(warned)


async def test_the_warning_stays_within_a_kilobyte(api: Api) -> None:
    names = {f"é{'x' * 90}\n{number}": 1 for number in range(50)}
    response = await make(api, key="warned", title="Car", **names)
    assert response.status_code == 201
    assert 900 < len(response.headers["X-Zendesk-API-Warn"]) <= 1024


async def test_a_deleted_object_is_gone_at_once_with_all_that_was_in_it(api: Api) -> None:
    key = await api.new_object(TEXT)
    record = record_of(await api.create(key, name="Ford"))
    assert (await api.client.delete(f"{PATH}/{key}")).status_code == 204
    for method, path in (
        ("GET", ""),
        ("PATCH", ""),
        ("DELETE", ""),
        ("GET", "/fields"),
        ("GET", "/fields/color"),
        ("GET", "/limits/field_limit"),
        ("GET", "/records"),
        ("GET", "/records/count"),
        ("GET", f"/records/{record['id']}"),
        ("DELETE", f"/records/{record['id']}"),
        ("PATCH", "/records?external_id=a"),
    ):
        body = {"custom_object": {}} if not path else {"custom_object_record": {"name": "x"}}
        response = await api.client.request(
            method, f"{PATH}/{key}{path}", json=body if method == "PATCH" else None
        )
        assert (response.status_code, response.json()["error"]) == (404, "RecordNotFound"), (method, path)
    assert key not in [item["key"] for item in await listed(api)]


async def test_a_deleted_objects_key_is_used_again_and_starts_empty(api: Api) -> None:
    key = await api.new_object(TEXT, naming={"autoincrement_enabled": True, "autoincrement_prefix": "A-"})
    record_of(await api.create(key, external_id="v1", custom_object_fields={"color": "red"}))
    await api.client.delete(f"{PATH}/{key}")
    await api.new_object(key=key)
    assert await api.records(key) == []
    assert (await api.client.get(f"{PATH}/{key}/records/count")).json()["count"]["value"] == 0
    assert (await api.client.get(f"{PATH}/{key}/fields")).json()["custom_object_fields"] == []
    record = record_of(await api.create(key, name="New", external_id="v1"))
    assert (record["name"], record["custom_object_fields"]) == ("New", {})


async def test_agents_read_objects_and_do_not_write_them(api: Api, agent: Api) -> None:
    key = await api.new_object()
    assert (await agent.client.get(PATH)).status_code == 200
    assert (await agent.client.get(f"{PATH}/{key}")).status_code == 200
    assert (await make(agent, key="agents", title="A")).status_code == 403
    assert (await agent.client.patch(f"{PATH}/{key}", json={"custom_object": {}})).status_code == 403
    assert (await agent.client.delete(f"{PATH}/{key}")).status_code == 403
    assert (await api.client.get(f"{PATH}/{key}")).status_code == 200


async def test_the_limits_count_what_is_there(api: Api) -> None:
    async def count(path: str) -> int:
        response = await api.client.get(f"{PATH}/{path}")
        assert response.status_code == 200
        assert set(response.json()) == {"count", "limit"}
        return int(response.json()["count"])

    objects, records = await count("limits/object_limit"), await count("limits/record_limit")
    key = await api.new_object(TEXT)
    record_of(await api.create(key, name="Ford"))
    assert await count("limits/object_limit") == objects + 1
    assert await count("limits/record_limit") == records + 1
    assert await count(f"{key}/limits/field_limit") == 1
    await api.client.delete(f"{PATH}/{key}")
    assert await count("limits/object_limit") == objects
    assert await count("limits/record_limit") == records


async def test_the_limits_are_those_of_the_contract(api: Api) -> None:
    key = await api.new_object()
    limits = {
        path: (await api.client.get(f"{PATH}/{path}")).json()["limit"]
        for path in ("limits/object_limit", "limits/record_limit", f"{key}/limits/field_limit")
    }
    assert list(limits.values()) == [10_000, 50_000_000, 100]


async def test_a_full_account_takes_no_more_objects_and_a_full_object_no_more_fields(
    cluster: Cluster,
) -> None:
    async with running(await cluster.new_database(), object_limit=2, field_limit=1) as service:
        api = Api(service, await service.token())
        async with api.client:
            first, second = await api.new_object(), await api.new_object(TEXT)
            assert problems_of(await make(api, key="third", title="Third")) == {
                "base": ["An account has at most 2 objects"]
            }
            body = {"custom_object_field": {"key": "size", "type": "text", "title": "Size"}}
            response = await api.client.post(f"{PATH}/{second}/fields", json=body)
            assert problems_of(response) == {"base": ["An object has at most 1 fields"]}
            usage = await api.client.get(f"{PATH}/{second}/limits/field_limit")
            assert usage.json() == {"count": 1, "limit": 1}
            await api.client.delete(f"{PATH}/{first}")
            assert (await make(api, key="third", title="Third")).status_code == 201
            assert (await api.client.get(f"{PATH}/limits/object_limit")).json() == {"count": 2, "limit": 2}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "The body must have the key custom_object"),
        ({"title": "Car"}, "The body must have the key custom_object"),
        ({"custom_object": []}, "custom_object must be a JSON object"),
        ({"custom_object": None}, "custom_object must be a JSON object"),
        ([], "The body must be a JSON object with the key custom_object"),
        ("x", "The body must be a JSON object with the key custom_object"),
    ],
)
async def test_a_body_without_its_wrapper_is_a_bad_request(api: Api, body: Any, said: str) -> None:
    key = await api.new_object()
    for method, path in (("POST", PATH), ("PATCH", f"{PATH}/{key}")):
        response = await api.client.request(method, path, json=body)
        assert (response.status_code, response.json()) == (400, {"error": "BadRequest", "description": said})


async def test_no_key_of_an_object_hides_it_behind_another_path(api: Api) -> None:
    paths = [path.removeprefix("/api/v2/").split("/") for path in routes.TABLE]
    for path in paths:
        for general in paths:
            differing = [
                (word, name) for word, name in zip(path, general, strict=False) if word != name
            ]  # fmt: skip
            is_hidden = len(path) == len(general) and all("{" in name for _, name in differing)
            for word, name in differing if is_hidden else []:
                if name == "{key}":
                    assert list(problems_of(await make(api, key=word, title="x"))) == ["key"], word


async def test_an_object_called_as_the_paths_of_limits_is_reached_by_every_path(api: Api) -> None:
    await make(api, key="limits", title="x")
    assert (await api.client.get("/custom_objects/limits/limits/field_limit")).json()["count"] == 0
    for end in ("", "/fields", "/records", "/records/count"):
        assert (await api.client.get(f"/custom_objects/limits{end}")).status_code == 200
    record_of(await api.create("limits", name="x"))
    assert (await api.client.delete("/custom_objects/limits")).status_code == 204
