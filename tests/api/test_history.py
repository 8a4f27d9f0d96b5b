"""Record events, and the incremental export that misses no change and shows what was deleted."""

import asyncio
import time
from datetime import timedelta
from operator import itemgetter
from typing import Any

import pytest

from tests.support.harness import Api, Cluster, record_of, running
from upsert_svc import purge
from upsert_svc.payloads import RecordPatch
from upsert_svc.records import history
from upsert_svc.records.record_store import Records
from upsert_svc.records.values import NEW, WriteRequest
from upsert_svc.records.write_batching import Direct

FIELDS = (
    {"key": "color", "type": "text"},
    {"key": "mileage", "type": "integer"},
    {"key": "price", "type": "decimal"},
    {"key": "extras", "type": "json"},
)


@pytest.fixture
async def key(api: Api) -> str:
    return await api.new_object(*FIELDS)


async def events(api: Api, key: str, record_id: str, **query: Any) -> list[dict[str, Any]]:
    response = await api.client.get(f"/custom_objects/{key}/records/{record_id}/events", params=query)
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["events"]
    return found


def changed(event: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    changes = event["properties"]["changes"]
    return {name: (change["previous"], change["current"]) for name, change in changes.items()}


async def export(api: Api, key: str, **query: Any) -> dict[str, Any]:
    if not {"cursor", "start_time"} & query.keys():
        query["start_time"] = 0
    response = await api.client.get(f"/incremental/custom_objects/{key}/cursor", params=query)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def names(page: dict[str, Any]) -> list[str]:
    return [record["name"] for record in page["custom_object_records"]]


async def test_events_tell_who_made_a_record_and_what_each_write_changed(
    api: Api, agent: Api, key: str
) -> None:
    fields = {"color": "red", "mileage": 1, "extras": {"a": 1}}
    record = record_of(await api.create(key, name="Ford", external_id="v1", custom_object_fields=fields))
    sent = {"name": "Ford", "custom_object_fields": {"color": "blue", "mileage": 1, "price": 1.0}}
    updated = record_of(await agent.upsert(key, sent, external_id="v1"))
    found = await events(api, key, record["id"])
    assert [event["type"] for event in found] == ["record_created", "record_updated"]
    assert changed(found[0]) == {
        "name": (None, "Ford"),
        "external_id": (None, "v1"),
        "custom_object_fields.color": (None, "red"),
        "custom_object_fields.mileage": (None, 1),
        "custom_object_fields.extras": (None, {"a": 1}),
    }
    assert changed(found[1]) == {
        "custom_object_fields.color": ("red", "blue"),
        "custom_object_fields.price": (None, 1.0),
    }
    assert found[1] == {
        "id": f"{record['id']}.2",
        "type": "record_updated",
        "source": "zendesk",
        "description": "Record updated",
        "actor": {"type": "user", "id": updated["updated_by_user_id"]},
        "properties": found[1]["properties"],
        "created_at": updated["updated_at"],
        "received_at": updated["updated_at"],
    }
    assert found[0]["actor"]["id"] == record["created_by_user_id"] != found[1]["actor"]["id"]


async def test_events_tell_what_a_replacement_cleared_and_what_a_merge_reached(api: Api, key: str) -> None:
    fields = {"color": "red", "mileage": 1, "extras": {"a": 1, "b": {"c": 2}}}
    record = record_of(await api.create(key, name="Ford", custom_object_fields=fields))
    url = f"/custom_objects/{key}/records/{record['id']}"
    merged = {"custom_object_record": {"custom_object_fields": {"extras": {"b": {"c": None}}}}}
    assert (await api.client.patch(url, json=merged)).status_code == 200
    replaced = {"custom_object_record": {"name": "Fiat", "custom_object_fields": {"mileage": 1}}}
    assert (await api.client.put(url, json=replaced)).status_code == 200
    _, merging, replacing = await events(api, key, record["id"])
    assert changed(merging) == {
        "custom_object_fields.extras": ({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {}}),
    }
    assert changed(replacing) == {
        "name": ("Ford", "Fiat"),
        "custom_object_fields.color": ("red", None),
        "custom_object_fields.extras": ({"a": 1, "b": {}}, None),
    }


async def test_a_number_spelt_with_more_digits_is_a_change_and_keeps_them(api: Api, key: str) -> None:
    record = record_of(await api.create(key, name="a", custom_object_fields={"price": 1}))
    body = b'{"custom_object_record":{"custom_object_fields":{"price":1.00}}}'
    url = f"/custom_objects/{key}/records/{record['id']}"
    await api.client.patch(url, content=body)
    response = await api.client.get(f"{url}/events")
    assert b'{"current": 1.00, "previous": 1}' in response.content


async def test_a_write_that_changes_nothing_or_is_refused_leaves_no_event(api: Api, key: str) -> None:
    record = record_of(await api.upsert(key, {"name": "Ford"}, external_id="v1"))
    await api.upsert(key, {"name": "Ford"}, external_id="v1")
    await api.upsert(key, {"custom_object_fields": {"mileage": "far"}}, external_id="v1")
    await api.client.patch(
        f"/custom_objects/{key}/records",
        params={"external_id": "v1", "dry_run": "true"},
        json={"custom_object_record": {"name": "Fiat"}},
    )
    assert len(await events(api, key, record["id"])) == 1


async def test_events_are_paged_both_ways_oldest_or_newest_first(api: Api, key: str) -> None:
    record = record_of(await api.upsert(key, {"name": "0"}, external_id="v1"))
    for number in range(1, 10):
        await api.upsert(key, {"name": str(number)}, external_id="v1")
    for sort, numbers in (("created_at", range(1, 11)), ("-created_at", range(10, 0, -1))):
        url = f"/custom_objects/{key}/records/{record['id']}/events?sort={sort}&page[size]=4"
        page = (await api.client.get(url)).json()
        pages = [page]
        while page["links"]["next"]:
            page = (await api.client.get(page["links"]["next"])).json()
            pages.append(page)
        seen = [event["properties"]["version"] for page in pages for event in page["events"]]
        assert seen == list(numbers)
        assert (await api.client.get(page["links"]["prev"])).json()["events"] == pages[1]["events"]


async def test_of_very_many_events_the_latest_are_answered(
    api: Api, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "EVENT_LIMIT", 4)
    for number in range(9):
        record = record_of(await api.upsert(key, {"name": f"{number}"}, external_id="v1"))
    found = await events(api, key, record["id"])
    assert [event["properties"]["version"] for event in found] == [6, 7, 8, 9]
    assert [changed(event) for event in found] == [  # what it was before the first of them is not known
        {},
        {"name": ("5", "6")},
        {"name": ("6", "7")},
        {"name": ("7", "8")},
    ]


@pytest.mark.parametrize("sort", ["name", "-", "created_at,id"])
async def test_events_have_no_other_sorts(api: Api, key: str, sort: str) -> None:
    record = record_of(await api.create(key, name="a"))
    response = await api.client.get(
        f"/custom_objects/{key}/records/{record['id']}/events", params={"sort": sort}
    )
    assert response.status_code == 400
    assert "sort" in response.json()["description"]


async def test_the_events_of_a_deleted_record_are_gone_with_it(api: Api, key: str) -> None:
    record = record_of(await api.create(key, name="a"))
    url = f"/custom_objects/{key}/records/{record['id']}"
    assert (await api.client.get(f"{url}/events")).status_code == 200
    await api.client.delete(url)
    assert (await api.client.get(f"{url}/events")).status_code == 404


async def test_the_export_shows_each_record_once_where_it_last_changed(api: Api, key: str) -> None:
    for number in range(5):
        await api.upsert(key, {"name": f"r{number}"}, external_id=f"x{number}")
    await api.upsert(key, {"custom_object_fields": {"mileage": 7}}, external_id="x1")
    page = await export(api, key)
    assert names(page) == ["r0", "r2", "r3", "r4", "r1"]
    listed = [record | {"deleted_at": None} for record in await api.records(key)]
    assert sorted(page.pop("custom_object_records"), key=itemgetter("id")) == listed
    assert page.pop("after_cursor")
    assert page == {
        "after_url": None,
        "before_cursor": None,
        "before_url": None,
        "end_of_stream": True,
        "filter": {"exclude_deleted": False},
        "meta": {"has_more": False},
    }


@pytest.mark.parametrize("suffix", ["", ".json"])
async def test_the_export_goes_on_from_its_cursor(api: Api, key: str, suffix: str) -> None:
    for number in range(5):
        await api.upsert(key, {"name": f"r{number}"}, external_id=f"x{number}")
    url: str | None = f"/incremental/custom_objects/{key}/cursor{suffix}?start_time=0&per_page=2"
    pages = []
    while url:
        page = (await api.client.get(url)).json()
        assert page["meta"]["has_more"] is not page["end_of_stream"]
        pages.append(names(page))
        url = page["after_url"]
    assert pages == [["r0", "r1"], ["r2", "r3"], ["r4"]]
    page = await export(api, key, cursor=page["after_cursor"])
    assert names(page) == []
    await api.upsert(key, {"name": "new"}, external_id="x2")
    assert names(await export(api, key, cursor=page["after_cursor"])) == ["new"]


async def test_a_record_written_over_and_over_makes_pages_short_and_hides_nothing(api: Api, key: str) -> None:
    await api.upsert(key, {"name": "first"}, external_id="x1")
    for number in range(35):
        await api.upsert(key, {"name": f"busy {number}"}, external_id="busy")
    await api.upsert(key, {"name": "last"}, external_id="x2")
    page = await export(api, key, per_page=1)
    seen, pages = names(page), 1
    while page["meta"]["has_more"]:
        page = await export(api, key, per_page=1, cursor=page["after_cursor"])
        seen += names(page)
        pages += 1
    assert seen == ["first", "busy 34", "last"]
    assert pages > 4


async def test_the_export_begins_with_what_changed_since_its_start_time(api: Api, key: str) -> None:
    await api.upsert(key, {"name": "old"}, external_id="x1")
    await asyncio.sleep(1.1)
    start_time = int(time.time())
    await api.upsert(key, {"name": "new"}, external_id="x2")
    assert names(await export(api, key, start_time=start_time)) == ["new"]
    assert names(await export(api, key, start_time=start_time - 3600)) == ["old", "new"]


async def test_a_deleted_record_is_exported_without_its_values_unless_it_is_excluded(
    api: Api, key: str
) -> None:
    fields = {"color": "red"}
    record = record_of(await api.create(key, name="Ford", external_id="v1", custom_object_fields=fields))
    page = await export(api, key)
    await api.client.delete(f"/custom_objects/{key}/records/{record['id']}")
    (deleted,) = (await export(api, key, cursor=page["after_cursor"]))["custom_object_records"]
    assert deleted["deleted_at"] == deleted["updated_at"]
    assert deleted == record | {
        "name": "[DELETED]",
        "custom_object_fields": dict.fromkeys(("color", "mileage", "price", "extras"), "[DELETED]"),
        "updated_at": deleted["updated_at"],
        "deleted_at": deleted["deleted_at"],
    }
    excluding = await export(api, key, **{"filter[exclude_deleted]": "true"})
    assert (names(excluding), excluding["filter"]) == ([], {"exclude_deleted": True})


async def test_a_deleted_record_is_exported_for_thirty_days_and_then_forgotten(api: Api, key: str) -> None:
    record = record_of(await api.upsert(key, {"name": "a"}, external_id="v1"))
    await api.upsert(key, {"name": "b"}, external_id="v1")
    stays = record_of(await api.create(key, name="stays"))
    await api.client.delete(f"/custom_objects/{key}/records/{record['id']}")
    async with api.running.sql() as connection:
        age = "update tombstones set deleted_at = now() - $2::interval where record_id = $1"
        await connection.execute(age, record["id"], timedelta(days=29))
        await _purge(api)
        assert names(await export(api, key)) == ["stays", "[DELETED]"]
        await connection.execute(age, record["id"], timedelta(days=31))
        assert names(await export(api, key)) == ["stays"]
        await _purge(api)
        left = await connection.fetch("select record_id from changes where record_id = $1", record["id"])
        assert left == []
        assert await connection.fetch("select from tombstones where record_id = $1", record["id"]) == []
    assert len(await events(api, key, stays["id"])) == 1


async def test_the_many_changes_of_a_deleted_record_are_forgotten_part_by_part(
    api: Api, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purge, "_HISTORY", 2)
    for number in range(4):
        record = record_of(await api.upsert(key, {"name": f"{number}"}, external_id="v1"))
    await api.client.delete(f"/custom_objects/{key}/records/{record['id']}")
    left = []
    async with api.running.sql() as connection:
        await connection.execute(
            "update tombstones set deleted_at = now() - interval '31 days' where record_id = $1", record["id"]
        )
        is_busy = True
        while is_busy:
            is_busy = await purge.step(api.running.service.database.main)
            for table in ("changes", "tombstones"):
                count = f"select count(*) from {table} where record_id = $1"
                left.append(await connection.fetchval(count, record["id"]))
    assert left == [3, 1, 1, 1, 0, 0]


async def test_what_cannot_be_forgotten_in_time_keeps_nothing_else(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purge, "_HISTORY", "not a number")
    async with api.running.sql() as connection:
        await connection.execute(
            """insert into idempotency_keys (account_id, key, request_hash, status, headers, body, created_at)
               values (1, 'of yesterday', '', 200, '[]', '', now() - interval '25 hours')"""
        )
        with pytest.raises(Exception, match="not a number"):
            await purge.step(api.running.service.database.main)
        assert not await connection.fetchval(
            "select count(*) from idempotency_keys where key = 'of yesterday'"
        )


async def _purge(api: Api) -> None:
    while await purge.step(api.running.service.database.main, 10):
        pass


async def test_the_changes_of_a_deleted_object_are_purged(api: Api, key: str) -> None:
    for number in range(25):
        record = record_of(await api.create(key, name=f"{number}"))
    await api.client.delete(f"/custom_objects/{key}/records/{record['id']}")
    async with api.running.sql() as connection:
        object_id = await connection.fetchval("select object_id from objects where key = $1", key)
        await api.client.delete(f"/custom_objects/{key}")
        await _purge(api)
        for table in ("changes", "tombstones", "records"):
            assert not await connection.fetch(f"select from {table} where object_id = $1", object_id)


async def test_an_export_waits_for_an_older_transaction_and_misses_nothing_of_it(api: Api, key: str) -> None:
    service, principal = api.running.service, await _principal(api)
    async with api.running.sql() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("select pg_current_xact_id()")
        await api.upsert(key, {"name": "later, committed first"}, external_id="x1")
        early = await export(api, key)
        assert names(early) == []
        database = service.database.pinned(connection)
        lone_writes = service.write_batcher.lone_writes
        slow = Records(
            database, service.definitions, Direct(connection, lone_writes), service.reader, lone_writes
        )
        await slow.write(principal, key, WriteRequest(NEW, RecordPatch(name="earlier, committed last")))
        await transaction.commit()
    page = await export(api, key, cursor=early["after_cursor"])
    assert names(page) == ["earlier, committed last", "later, committed first"]


async def _principal(api: Api) -> Any:
    return await api.running.service.authenticate(api.client.headers["Authorization"].encode())


async def test_whoever_follows_the_export_misses_no_record_while_many_write(api: Api, key: str) -> None:
    seen: dict[str, int] = {}
    is_done = asyncio.Event()

    async def follow() -> None:
        page = await export(api, key, per_page=3)
        while True:
            was_done = is_done.is_set()
            for record in page["custom_object_records"]:
                seen[record["external_id"]] = record["custom_object_fields"]["mileage"]
            if was_done and not page["meta"]["has_more"] and not page["custom_object_records"]:
                return
            page = await export(api, key, per_page=3, cursor=page["after_cursor"])

    async def write(writer: int) -> None:
        for turn in range(30):
            sent = {"name": "n", "custom_object_fields": {"mileage": turn}}
            await api.upsert(key, sent, external_id=f"w{writer}-{turn % 7}")

    following = asyncio.create_task(follow())
    await asyncio.gather(*(write(writer) for writer in range(8)))
    is_done.set()
    await following
    records = await api.records(key)
    assert seen == {record["external_id"]: record["custom_object_fields"]["mileage"] for record in records}


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ({}, "start_time"),
        ({"start_time": "yesterday"}, "start_time"),
        ({"start_time": "-1"}, "start_time"),
        ({"start_time": "9" * 30}, "start_time"),
        ({"start_time": "99999999999"}, "start_time"),
        ({"cursor": "made up"}, "cursor"),
        ({"start_time": "0", "per_page": "0"}, "per_page"),
        ({"start_time": "0", "per_page": "1001"}, "per_page"),
        ({"start_time": "0", "per_page": "many"}, "per_page"),
        ({"start_time": "0", "filter[exclude_deleted]": "perhaps"}, "filter[exclude_deleted]"),
    ],
)
async def test_a_bad_export_is_refused_by_the_parameter_at_fault(
    api: Api, key: str, query: dict[str, str], named: str
) -> None:
    response = await api.client.get(f"/incremental/custom_objects/{key}/cursor", params=query)
    assert (response.status_code, response.json()["error"]) == (400, "BadRequest")
    assert named in response.json()["description"]


