"""Listings of records over HTTP: pages both ways, cursors, filters, sorts."""

import base64
from typing import Any

import httpx
import pytest

from tests.support.harness import Api, record_of

COUNT = 250


@pytest.fixture(scope="module")
async def key(api: Api) -> str:
    """An object of 250 records, some of which were updated later than others were made."""
    key = await api.new_object({"key": "n", "type": "integer"})
    for number in range(COUNT):
        record_of(await api.create(key, name=f"r{number}", external_id=f"x{number}"))
    for number in range(0, COUNT, 7):
        record_of(await api.upsert(key, {"custom_object_fields": {"n": number}}, external_id=f"x{number}"))
    return key


async def get(api: Api, key: str, **query: Any) -> httpx.Response:
    return await api.client.get(f"/custom_objects/{key}/records", params=query)


async def page(api: Api, key: str, **query: Any) -> dict[str, Any]:
    response = await get(api, key, **query)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def names(found: dict[str, Any]) -> list[str]:
    return [record["name"] for record in found["custom_object_records"]]


@pytest.mark.parametrize("sort", ["", "id", "-id", "updated_at", "-updated_at"])
@pytest.mark.parametrize("size", [100, 37])
async def test_the_links_lead_over_every_record_once_and_back(
    api: Api, key: str, sort: str, size: int
) -> None:
    found = await page(api, key, sort=sort, **{"page[size]": size})
    assert (found["links"]["prev"], found["meta"]["before_cursor"]) == (None, None)
    pages = [names(found)]
    while found["links"]["next"]:
        assert found["meta"]["has_more"] is True
        assert len(found["custom_object_records"]) == size
        found = (await api.client.get(found["links"]["next"])).json()
        pages.append(names(found))
    assert found["meta"] == {
        "has_more": False,
        "after_cursor": None,
        "before_cursor": found["meta"]["before_cursor"],
    }
    seen = [name for item in pages for name in item]
    created = [f"r{number}" for number in range(COUNT)]
    expected = {
        "": created,
        "id": created,
        "-id": created[::-1],
        "updated_at": [name for number, name in enumerate(created) if number % 7] + created[::7],
    }
    expected["-updated_at"] = expected["updated_at"][::-1]
    assert seen == expected[sort]
    back = [names(found)]
    while found["links"]["prev"]:
        found = (await api.client.get(found["links"]["prev"])).json()
        assert found["links"]["next"] is not None
        back.insert(0, names(found))
    assert back == pages


async def test_a_page_has_a_hundred_records_unless_it_is_told_otherwise(api: Api, key: str) -> None:
    assert len(names(await page(api, key))) == 100
    assert len(names(await page(api, key, per_page=5, page=1))) == 100
    assert names(await page(api, key, **{"page[size]": 1})) == ["r0"]


async def test_cursors_and_links_say_the_same(api: Api, key: str) -> None:
    first = await page(api, key, **{"page[size]": 10})
    second = await page(api, key, **{"page[size]": 10, "page[after]": first["meta"]["after_cursor"]})
    assert second == (await api.client.get(first["links"]["next"])).json()
    again = await page(api, key, **{"page[size]": 10, "page[before]": second["meta"]["before_cursor"]})
    assert names(again) == names(first)


async def test_an_empty_listing_has_no_neighbours(api: Api) -> None:
    found = await page(api, await api.new_object())
    assert found == {
        "custom_object_records": [],
        "meta": {"has_more": False, "after_cursor": None, "before_cursor": None},
        "links": {"next": None, "prev": None},
    }


async def test_a_full_last_page_leads_nowhere(api: Api, key: str) -> None:
    last = await page(api, key, sort="-id", **{"page[size]": 50})
    for _ in range(4):
        last = (await api.client.get(last["links"]["next"])).json()
    assert len(names(last)) == 50
    assert (last["links"]["next"], last["meta"]["after_cursor"], last["meta"]["has_more"]) == (
        None,
        None,
        False,
    )


