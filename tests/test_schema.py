"""What the database itself refuses, from whoever writes: the rules that no second writer can break."""

import itertools
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncpg
import pytest

from tests.support.harness import Cluster
from upsert_svc import errors, paging
from upsert_svc.db import statements
from upsert_svc.db.pools import SERVICE_ROLE
from upsert_svc.definitions.field_types import FieldDefinition
from upsert_svc.records.rules import record_or_raise
from upsert_svc.records.values import Record
from upsert_svc.search import filters, page_query

_RECORD = """
insert into records (account_id, object_id, record_id, naming, number, name, external_id, fields,
                     definition_version, created_by_user_id, updated_by_user_id)
select account_id, object_id, $2, coalesce($3, naming), $4, $5, $6, coalesce($7, '{}')::jsonb, version, 1, 1
  from objects where key = $1"""


@pytest.fixture
async def database(cluster: Cluster) -> AsyncIterator[Any]:
    """A connection to a fresh database with one account and three objects: manual, unique, autonumbered."""
    connection = await asyncpg.connect(await cluster.new_database())
    await connection.execute("insert into accounts (name) values ('a')")
    for object_id, key in enumerate(("manual", "unique", "numbered"), start=1):
        await connection.execute(
            """insert into objects (account_id, object_id, key, title, title_pluralized, is_unique,
                      autoincrement_enabled, autoincrement_prefix, created_by_user_id, updated_by_user_id)
               values (1, $1, $2, 't', 't', $2 = 'unique', $2 = 'numbered', 'N-', 1, 1)""",
            object_id,
            key,
        )
    yield connection
    await connection.close()


async def _insert(
    database: Any,
    key: str,
    record_id: int,
    name: str,
    *,
    external_id: str | None = None,
    naming: str | None = None,
    number: int | None = None,
    fields: str | None = None,
) -> None:
    arguments = (key, f"{record_id:026d}", naming, number, name, external_id, fields)
    await database.execute(_RECORD, *arguments)


async def test_two_records_cannot_have_one_external_id(database: Any) -> None:
    await _insert(database, "manual", 1, "a", external_id="e")
    await _insert(database, "unique", 2, "a", external_id="e")
    with pytest.raises(asyncpg.UniqueViolationError, match="records_external_id_key"):
        await _insert(database, "manual", 3, "b", external_id="e")


async def test_two_records_cannot_have_one_unique_name_however_it_is_spelt(database: Any) -> None:
    await _insert(database, "unique", 1, "Straße")
    with pytest.raises(asyncpg.UniqueViolationError, match="records_name_key_key"):
        await _insert(database, "unique", 2, "STRASSE")
    for record_id in (3, 4):
        await _insert(database, "manual", record_id, "Straße")


async def test_the_fast_path_of_ascii_names_compares_them_by_the_same_rule(database: Any) -> None:
    names = [chr(code) * 2 for code in range(1, 128)] + ["", "MiXeD 09_~", "Straße", "É", "e\u0301", "ǅ"]
    differing = await database.fetch(
        """select name from unnest($1::text[]) as name
            where name_key(name) <> normalize(casefold(normalize(name, nfc) collate pg_unicode_fast), nfc)""",
        names,
    )
    assert differing == []


async def test_nobody_can_forge_what_a_unique_name_is_compared_by(database: Any) -> None:
    await _insert(database, "unique", 1, "Ford")
    with pytest.raises(asyncpg.GeneratedAlwaysError):
        await database.execute("update records set name_key = 'other'")


async def test_a_record_cannot_claim_naming_settings_that_its_object_does_not_have(database: Any) -> None:
    with pytest.raises(asyncpg.ForeignKeyViolationError, match="records_naming_fkey"):
        await _insert(database, "unique", 1, "Ford", naming="manual:0:1:")


@pytest.mark.parametrize(
    "change",
    [
        "is_unique = not is_unique",
        "autoincrement_enabled = not autoincrement_enabled",
        "autoincrement_prefix = 'x'",
        "autoincrement_padding = 3",
        "autoincrement_start = 5",
    ],
)
async def test_naming_settings_are_frozen_while_there_is_a_record(database: Any, change: str) -> None:
    statement = f"update objects set {change} where key = 'manual'"
    await _insert(database, "manual", 1, "a")
    await database.execute("update objects set title = 'still free' where key = 'manual'")
    with pytest.raises(asyncpg.ForeignKeyViolationError, match="records_naming_fkey"):
        await database.execute(statement)
    await database.execute("delete from records")
    await database.execute(statement)