async def test_a_cursor_belongs_to_its_object_and_account(api: Api, stranger: Api, key: str) -> None:
    cursor = (await export(api, key))["after_cursor"]
    another = await api.new_object()
    url = f"/incremental/custom_objects/{another}/cursor"
    assert (await api.client.get(url, params={"cursor": cursor})).status_code == 400
    url = f"/incremental/custom_objects/{key}/cursor"
    assert (await stranger.client.get(url, params={"start_time": 0})).status_code == 404


async def test_a_cursor_is_refused_after_a_dump_was_restored(cluster: Cluster) -> None:
    async with running(await cluster.new_database()) as service:
        api = Api(service, await service.token())
        async with api.client:
            key = await api.new_object(*FIELDS)
            cursor = (await export(api, key))["after_cursor"]
            assert names(await export(api, key, cursor=cursor)) == []
            async with service.sql() as owner:  # as pg_restore does
                await owner.execute("alter table changes rename to dropped")
                await owner.execute("create table changes (like dropped including all)")
                await owner.execute("insert into changes select * from dropped")
                await owner.execute("grant select, insert, delete on changes to upsert_svc")
            url = f"/incremental/custom_objects/{key}/cursor"
            refusal = await api.client.get(url, params={"cursor": cursor})
            assert refusal.status_code == 400
            assert refusal.json()["description"].endswith("begin anew with start_time")
            await export(api, key)