async def test_a_record_made_while_paging_is_met_at_the_end(api: Api) -> None:
    key = await api.new_object()
    for number in range(3):
        record_of(await api.create(key, name=f"r{number}"))
    found = await page(api, key, **{"page[size]": 2})
    await api.client.delete(found["custom_object_records"][1]["url"])
    record_of(await api.create(key, name="late"))
    assert names((await api.client.get(found["links"]["next"])).json()) == ["r2", "late"]


@pytest.mark.parametrize("name", ["\u1112\u1161\u11ab" * 250, "\x01" * 254])
async def test_a_cursor_holds_the_longest_name(api: Api, name: str) -> None:
    key = await api.new_object()
    for number in range(2):
        record_of(await api.create(key, name=f"{name}{number}"))
    path = f"/custom_objects/{key}/records/search"
    body = {"filter": {"name": {"$exists": True}}, "sort": "name", "page": {"size": 1}}
    first = (await api.client.post(path, json=body)).json()
    body["page"] = {"size": 1, "after": first["meta"]["after_cursor"]}
    assert names((await api.client.post(path, json=body)).json()) == [f"{name}1"]


@pytest.mark.parametrize("size", ["0", "-1", "101", "1e9", "1000000000", "abc", "1.5", "٥", " "])
async def test_a_page_size_out_of_bounds_is_a_bad_request(api: Api, key: str, size: str) -> None:
    for path in ("/custom_objects", f"/custom_objects/{key}/fields", f"/custom_objects/{key}/records"):
        response = await api.client.get(path, params={"page[size]": size})
        assert (response.status_code, response.json()["error"]) == (400, "BadRequest")
        assert "page[size]" in response.json()["description"]


async def test_a_cursor_is_good_for_its_own_listing_alone(api: Api, stranger: Api, key: str) -> None:
    cursor = (await page(api, key, **{"page[size]": 1}))["meta"]["after_cursor"]
    theirs = await stranger.new_object(key=f"their_{key}")
    await stranger.new_object(key=key)
    other = await api.new_object()
    record_of(await api.create(other, name="r"))
    decoded = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    forged = base64.urlsafe_b64encode(decoded[:16] + b'["00000000000000000000000000"]').decode().rstrip("=")
    attempts = [
        (api, other, {"page[after]": cursor}),
        (api, key, {"page[after]": cursor, "sort": "-id"}),
        (api, key, {"page[after]": cursor, "sort": "updated_at"}),
        (stranger, key, {"page[after]": cursor}),
        (stranger, theirs, {"page[before]": cursor}),
        (api, key, {"page[after]": cursor[:-2]}),
        (api, key, {"page[after]": cursor + "x"}),
        (api, key, {"page[after]": cursor.swapcase()}),
        (api, key, {"page[after]": forged}),
        (api, key, {"page[after]": "x"}),
        (api, key, {"page[before]": "é\u2028"}),
        (api, key, {"page[after]": "x" * 20_000}),
        (api, key, {"page[after]": cursor, "page[before]": cursor}),
    ]
    for caller, object_key, query in attempts:
        response = await get(caller, object_key, **query)
        assert (response.status_code, response.json()["error"]) == (400, "BadRequest"), query
    objects = await api.client.get("/custom_objects", params={"page[after]": cursor})
    fields = await api.client.get(f"/custom_objects/{key}/fields", params={"page[after]": cursor})
    assert (objects.status_code, fields.status_code) == (400, 400)


@pytest.mark.parametrize(
    "sort", ["name", "created_at", "ID", "id desc", "--id", "-", "id,updated_at", "1;select 1"]
)
async def test_an_unknown_sort_is_a_bad_request(api: Api, key: str, sort: str) -> None:
    response = await get(api, key, sort=sort)
    assert (response.status_code, response.json()["error"]) == (400, "BadRequest")


async def test_the_filters_choose_by_id_and_by_external_id(api: Api, key: str) -> None:
    records = (await page(api, key))["custom_object_records"]
    ids = [record["id"] for record in records]
    assert names(await page(api, key, **{"filter[ids]": f"{ids[3]},{ids[1]},{ids[3]},nonsense"})) == [
        "r1",
        "r3",
    ]
    assert names(await page(api, key, **{"filter[external_ids]": "x5,X6,x7,,missing"})) == ["r5", "r7"]
    both = {"filter[ids]": ids[1], "filter[external_ids]": "x1,x2"}
    assert names(await page(api, key, **both)) == ["r1"]
    assert names(await page(api, key, **{"filter[external_ids]": "' or 1=1 --,%,_"})) == []


