"""Search documents: made in the background, kept in step by every writer; they find what is there."""

import asyncio
import random
import unicodedata
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import orjson
import pytest

from tests.support.harness import Api, Cluster, record_of, running
from upsert_svc import purge
from upsert_svc.db import statements
from upsert_svc.definitions.compiled import Definition
from upsert_svc.paging import Window
from upsert_svc.search import backfill, page_query, planner

SEED = 20261126
RECORDS = 2000
QUERIES = {False: 50, True: 75}  # of each comparison, without documents and with them
STEMS = (
    "ford", "For", "fo", "fiesta", "Straße", "STRASSE", "stras", "é", "e\u0301t\u00e9", "7", "77", "07a", "x",
    "日本", "日", "ÆTHER", "æt", "ﬁn", "fin", "İx", "word", "words", "sword", "y" * 64, "y" * 70,
)  # fmt: skip
BETWEEN = (" ", "  ", "-", "_", ".", "\n", "'", "\\", ":*", " & ", "!", '"', "/", "\t", "—", "🚗")
FIELDS = {"note": "text", "story": "textarea", "code": "regexp", "gone": "text", "year": "integer"}
SEARCHED = ("note", "story", "code")


def text_by_chance(chance: random.Random, most: int) -> str:
    text = ""
    for _ in range(chance.randint(1, most)):
        text += chance.choice(STEMS) + chance.choice(BETWEEN)
    return text


# What a search means, without SQL