@pytest.mark.parametrize(("name", "number"), [("N-8", 7), ("anything", 7), ("N-7", None), ("n-7", 7)])
async def test_an_autonumbered_name_is_made_of_its_number(
    database: Any, name: str, number: int | None
) -> None:
    await _insert(database, "numbered", 1, "N-1", number=1)
    with pytest.raises(asyncpg.CheckViolationError, match="records_number_check"):
        await _insert(database, "numbered", 2, name, number=number)


async def test_a_number_cannot_be_taken_twice_nor_where_names_are_typed(database: Any) -> None:
    await _insert(database, "numbered", 1, "N-1", number=1)
    with pytest.raises(asyncpg.UniqueViolationError, match="records_number_key"):
        await _insert(database, "numbered", 2, "N-1", number=1)
    with pytest.raises(asyncpg.CheckViolationError, match="records_number_check"):
        await _insert(database, "manual", 3, "N-1", number=1)


async def test_uniqueness_and_autonumbering_exclude_each_other(database: Any) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="objects_naming_check"):
        await database.execute("update objects set is_unique = true, autoincrement_enabled = true")


@pytest.mark.parametrize(
    "statement",
    [
        "drop table records",
        "alter table records drop constraint records_naming_fkey",
        "drop index records_name_key_key",
        "truncate records",
        "insert into tokens (account_id, token_id, user_id, token_hash, last_four) values (1, 1, 1, '', '')",
        "update users set role = 'admin'",
        "update accounts set name = 'x'",
        "create table mine (id integer)",
        "create or replace function name_key(text) returns text language sql return 'same'",
    ],
)
async def test_the_service_role_owns_nothing(database: Any, statement: str) -> None:
    await database.execute(f"set role {SERVICE_ROLE}")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await database.execute(statement)


async def test_every_constraint_is_answered_or_known_to_be_out_of_a_callers_reach(database: Any) -> None:
    rows = await database.fetch(
        """select conname as name from pg_constraint
            where connamespace = 'public'::regnamespace and contype in ('u', 'c', 'f')
            union select indexname from pg_indexes i
            where schemaname = 'public' and indexdef like 'CREATE UNIQUE%' and indexname not like '%_pkey'"""
    )
    guards = {
        "accounts_name_key", "users_account_id_email_key", "users_account_id_fkey", "users_email_check",
        "users_role_check", "tokens_token_hash_key", "tokens_token_hash_check", "tokens_user_id_fkey",
        "objects_account_id_fkey", "objects_naming_key", "objects_key_check", "objects_naming_check",
        "objects_autoincrement_prefix_check", "objects_autoincrement_padding_check",
        "objects_autoincrement_start_check", "objects_search_state_check",
        "fields_object_id_fkey", "fields_type_check", "fields_currency_check",
        "counters_object_id_fkey", "records_name_check", "records_external_id_check", "records_number_check",
        "records_number_key", "changes_kind_check",
        "idempotency_keys_account_id_fkey", "jobs_account_id_fkey", "jobs_job_id_check",
        "jobs_action_check", "jobs_progress_check", "jobs_status_check", "readiness_is_only_check",
    }  # fmt: skip
    assert {row["name"] for row in rows} == guards | set(errors.CONSTRAINTS)


@pytest.mark.parametrize(
    ("by", "index"),
    [
        ("external_id", "records_external_id_key"),
        ("name", "records_name_key_key"),
        ("record_id", "records_pkey"),
    ],
)
async def test_an_upsert_finds_its_record_by_an_index(database: Any, by: str, index: str) -> None:
    for record_id in range(1, 200):
        await _insert(database, "unique", record_id, f"name {record_id}", external_id=f"e{record_id}")
    identifier = {"external_id": "e7", "name": "NAME 7", "record_id": f"{7:026d}"}[by]
    lines = await _plans_within(
        database,
        """select * from unnest(write_records(1, $1, array[
               row(0, 2, 1, $2::text, 'x', null, null, '{}'::jsonb, 1,
                   null, null, null, null)::record_write]))""",
        by,
        identifier,
    )
    assert any(f"using {index} on records" in line for line in lines)
    # without statistics too, or a plan made for an empty table would read all of it when it has grown
    for line, condition in itertools.pairwise(lines):
        if re.search(r"Scan using \w+ on (records|objects) ", line):
            whole_key = r"record_id|external_id|name_key" if " on records " in line else r"object_id"
            assert re.search(whole_key, condition), f"{line}\n{condition}"