async def test_a_filtered_listing_is_paged_and_sorted(api: Api, key: str) -> None:
    chosen = {"filter[external_ids]": "x1,x2,x3,x4,x5", "sort": "-id", "page[size]": 2}
    found = await page(api, key, **chosen)
    pages = [names(found)]
    while found["links"]["next"]:
        found = (await api.client.get(found["links"]["next"])).json()
        pages.append(names(found))
    assert pages == [["r5", "r4"], ["r3", "r2"], ["r1"]]


@pytest.mark.parametrize("name", ["filter[ids]", "filter[external_ids]"])
async def test_a_filter_takes_a_hundred_values_and_no_more(api: Api, key: str, name: str) -> None:
    assert (await get(api, key, **{name: ",".join(f"v{n}" for n in range(100))})).status_code == 200
    for count in (101, 2000):
        response = await get(api, key, **{name: ",".join(f"v{n}" for n in range(count))})
        assert (response.status_code, response.json()["error"]) == (400, "TooManyValues")
        assert response.json()["max_count"] == 100
        assert name in response.json()["description"]


async def test_the_count_is_that_of_the_listing(api: Api, key: str) -> None:
    count = (await api.client.get(f"/custom_objects/{key}/records/count")).json()["count"]
    assert count["value"] == len(await api.records(key)) == COUNT


async def test_objects_are_paged_both_ways_newest_last(api: Api) -> None:
    alone = Api(api.running, await api.running.token(account="of pages", email="pages@example.com"))
    async with alone.client:
        made = [await alone.new_object() for _ in range(5)]
        found = (await alone.client.get("/custom_objects", params={"page[size]": 2})).json()
        pages = [found["custom_objects"]]
        while found["links"]["next"]:
            found = (await alone.client.get(found["links"]["next"])).json()
            pages.append(found["custom_objects"])
        assert [[item["key"] for item in page] for page in pages] == [made[:2], made[2:4], made[4:]]
        found = (await alone.client.get(found["links"]["prev"])).json()
        assert found["custom_objects"] == pages[1]


@pytest.mark.parametrize(
    "query", ["page[size]=0", "page[after]=x&page[before]=y", "sort=zzz", "filter[ids]=" + "x," * 101]
)
@pytest.mark.parametrize("path", ["records", "records/autocomplete", "records/search"])
async def test_a_missing_object_is_not_found_whatever_the_query(api: Api, path: str, query: str) -> None:
    url = f"/custom_objects/no_such_object/{path}?query=x&{query}"
    assert (await api.client.get(url)).status_code == 404


async def test_a_missing_record_has_no_events_whatever_the_page(api: Api, key: str) -> None:
    url = f"/custom_objects/{key}/records/{'0' * 26}/events"
    assert (await api.client.get(url, params={"page[size]": 0})).status_code == 404
    assert (await api.client.get(url, params={"page[size]": 0, "sort": "zzz"})).status_code == 400


async def test_a_missing_object_has_no_export_whatever_the_start(api: Api) -> None:
    url = "/incremental/custom_objects/no_such_object/cursor"
    for query in ({}, {"start_time": "99999999999"}):
        assert (await api.client.get(url, params=query)).status_code == 404


@pytest.mark.parametrize(
    ("path", "query", "said"),
    [
        ("records", "sort=zzz&page[size]=0", "sort must be"),
        ("records", "page[size]=0&filter[ids]=" + "x," * 101, r"page[size] must be"),
        ("records/search", "page[size]=0", "query is needed"),
    ],
)
async def test_of_several_faults_of_a_query_the_same_is_named(
    api: Api, key: str, path: str, query: str, said: str
) -> None:
    response = await api.client.get(f"/custom_objects/{key}/{path}?{query}")
    assert response.status_code == 400
    assert response.json()["description"].startswith(said)