def folded(text: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


@cache
def words_of(text: str) -> frozenset[str]:
    separated = "".join(letter if letter.isalnum() else " " for letter in folded(text))
    return frozenset(word[:64] for word in separated.split())


class Model:
    """Which records have which words, in a name and anywhere."""

    def __init__(self, records: Sequence[Mapping[str, Any]]) -> None:
        self.names = {record["id"]: record["name"] for record in records}
        self._in_name: dict[str, set[str]] = defaultdict(set)
        self._anywhere: dict[str, set[str]] = defaultdict(set)
        for record in records:
            fields = record["custom_object_fields"]
            for word in words_of(record["name"]):
                self._in_name[word].add(record["id"])
            for word in words_of("\n".join([record["name"], *(fields[key] or "" for key in SEARCHED)])):
                self._anywhere[word].add(record["id"])

    def found(self, text: str) -> list[str]:
        """The ids of the records that a text finds, the best first: its words begin most of theirs."""
        scores: Counter[str] = Counter()
        for asked in words_of(text):
            for weight, having in ((100, self._anywhere), (1, self._in_name)):
                for record_id in set().union(*(having[word] for word in having if word.startswith(asked))):
                    scores[record_id] += weight
        return sorted(scores, key=lambda record_id: (-scores[record_id], record_id))


EVERYTHING = Window(size=2 * RECORDS)
_NOTHING = statements.load("records").list(account_id=0, object_id=0)
SCANS = (
    "q.rank as wanted_rank",
    "select terms from search_documents",
    "r.rank between",
)  # in no other statement


# The service whose documents are made when the test says so


@asynccontextmanager
async def service_without_backfill(cluster: Cluster) -> AsyncIterator[Api]:
    """An admin of a service that makes no documents in the background."""
    patched = pytest.MonkeyPatch()
    patched.setattr(backfill, "run", lambda _pool: asyncio.Event().wait())
    async with running(await cluster.new_database()) as service:
        patched.undo()
        api = Api(service, await service.token())
        async with api.client:
            yield api


@pytest.fixture(scope="module")
async def api(cluster: Cluster) -> AsyncIterator[Api]:
    async with service_without_backfill(cluster) as api:
        yield api


async def begin(api: Api, key: str) -> None:
    """Has writers keep the documents of an object."""
    async with api.running.sql() as owner:
        await owner.execute("update objects set search_state = 'requested' where key = $1", key)
    assert await backfill.begin(api.running.service.database.main)


async def finish_backfill(api: Api, batch: int = 500) -> int:
    steps = 0
    while await backfill.step(api.running.service.database.main, batch):
        steps += 1
    return steps


async def state(api: Api, key: str) -> str | None:
    async with api.running.sql() as owner:
        found: str | None = await owner.fetchval("select search_state from objects where key = $1", key)
    return found


async def search(
    api: Api, key: str, text: str, order: page_query.Order, window: Window = EVERYTHING
) -> tuple[str, list[Any]]:
    """The statement that finds what a text finds, and its rows, one more than the page holds."""
    service = api.running.service
    definition = await service.definitions.get(1, key)
    async with service.database.main.connection() as connection:
        for plan in await planner.plans_for(connection, definition, planner.Words(text), order, window):
            statement = page_query.records_query(
                plan.statement, plan.order, plan.window, version=definition.version
            )
            rows = await connection.fetch(*statement)
            if len(rows) > window.size:
                break
    return str(statement[0]), rows


def ids_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [row["record_id"] for row in rows]


async def _page_through(
    api: Api, key: str, text: str, order: page_query.Order, chance: random.Random, expected: list[str]
) -> int:
    """Pages of a search from its beginning on, and back again; answers how many were filled by scanning."""
    size, scans = chance.choice([1, 7, 50]), 0
    window = Window(size)
    for place in range(0, 4 * size, size):
        statement, rows = await search(api, key, text, order, window)
        assert ids_of(rows) == expected[place : place + size + 1], text
        scans += any(mark in statement for mark in SCANS)
        if not rows:
            break
        back = Window(size, page_query.position_of(order, rows[0]), is_backwards=True)
        _, before = await search(api, key, text, order, back)
        assert ids_of(before) == expected[:place][::-1][: size + 1], text
        if len(rows) <= size:
            break
        window = Window(size, page_query.position_of(order, rows[size - 1]))
    return scans


async def _page_through_by_name(
    api: Api, key: str, text: str, chance: random.Random, expected: list[str]
) -> int:
    """The same by name, where hardly a word is common or nearly any."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(planner, "COMMON", chance.choice([0, 100, 10_000]))
        patched.setattr(planner, "SORTED_SCAN_LIMIT", chance.choice([20, 200, 10_000]))
        return await _page_through(api, key, text, page_query.WORD_ORDERS["-name"], chance, expected)


async def _compare(api: Api, key: str, chance: random.Random, *, by_documents: bool) -> None:
    model = Model(await api.records(key))
    names = model.names
    some = scans = scans_by_name = 0
    pages_of = 5 if by_documents else 20  # every such search: it takes its time, mostly to read all records
    for number in range(QUERIES[by_documents]):
        text = text_by_chance(chance, 4)
        expected = model.found(text)
        statement, rows = await search(api, key, text, page_query.RELEVANCE)
        assert ids_of(rows) == expected, text
        assert ("search_documents" in statement) == by_documents
        if chance.random() < 0.2:
            _, rows = await search(api, key, text, page_query.WORD_ORDERS["-name"])
            by_name = sorted(expected, key=lambda record_id: (names[record_id].encode(), record_id))
            assert ids_of(rows) == by_name[::-1], text
            scans_by_name += await _page_through_by_name(api, key, text, chance, by_name[::-1])
        if number % pages_of == 0:
            scans += await _page_through(api, key, text, page_query.RELEVANCE, chance, expected)
        some += 0 < len(expected) < len(names)
    assert some > QUERIES[by_documents] / 2
    assert scans > QUERIES[by_documents] / pages_of / 4
    assert scans_by_name > QUERIES[by_documents] / 20


async def _make(api: Api, key: str, chance: random.Random) -> None:
    async with api.running.sql() as owner:
        rows = []
        for number in range(RECORDS):
            fields: dict[str, Any] = {"gone": "word gone", "year": number}
            fields |= {field: text_by_chance(chance, 3) for field in SEARCHED if chance.random() < 0.4}
            rows.append((f"{number:026d}", text_by_chance(chance, 2), orjson.dumps(fields).decode()))
        await owner.executemany(
            """insert into records (account_id, object_id, record_id, naming, name, fields,
                                    definition_version, created_by_user_id, updated_by_user_id)
               select account_id, object_id, $2, naming, $3, $4::jsonb, version, 1001, 1001
                 from objects where key = $1""",
            [(key, *row) for row in rows],
        )


async def _disturb(api: Api, key: str, chance: random.Random) -> None:
    """Writes that make, change and delete records all over the object."""
    records = await api.records(key)
    for record in chance.sample(records, 150):
        url = f"/custom_objects/{key}/records/{record['id']}"
        fields: dict[str, Any] = {"note": text_by_chance(chance, 3), "story": None}
        match chance.randint(0, 4):
            case 0:
                await api.client.delete(url)
                continue
            case 1:
                body: dict[str, Any] = {"name": text_by_chance(chance, 2)}
            case 2:
                body = {"custom_object_fields": {"year": chance.randint(0, 9)}}
            case _:
                body = {"custom_object_fields": fields}
        changed = await api.client.patch(url, json={"custom_object_record": body})
        assert changed.status_code == 200, changed.text
    for number in range(50):
        external_id = f"{number}-{chance.random()}"
        name, fields = text_by_chance(chance, 2), {"code": text_by_chance(chance, 2)}
        record_of(
            await api.upsert(key, {"name": name, "custom_object_fields": fields}, external_id=external_id)
        )


class Searched(NamedTuple):
    """An object of many records, on a service of its own, and how far its documents are."""

    api: Api
    key: str
    documents: str


@pytest.fixture(scope="module", params=["none", "half way", "all", "all, and written to"])
async def searched(request: pytest.FixtureRequest, cluster: Cluster) -> AsyncIterator[Searched]:
    chance = random.Random(SEED)
    async with service_without_backfill(cluster) as api:
        fields: list[dict[str, Any]] = [{"key": key, "type": kind} for key, kind in FIELDS.items()]
        fields[2]["regexp_for_validation"] = r"(?s).*"
        key = await api.new_object(*fields)
        await _make(api, key, chance)
        await api.client.delete(f"/custom_objects/{key}/fields/gone")
        if request.param != "none":
            await begin(api, key)
            for _ in range(2):
                await backfill.step(api.running.service.database.main)
                await _disturb(api, key, chance)
            assert await state(api, key) == "building"
        if request.param.startswith("all"):
            await finish_backfill(api)
            assert await state(api, key) == "ready"
        if request.param.endswith("written to"):
            await _disturb(api, key, chance)
        yield Searched(api, key, request.param)


@pytest.mark.parametrize("part", range(2))
async def test_searches_by_chance_find_the_same_without_documents_half_way_and_with_them(
    searched: Searched, part: int
) -> None:
    api, key, documents = searched
    chance = random.Random(f"{SEED} {documents} {part}")
    await _compare(api, key, chance, by_documents=documents.startswith("all"))
    match documents:
        case "none":
            assert await state(api, key) == "requested"
        case "half way":
            assert await state(api, key) == "building"
        case _:
            assert await state(api, key) == "ready"
            await _require_true_documents(api, key)


async def _require_true_documents(api: Api, key: str) -> None:
    """Each record has its document and each document its record, as if it were made now."""
    async with api.running.sql() as owner:
        wrong = await owner.fetch(
            """with due as (
                   select r.record_id, search_document(r.account_id, r.object_id, r.name, searched_text(
                              live_fields(r.fields, r.definition_version, coalesce(o.removals, '[]')),
                              o.searched_fields)) as terms
                     from records r join objects o using (account_id, object_id)
                    where o.key = $1),
               standing as (
                   select d.record_id, d.terms
                     from search_documents d join objects o using (account_id, object_id)
                    where o.key = $1)
               select record_id, due.terms, standing.terms
                 from due full join standing using (record_id)
                where due.terms is distinct from standing.terms""",
            key,
        )
    assert wrong == []


# When documents are wanted, and when they are made anew


async def find(api: Api, key: str, text: str, **query: Any) -> list[str]:
    """The names of the records that a search over HTTP finds."""
    response = await api.client.get(f"/custom_objects/{key}/records/search", params={"query": text, **query})
    assert response.status_code == 200, response.text
    return [record["name"] for record in response.json()["custom_object_records"]]


@pytest.fixture
async def kept(api: Api) -> str:
    """An object of thirty records whose documents are kept."""
    key = await api.new_object({"key": "note", "type": "text"}, {"key": "other", "type": "text"})
    for number in range(30):
        fields = {"note": f"note{number % 3}", "other": "same"}
        record_of(await api.create(key, name=f"name {number:02d}", custom_object_fields=fields))
    await begin(api, key)
    await finish_backfill(api, 7)
    assert await state(api, key) == "ready"
    return key


async def test_a_small_object_and_one_that_is_never_searched_get_no_documents(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await api.new_object()
    for name in ("one", "two", "three"):
        await api.create(key, name=name)
    assert await find(api, key, "t") == ["two", "three"]
    await api.client.get(f"/custom_objects/{key}/records")
    assert await state(api, key) is None
    monkeypatch.setattr(planner, "DOCUMENTS_THRESHOLD", 3)
    await api.client.get(f"/custom_objects/{key}/records")
    await find(api, key, "*")
    assert await state(api, key) is None
    await find(api, key, "t")
    assert await state(api, key) == "requested"
    assert await backfill.begin(api.running.service.database.main)
    await finish_backfill(api)


async def test_completing_a_name_asks_for_documents_and_is_served_by_them(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "DOCUMENTS_THRESHOLD", 1)
    monkeypatch.setattr(planner, "SCAN_LIMIT", 1)
    key = await api.new_object()
    names = ["Straße", "a'b\\c", "xyz", "x", "été", "100%"]
    for name in names:
        await api.create(key, name=name)

    async def completed(part: str) -> list[str]:
        response = await api.client.get(
            f"/custom_objects/{key}/records/autocomplete", params={"name": part, "page[size]": 2}
        )
        return [record["name"] for record in response.json()["custom_object_records"]]

    parts = ("stras", "asse", "'", "'b\\", "\\", "x", "XY", "xyz", "xyzz", "e\u0301t", "%", "_", "ss", "",
             "xyz" * 500)  # fmt: skip
    before = [await completed(part) for part in parts]
    assert await state(api, key) == "requested"
    assert await backfill.begin(api.running.service.database.main)
    await finish_backfill(api)
    assert [await completed(part) for part in parts] == before
    assert before[:4] == [["Straße"], ["Straße"], ["a'b\\c"], ["a'b\\c"]]


async def test_a_change_of_what_is_searched_has_the_documents_made_anew(api: Api, kept: str) -> None:
    note = f"/custom_objects/{kept}/fields/note"
    for active, count in ((False, 0), (True, 10)):
        changed = await api.client.patch(note, json={"custom_object_field": {"active": active}})
        assert changed.status_code == 200
        assert await state(api, kept) == "building"
        assert len(await find(api, kept, "note1")) == count
        await finish_backfill(api, 7)
        assert await state(api, kept) == "ready"
        assert len(await find(api, kept, "note1")) == count
        await _require_true_documents(api, kept)
    await api.client.delete(note)
    assert (await state(api, kept), await find(api, kept, "note1")) == ("building", [])
    await finish_backfill(api, 7)
    await api.new_field(kept, key="note", type="text")
    assert (await state(api, kept), await find(api, kept, "note1")) == ("ready", [])
    await _require_true_documents(api, kept)


async def test_a_change_of_anything_else_leaves_the_documents(api: Api, kept: str) -> None:
    await api.new_field(kept, key="third", type="textarea")
    body = {"custom_object_field": {"title": "Another"}}
    assert (await api.client.patch(f"/custom_objects/{kept}/fields/note", json=body)).status_code == 200
    assert await state(api, kept) == "ready"
    await api.create(kept, name="new", custom_object_fields={"third": "rare"})
    assert await find(api, kept, "rare") == ["new"]


async def test_the_documents_of_a_deleted_object_go_with_its_records(api: Api, kept: str) -> None:
    async with api.running.sql() as owner:
        object_id = await owner.fetchval("select object_id from objects where key = $1", kept)
        await api.client.delete(f"/custom_objects/{kept}")
        while await purge.step(api.running.service.database.main, 10):
            pass
        counting = "select count(*) from search_documents where object_id = $1"
        assert await owner.fetchval(counting, object_id) == 0


async def test_a_dry_run_leaves_the_documents(api: Api, kept: str) -> None:
    await api.upsert(kept, {"name": "imagined"}, external_id="x", dry_run="true")
    assert await find(api, kept, "imagined") == []
    await _require_true_documents(api, kept)


# Races, one transaction held open


_WRITING = """select outcome from unnest(write_records(1, 'record_id', array(
    select row(0, o.object_id, o.version, $2::text, null, null, null, jsonb_build_object('note', $3::text),
               1001, null, null, null, null)::record_write
      from objects o where o.key = $1)))"""


async def _made(api: Api) -> tuple[str, list[str]]:
    """An object of three records, and their ids; its documents are yet to be made."""
    key = await api.new_object({"key": "note", "type": "text"})
    made = [await api.create(key, name=name, custom_object_fields={"note": "old"}) for name in "abc"]
    return key, [record_of(one)["id"] for one in made]


async def _is_waiting(task: asyncio.Task[Any]) -> bool:
    done, _ = await asyncio.wait([task], timeout=0.3)
    return not done


async def test_the_backfill_leaves_the_document_that_a_writer_made_before_it(api: Api) -> None:
    key, ids = await _made(api)
    await begin(api, key)
    async with api.running.sql() as owner:
        async with owner.transaction():
            assert await owner.fetchval(_WRITING, key, ids[1], "new") == "updated"
            step = asyncio.create_task(backfill.step(api.running.service.database.main))
            assert await _is_waiting(step)
        assert await step
    await finish_backfill(api)
    assert (await find(api, key, "new"), await find(api, key, "old")) == (["b"], ["a", "c"])
    await _require_true_documents(api, key)


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
async def test_a_writer_waits_for_the_backfill_and_has_the_last_word(api: Api, method: str) -> None:
    key, ids = await _made(api)
    await begin(api, key)
    build = statements.load("searches").build
    async with api.running.sql() as owner:
        async with owner.transaction():
            row = await owner.fetchrow("select * from objects where key = $1 for no key update", key)
            columns = ("account_id", "object_id", "version", "searched_since", "searched_fields", "removals")
            arguments = {name: row[name] for name in columns}
            assert await owner.fetchval(*build(**arguments, built_to="", limit=10)) == ids[2]
            url = f"/custom_objects/{key}/records/{ids[1]}"
            body = {"custom_object_record": {"custom_object_fields": {"note": "new"}}}
            writer = asyncio.create_task(
                api.client.request(method, url, json=body if method == "PATCH" else None)
            )
            assert await _is_waiting(writer)
        assert (await writer).is_success
    await finish_backfill(api)
    assert await find(api, key, "old") == ["a", "c"]
    assert await find(api, key, "new") == (["b"] if method == "PATCH" else [])
    await _require_true_documents(api, key)


async def test_documents_begin_when_the_writers_that_do_not_know_of_them_have_committed(api: Api) -> None:
    key, ids = await _made(api)
    async with api.running.sql() as owner, api.running.sql() as other:
        async with owner.transaction():
            assert await owner.fetchval(_WRITING, key, ids[1], "new") == "updated"
            await other.execute("update objects set search_state = 'requested' where key = $1", key)
            beginning = asyncio.create_task(backfill.begin(api.running.service.database.main))
            assert await _is_waiting(beginning)
            assert await state(api, key) == "requested"
        assert await beginning
    await finish_backfill(api)
    assert await find(api, key, "new") == ["b"]
    await _require_true_documents(api, key)


@pytest.mark.parametrize("text", ["---", "-- ' %", "***"])
async def test_a_text_without_words_finds_nothing_with_documents_either(
    api: Api, kept: str, text: str
) -> None:
    assert await find(api, kept, text, **{"page[size]": 5}) == []


@pytest.mark.parametrize(("scan_limit", "is_enough"), [(58, True), (57, False), (20, False)])
async def test_a_scan_that_has_seen_all_records_is_the_last_page(
    api: Api, kept: str, monkeypatch: pytest.MonkeyPatch, scan_limit: int, is_enough: bool
) -> None:
    plans_for = planner.plans_for

    async def without_the_last(*asked: Any) -> list[planner.Plan]:
        *plans, last = await plans_for(*asked)
        assert plans
        nothing = statements.load("records").list(account_id=0, object_id=0)
        return [*plans, last._replace(statement=nothing)]

    monkeypatch.setattr(planner, "SCAN_LIMIT", scan_limit)
    url = f"/custom_objects/{kept}/records/autocomplete?name=AME&page[size]="
    cursor = (await api.client.get(f"{url}1")).json()["meta"]["after_cursor"]
    monkeypatch.setattr(planner, "plans_for", without_the_last)
    answer = await api.client.get(f"{url}29&page[after]={cursor}")
    names = [record["name"] for record in answer.json()["custom_object_records"]]
    assert names == ([f"name {number:02d}" for number in range(1, 30)] if is_enough else [])


async def test_nothing_is_prepared_for_a_search_by_another_definition(api: Api, kept: str) -> None:
    definition = replace(await api.running.service.definitions.get(1, kept), version=0)
    async with api.running.service.database.main.connection() as connection:
        words = planner.Words("note1")
        (plan,) = await planner.plans_for(connection, definition, words, page_query.RELEVANCE, Window())
    assert "r.rank < 0" in str(plan.statement[0])


async def test_a_search_is_made_again_while_the_definition_changes(
    api: Api, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    definitions = api.running.service.definitions
    confirmed, changes = definitions.confirm, 3

    async def change() -> None:
        async with api.running.sql() as owner:
            await owner.execute("update objects set version = version + 1 where key = $1", kept)

    async def confirmed_and_changed(definition: Definition) -> Definition:
        nonlocal changes
        current = await confirmed(definition)
        if changes:
            changes -= 1
            await change()
        return current

    await find(api, kept, "note1")
    await change()
    monkeypatch.setattr(definitions, "confirm", confirmed_and_changed)
    assert len(await find(api, kept, "note1")) == 10


@pytest.mark.parametrize(("common", "reads_all"), [(29, True), (30, False)])
async def test_what_many_names_contain_is_sorted_by_reading_all(
    api: Api, kept: str, monkeypatch: pytest.MonkeyPatch, common: int, reads_all: bool
) -> None:
    monkeypatch.setattr(planner, "COMMON", common)
    criteria, by_name = planner.Filter({"name": {"$contains": "AME"}}), page_query.SEARCH_ORDERS["-name"]
    service = api.running.service
    definition = await service.definitions.get(1, kept)
    async with service.database.main.connection() as connection:
        plans = await planner.plans_for(connection, definition, criteria, by_name, Window())
    assert (not plans) == reads_all
    found = await api.client.post(
        f"/custom_objects/{kept}/records/search", json={"filter": criteria.value, "sort": "-name"}
    )
    names = [record["name"] for record in found.json()["custom_object_records"]]
    assert names == [f"name {number:02d}" for number in reversed(range(30))]


# Pages while others write


_EVERY = {"filter": {"custom_object_fields.note": {"$contains": "note"}}}


@pytest.mark.parametrize(
    ("kind", "sort"),
    [("list", "id"), ("list", "-updated_at"), ("filter", "-id"), ("filter", "name"), ("filter", "created_at"),
     ("words", ""), ("words", "-name"), ("words", "updated_at"), ("words read", ""), ("*", "")],
)  # fmt: skip
async def test_pages_show_each_record_that_stands_once_while_others_come_and_go(
    api: Api, kept: str, kind: str, sort: str
) -> None:
    if kind == "words read":
        async with api.running.sql() as owner:
            await owner.execute("update objects set search_state = 'building' where key = $1", kept)
    records = await api.records(kept)
    standing = {record["id"] for record in records[::2]}
    passing = [record["id"] for record in records[1::2]]
    path = f"/custom_objects/{kept}/records" + ("" if kind == "list" else "/search")
    query: dict[str, Any] = {"sort": sort, "page[size]": 4}
    if kind.startswith("words") or kind == "*":
        query["query"] = "*" if kind == "*" else "note0 note1 note2 nam"
    method, body = ("POST", _EVERY) if kind == "filter" else ("GET", None)

    async def disturb(number: int) -> None:
        fields = {"note": f"note{number}"}
        record_of(await api.create(kept, name=f"name {number % 30:02d}", custom_object_fields=fields))
        if passing:
            url = f"/custom_objects/{kept}/records/{passing.pop(number % len(passing))}"
            if number % 2:
                await api.client.delete(url)
            else:
                changed = {"name": f"other {number}", "custom_object_fields": {"note": None}}
                await api.client.patch(url, json={"custom_object_record": changed})

    last: dict[str, Any] = {}
    for direction, following in (("page[after]", "after_cursor"), ("page[before]", "before_cursor")):
        seen: list[str] = []
        asked = query | ({direction: last["meta"]["before_cursor"]} if last else {})
        for number in range(100):
            page = (await api.client.request(method, path, params=asked, json=body)).json()
            seen += [record["id"] for record in page["custom_object_records"]]
            if (cursor := page["meta"][following]) is None:
                break
            asked[direction] = cursor
            await disturb(number)
        stood = [record_id for record_id in seen if record_id in standing]
        shown = {record["id"] for record in last["custom_object_records"]} if last else set()
        assert sorted(stood) == sorted(standing - shown)
        last = page