async def _plans_within(database: Any, statement: str, *arguments: object) -> list[str]:
    """The lines of the plans of what functions do while a statement is carried out."""
    plans: list[str] = []
    database.add_log_listener(lambda _, message: plans.append(message.message))
    for setting in (
        "plan_cache_mode = force_generic_plan",
        "enable_seqscan = off",
        "enable_hashjoin = off",
        "enable_mergejoin = off",
        "client_min_messages = log",
        "auto_explain.log_min_duration = 0",
        "auto_explain.log_nested_statements = on",
    ):
        await database.execute("load 'auto_explain'")
        await database.execute(f"set {setting}")
    await database.fetch(statement, *arguments)
    return "\n".join(plans).splitlines()


async def test_a_plain_patch_or_replacement_pays_for_no_document_strategy_or_condition(
    database: Any,
) -> None:
    await _insert(database, "manual", 1, "a", external_id="e", fields='{"x": 1}')
    await database.execute("set track_functions = 'all'")
    writing = """select outcome from unnest(write_records(1, 'external_id', array[
        row(0, 1, 1, $1::text, $2::text, 'n', null, '{"x": 2}'::jsonb, 1,
            $3, null, null, null)::record_write]))"""
    assert await database.fetchval(writing, "e", "x", None) == "updated"
    assert await database.fetchval(writing, "new", "y", None) == "created"
    spared = {
        "type_conflicts", "resulting_fields", "replaced_fields", "merge_patch", "entity_tag", "live_fields",
        "keep_documents", "search_document", "searched_text", "keep_lookups", "have_lookups_changed",
    }  # fmt: skip
    assert not spared & await _called(database)
    assert await database.fetchval(writing, "e", "z", "force") == "unchanged"
    assert not spared & await _called(database)
    assert await database.fetchval(writing, "e", "z", "replace") == "unchanged"
    assert "type_conflicts" in await _called(database)
    assert await database.fetchval(writing, "e", "z", "merge") == "unchanged"
    assert "resulting_fields" in await _called(database)
    await database.execute(
        "update objects set search_state = 'ready', searched_since = 1 where object_id = 1"
    )
    assert await database.fetchval(writing, "e", "z", None) == "unchanged"
    await database.execute("update records set fields = '{}' where external_id = 'e'")
    assert await database.fetchval(writing, "e", "z", None) == "updated"
    assert not {"keep_documents"} & await _called(database), "no word has changed"
    assert await database.fetchval(writing, "another", "w", None) == "created"
    assert {"keep_documents", "search_document"} <= await _called(database)


async def _called(database: Any) -> set[str]:
    """The functions that were called while calls were counted."""
    await database.execute("select pg_stat_force_next_flush()")
    await database.execute("select 1")
    return {row["funcname"] for row in await database.fetch("select funcname from pg_stat_user_functions")}


@pytest.mark.parametrize("name", ["show", "list"])
async def test_a_reading_finds_its_object_by_the_whole_key(database: Any, name: str) -> None:
    statement = _listing() if name == "list" else statements.load("records").show.text
    arguments = "1, 2, 101" if name == "list" else "'{1}', '{unique}', '{x}'"
    scans = await _scans(database, statement, arguments)
    assert {table for table, _ in scans} == {"objects", "records"}
    whole_keys = {
        "objects": "object_id = |key = ",
        "records": "record_id = " if name == "show" else "object_id = ",
    }
    assert all(re.search(whole_keys[table], condition) for table, condition in scans), scans


_SEARCHES = {"account_id": 1, "object_id": 2}


@pytest.mark.parametrize("has_statistics", [False, True])
@pytest.mark.parametrize(
    ("statement", "order", "filter_", "indexes"),
    [
        (statements.load("records").list(**_SEARCHES), page_query.BY_ID, None, {"records_pkey"}),
        (
            statements.load("records").list(**_SEARCHES),
            page_query.BY_ID,
            {"custom_object_fields.f": {"$eq": "x"}},
            {"records_pkey"},
        ),
        (
            statements.load("searches").find_relevant(**_SEARCHES, words=["x"], terms="'1.2.x':*"),
            page_query.RELEVANCE,
            None,
            {"search_documents_terms_idx", "records_pkey"},
        ),
        (
            statements.load("searches").scan_relevant(
                **_SEARCHES, words=["x"], name_terms="'1.2!x':*", rank=None, scan_limit=2000
            ),
            page_query.BY_ID,
            None,
            {"search_documents_terms_idx", "search_documents_pkey", "records_pkey"},
        ),
        (
            statements.load("searches").find(**_SEARCHES, terms="'1.2.x':*"),
            page_query.WORD_ORDERS["-updated_at"],
            None,
            {"search_documents_terms_idx", "records_pkey"},
        ),
        (
            statements.load("searches").scan_for_words(
                **_SEARCHES, words=["x"], patterns=["%x%"], best_rank=-101, worst_rank=-1, scan_limit=10000
            ),
            page_query.WORD_ORDERS["-updated_at"],
            None,
            {"records_pkey"},
        ),
        (
            statements.load("searches").scan_in_order(**_SEARCHES, terms="'1.2.x':*", scan_limit=10000),
            page_query.WORD_ORDERS["-updated_at"],
            None,
            {"search_documents_pkey", "records_pkey"},
        ),
        (
            statements.load("searches").find(**_SEARCHES, terms="'1.2~nam' & '1.2~ame'"),
            page_query.BY_ID,
            {"name": {"$contains": "name"}},
            {"search_documents_terms_idx", "records_pkey"},
        ),
        (
            statements.load("searches").scan(**_SEARCHES, scan_limit=2000),
            page_query.BY_ID,
            {"name": {"$contains": "name"}},
            {"records_pkey"},
        ),
        (
            statements.load("records").list_sources(**_SEARCHES, field_id=9, target_id="x"),
            page_query.BY_ID,
            None,
            {"lookup_values_target_idx", "records_pkey"},
        ),
    ],
    ids=[
        "list",
        "filtered list",
        "words",
        "words scanned",
        "words sorted",
        "words sorted without documents",
        "common words sorted",
        "a part of the name",
        "scan for a part of the name",
        "lookups the other way round",
    ],
)
async def test_a_page_is_found_by_an_index(
    database: Any,
    statement: tuple[object, ...],
    order: page_query.Order,
    filter_: Any,
    indexes: set[str],
    has_statistics: bool,
) -> None:
    if has_statistics:  # of many small objects, each of which another index would find soonest
        await database.execute(
            """insert into search_documents (account_id, object_id, version, record_id, terms)
               select 1, n % 100, 1, n::text, search_document(1, n % 100, 'name ' || n, 'x')
                 from generate_series(1, 1000) as n"""
        )
        await database.execute("analyze search_documents")
    fields = {"f": FieldDefinition("f", "text")}
    condition = filters.compile_filter(filter_, fields) if filter_ else None
    page = paging.Window(size=100, position=(-100, "x")[-len(order.columns) :])
    if order.name.endswith("updated_at"):
        page = paging.Window(size=100)
    text, *arguments = page_query.records_query(statement, order, page, condition=condition, version=1)
    settings = "plan_cache_mode = force_generic_plan", "enable_hashjoin = off", "enable_mergejoin = off"
    for setting in (*settings, "enable_seqscan = off"):
        await database.execute(f"set {setting}")
    plan = "\n".join(row[0] for row in await database.fetch(f"explain {text}", *arguments))
    used = re.findall(r"Index (?:Only )?Scan (?:Backward )?(?:using|on) (\w+)", plan)
    assert {index for index in used if not index.startswith("objects_")} == indexes, plan
    assert "Seq Scan" not in plan
    if indexes & {"search_documents_terms_idx", "lookup_values_target_idx"}:
        assert re.search(r"records_pkey.*\n.*record_id = ", plan), plan


_LOOKUP_WRITE = """select outcome from unnest(write_records(1, 'external_id', array[
    row(0, 1, 1, $1::text, $2::text, 'n', null, $3::jsonb, 1, null, null, null, null)::record_write]))"""


_WITH_LOOKUP = "update objects set lookup_fields = '{owner}', lookup_field_ids = '{9}' where object_id = 1"


async def test_only_a_lookup_that_changes_is_noted_anew(database: Any) -> None:
    await database.execute(_WITH_LOOKUP)
    await database.execute("set track_functions = 'all'")
    for record_id, sent, outcome, times in (
        ("x", '{"owner": "A", "x": 1}', "created", 1),
        ("y", '{"owner": "A", "x": 2}', "updated", 1),
        ("z", '{"owner": "A"}', "unchanged", 1),
        ("w", '{"owner": "B"}', "updated", 2),
        ("v", '{"owner": null}', "updated", 3),
    ):
        assert await database.fetchval(_LOOKUP_WRITE, "e", record_id, sent) == outcome
        assert "keep_lookups" in await _called(database)
        calls = "select calls from pg_stat_user_functions where funcname = 'keep_lookups'"
        assert await database.fetchval(calls) == times, sent
    assert await database.fetchval("select count(*) from lookup_values") == 0


async def test_an_update_of_a_record_with_lookups_stays_in_its_page(database: Any) -> None:
    await database.execute(_WITH_LOOKUP)
    await database.fetchval(_LOOKUP_WRITE, "e", "x", '{"owner": "A"}')
    async with database.transaction():
        for number in range(3):
            sent = f'{{"owner": "B{number}", "x": {number}}}'
            assert await database.fetchval(_LOOKUP_WRITE, "e", "y", sent) == "updated"
        in_page = "select pg_stat_get_xact_tuples_hot_updated('records'::regclass)"
        assert await database.fetchval(in_page) == 3
    assert await database.fetchval("select target_id from lookup_values") == "B2"


async def test_of_many_records_only_the_page_is_read_of_those_that_point_to_one(database: Any) -> None:
    await database.execute(
        """insert into records (account_id, object_id, record_id, naming, name, definition_version,
                                created_by_user_id, updated_by_user_id)
           select 1, 1, lpad(n::text, 26, '0'), (select naming from objects where object_id = 1), n, 1, 1, 1
             from generate_series(1, 20000) as n"""
    )
    # every other one points to the same, by one of two fields
    await database.execute(
        """insert into lookup_values (account_id, object_id, field_id, record_id, target_id)
           select 1, 1, 8 + n % 2, lpad(n::text, 26, '0'), case when n % 4 < 2 then 'common' else n::text end
             from generate_series(1, 20000) as n"""
    )
    await database.execute("analyze records, lookup_values")
    listing = statements.load("records").list_sources(
        account_id=1, object_id=1, field_id=9, target_id="common"
    )
    for position in (None, ("0" * 22 + "9000",)):
        window = paging.Window(size=100, position=position)
        text, *arguments = page_query.records_query(listing, page_query.BY_ID, window, byte_limit=2_000_000)
        for mode in ("force_generic_plan", "force_custom_plan"):
            await database.execute(f"set plan_cache_mode = {mode}")
            lines = [
                row[0] for row in await database.fetch(f"explain (analyze, timing off) {text}", *arguments)
            ]
            plan = "\n".join(lines)
            assert "Seq Scan" not in plan, plan
            (scan,) = [line for line in lines if "lookup_values_target_idx" in line]
            assert "rows=101.00" in scan, plan
            assert max(int(rows) for rows in re.findall(r"actual rows=(\d+)", plan)) <= 101, plan
            assert "Rows Removed" not in plan, plan


async def test_events_are_read_by_the_one_index_of_changes(database: Any) -> None:
    statement = statements.load("history").events
    scans = await _scans(database, statement.text, "1, 'unique', 'x', 10, false, 0, 101, 2000000")
    whole_keys = {
        "objects": "key = ",
        "records": "record_id = ",
        "changes": "transaction_id = .*record_id = .*version = ",
    }
    assert {table for table, _ in scans} == set(whole_keys)
    assert all(re.search(whole_keys[table], condition) for table, condition in scans), scans


async def test_an_export_is_read_by_the_one_index_of_changes(database: Any) -> None:
    calling = "select from export_page(1, 2, '3', '', 0, now(), false, 10000, 1000, 2000000)"
    scans = _scans_in(await _plans_within(database, calling))
    whole_keys = {
        "objects": "object_id = ",
        "records": "record_id = ",
        "tombstones": "record_id = ",
        "changes": r"ROW\(tra.*transaction_id <",
    }
    assert {table for table, _ in scans} == set(whole_keys)
    assert all(re.search(whole_keys[table], condition) for table, condition in scans), scans


async def test_the_next_job_in_turn_is_found_without_a_look_at_finished_ones(database: Any) -> None:
    for setting in ("plan_cache_mode = force_generic_plan", "enable_seqscan = off"):
        await database.execute(f"set {setting}")
    statement = statements.load("jobs").by_name["next_in_turn"]
    await database.execute(f"prepare turn as {statement.text}")
    plan = [row[0] for row in await database.fetch("explain execute turn(1, 'x', 1, '{1}', '{x}')")]
    used = [match[1] for line in plan if (match := re.search(r"Scan using (\w+)", line))]
    assert used.count("jobs_unfinished_idx") >= 3, plan
    assert set(used) <= {"jobs_unfinished_idx", "jobs_pkey"}  # the key finds the entry's own job
    assert not any("Sort" in line for line in plan), plan


async def test_where_an_export_begins_is_found_by_the_one_index_of_changes(database: Any) -> None:
    await database.execute(
        """insert into changes (account_id, object_id, transaction_id, changed_at, version, user_id, kind,
                                record_id, name)
           select 1, 2, (n + 3)::text::xid8, to_timestamp(n * 60), 1, 1, 'updated', n, 'n'
             from generate_series(1, 500) as n"""
    )
    calling = "select first_transaction_since(1, 2, to_timestamp(6000))"
    scans = _scans_in(await _plans_within(database, calling))
    assert {table for table, _ in scans} == {"changes"}
    assert all("object_id = 2" in condition or "object_id = $" in condition for _, condition in scans), scans
    assert await database.fetchval(calling + "::text") == "103"


def _listing() -> str:
    statement, *_ = page_query.records_query(
        statements.load("records").list(account_id=1, object_id=2),
        page_query.order_named("id"),
        paging.Window(),
    )
    return str(statement)


async def _scans(database: Any, statement: str, arguments: str) -> list[tuple[str, str]]:
    """The tables that a statement reads by an index, each with its condition."""
    for setting in ("plan_cache_mode = force_generic_plan", "enable_seqscan = off"):
        await database.execute(f"set {setting}")
    await database.execute(f"prepare reading as {statement}")
    return _scans_in([row[0] for row in await database.fetch(f"explain execute reading({arguments})")])


def _scans_in(plan: Sequence[str]) -> list[tuple[str, str]]:
    lines = itertools.pairwise(plan)
    found = ((re.search(r"Scan using \w+ on (\w+) ?", line), condition) for line, condition in lines)
    return [(match[1], condition) for match, condition in found if match]


def test_every_outcome_of_a_write_is_a_record_or_an_error() -> None:
    text = (statements.DIRECTORY / "schema.sql").read_text()
    listed = re.search(r"outcome +text, +-- (.*?)\n +invalid_fields", text, re.DOTALL)
    assert listed
    outcomes = set(re.findall(r"[a-z_]+", listed[1])) - {"stale"}  # which is tried again
    assert {"created", "missing", "too_large"} <= outcomes
    writing = (statements.DIRECTORY / "functions/writing.sql").read_text()
    assert set(re.findall(r"then '([a-z]+_[a-z_]+)'", writing)) <= outcomes
    row = {**dict.fromkeys(Record._fields), "invalid_fields": ["a"]}
    for outcome in sorted(outcomes):
        if outcome in ("created", "updated", "unchanged"):
            record_or_raise({**row, "outcome": outcome})
        else:
            with pytest.raises(errors.ServiceError):
                record_or_raise({**row, "outcome": outcome})
