"""A database is made at once or brought there step by step, and ends as the same one."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.support.harness import Api, Cluster, record_of, running
from upsert_svc import migrations
from upsert_svc.db import statements
from upsert_svc.jobs import job_queue

_CATALOG = """
select 'column' as kind, c.relname || '.' || a.attname as name,
       concat_ws(' ', format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attgenerated, a.attidentity,
                 a.attacl,
                 pg_get_expr(d.adbin, d.adrelid),
                 -- rows of a type are made by place
                 case when c.relkind = 'c' then a.attnum end) as definition
  from pg_attribute a join pg_class c on c.oid = a.attrelid
  left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
 where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'c')
   and a.attnum > 0 and not a.attisdropped
union all
select 'constraint', conrelid::regclass || '.' || conname, pg_get_constraintdef(oid) from pg_constraint
 where connamespace = 'public'::regnamespace
union all
select 'index', indexname, indexdef from pg_indexes where schemaname = 'public'
union all
select 'function', oid::regprocedure::text, concat_ws(' ', pg_get_functiondef(oid), proacl) from pg_proc
 where pronamespace = 'public'::regnamespace
union all
select 'view', viewname, definition from pg_views where schemaname = 'public'
union all
select 'table', relname, concat_ws(' ', reloptions, coalesce(relacl, acldefault('r', relowner))) from pg_class
 where relnamespace = 'public'::regnamespace and relkind in ('r', 'v')
union all
select 'applied', name, digest from schema_migrations
order by 1, 2"""
NEW = {"schema", *(f"functions/{file.stem}" for file in migrations.functions())}


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder of the SQL that a test may change."""
    copy = tmp_path / "sql"
    shutil.copytree(statements.DIRECTORY, copy)
    monkeypatch.setattr(statements, "DIRECTORY", copy)
    return copy


async def step_by_step(url: str, steps: list[Path]) -> None:
    """Makes a database as the versions before this one did, by the steps that there were."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(migrations._CREATE_LEDGER)
        for step in steps:
            assert await migrations._apply_step(connection, step)
    finally:
        await connection.close()


async def catalog(url: str) -> list[Any]:
    connection = await asyncpg.connect(url)
    try:
        rows: list[Any] = await connection.fetch(_CATALOG)
        return rows
    finally:
        await connection.close()


@pytest.mark.parametrize("count", [1, 9, len(migrations.steps())])
async def test_a_database_of_an_earlier_version_becomes_as_a_new_one(cluster: Cluster, count: int) -> None:
    new, upgraded = await cluster.new_database(), await cluster.new_database(empty=True)
    steps = migrations.steps()
    await step_by_step(upgraded, steps[:count])
    applied = await migrations.migrate(upgraded)
    assert set(applied) == {step.stem for step in steps[count:]} | NEW - {"schema"}
    assert await catalog(upgraded) == await catalog(new)


async def test_several_processes_migrate_a_database_once(cluster: Cluster) -> None:
    url = await cluster.new_database(empty=True)
    applied = await asyncio.gather(*(migrations.migrate(url) for _ in range(4)))
    assert sorted(map(len, applied)) == [0, 0, 0, len(NEW)]


async def test_functions_are_applied_again_when_their_file_has_changed(
    cluster: Cluster, directory: Path
) -> None:
    url = await cluster.new_database()
    file = directory / "functions" / "values.sql"
    file.write_text(file.read_text().replace("return interval '30 days'", "return interval '31 days'"))
    assert await migrations.migrate(url) == ["functions/values"]
    assert await migrations.migrate(url) == []
    connection = await asyncpg.connect(url)
    assert (await connection.fetchval("select tombstone_retention()")).days == 31
    await connection.close()


async def test_a_step_that_was_changed_after_it_was_applied_is_refused(
    cluster: Cluster, directory: Path
) -> None:
    url = await cluster.new_database()
    (step, *_) = migrations.steps()
    step.write_text("select 1;")
    with pytest.raises(migrations.MigrationError, match=step.stem):
        await migrations.migrate(url)


async def test_a_database_of_a_later_version_is_refused_and_its_steps_are_named(cluster: Cluster) -> None:
    url = await cluster.new_database()
    connection = await asyncpg.connect(url)
    await connection.execute("insert into schema_migrations (name, digest) values ('9998_later', 'x')")
    with pytest.raises(migrations.MigrationError, match=r"later version.*9998_later"):
        await migrations.migrate(url)
    await connection.close()


async def test_what_is_said_to_be_restored_begins_another_life(
    cluster: Cluster,
) -> None:
    url = await cluster.new_database()
    connection = await asyncpg.connect(url)
    life = "select secret from service_keys where name = 'life'"
    assert await connection.fetchval(life) is None
    await migrations.migrate(url, is_restored=True)
    first = await connection.fetchval(life)
    await migrations.migrate(url)
    assert await connection.fetchval(life) == first
    await migrations.migrate(url, is_restored=True)
    assert await connection.fetchval(life) != first
    await connection.close()


async def test_a_step_that_fails_leaves_nothing_behind(cluster: Cluster, directory: Path) -> None:
    url = await cluster.new_database()
    before = await catalog(url)
    (directory / "migrations" / "9999_bad.sql").write_text("create table half (id integer); select 1 / 0;")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrations.migrate(url)
    assert await catalog(url) == before


async def test_a_schema_that_fails_leaves_nothing_behind(cluster: Cluster, directory: Path) -> None:
    url = await cluster.new_database(empty=True)
    (directory / "schema.sql").write_text("create table half (id integer); select 1 / 0;")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrations.migrate(url)
    connection = await asyncpg.connect(url)
    assert await connection.fetchval("select count(*) from pg_tables where schemaname = 'public'") == 0
    await connection.close()


async def test_the_changes_of_a_dump_count_as_older_than_what_its_new_cluster_writes(
    cluster: Cluster,
) -> None:
    url = await cluster.new_database()
    async with running(url) as service:
        api = Api(service, await service.token())
        async with api.client, service.sql() as connection:
            key = await api.new_object({"key": "n", "type": "integer"})
            for number in range(3):
                record = record_of(
                    await api.upsert(
                        key, {"custom_object_fields": {"n": number}, "name": "a"}, external_id="v1"
                    )
                )
            path = f"/custom_objects/{key}/records/{record['id']}/events"
            events = (await api.client.get(path)).json()
            # as if they came from a cluster that has seen many more transactions
            await connection.execute(
                """update changes
                      set transaction_id = (transaction_id::text::bigint + 1000000000)::text::xid8,
                          previous_transaction_id
                              = (previous_transaction_id::text::bigint + 1000000000)::text::xid8;
                   update records set changed_in = (changed_in::text::bigint + 1000000000)::text::xid8"""
            )
            export = f"/incremental/custom_objects/{key}/cursor"
            await api.create(key, name="unseen")
            assert (await api.client.get(path)).json() == events
            await migrations.migrate(url)
            assert (await api.client.get(path)).json() == events
            page = (await api.client.get(export, params={"start_time": 0})).json()
            assert [item["name"] for item in page["custom_object_records"]] == ["a", "unseen"]
            await api.create(key, name="later")
            page = (await api.client.get(export, params={"cursor": page["after_cursor"]})).json()
            assert [item["name"] for item in page["custom_object_records"]] == ["later"]


async def test_lookups_of_records_that_stand_are_found_the_other_way_round(cluster: Cluster) -> None:
    url = await cluster.new_database()
    async with running(url) as service:
        api = Api(service, await service.token())
        async with api.client, service.sql() as connection:
            people = await api.new_object()
            owner = {"type": "lookup", "relationship_target_type": f"zen:custom_object:{people}"}
            cars = await api.new_object({"key": "owner", **owner}, {"key": "gone", **owner})
            ann = record_of(await api.create(people, name="Ann"))["id"]
            pointing = {"owner": ann, "gone": ann}
            made = [
                record_of(await api.create(cars, name="C", custom_object_fields=fields))["id"]
                for fields in (pointing, {"owner": ann}, {}, pointing)
            ]
            await api.client.delete(f"/custom_objects/{cars}/fields/gone")
            await api.new_field(cars, key="gone", **owner)
            columns = "account_id, object_id, field_id, record_id, target_id"
            kept = f"""select {columns} from lookup_values join fields using (account_id, object_id, field_id)
                        order by field_id, record_id"""
            defined = "select object_id, lookup_fields, lookup_field_ids from objects order by object_id"
            before = await connection.fetch(kept), await connection.fetch(defined)
            # as the version before left it
            await connection.execute(
                """drop table lookup_values;
                   alter table objects drop column lookup_fields, drop column lookup_field_ids;
                   delete from schema_migrations where name = '0014_lookup_values'"""
            )
            assert await migrations.migrate(url) == ["0014_lookup_values"]
            assert (await connection.fetch(kept), await connection.fetch(defined)) == before
            assert await connection.fetchval("select count(*) from lookup_values") == len(before[0]) == 3
            root = f"/zen:custom_object:{people}/{ann}/relationship_fields"
            for field, expected in (("owner", [made[0], made[1], made[3]]), ("gone", [])):
                page = (await api.client.get(f"{root}/{field}/zen:custom_object:{cars}")).json()
                assert [record["id"] for record in page["custom_object_records"]] == expected


async def test_a_queue_that_another_version_of_the_library_made_is_upgraded(cluster: Cluster) -> None:
    url = await cluster.new_database()
    connection = await asyncpg.connect(url)
    await connection.execute("alter table pgqueuer.queue drop column attempts, drop column slot")
    await asyncio.gather(*(migrations.migrate(url) for _ in range(3)))
    assert (await job_queue.queries(connection).plan_upgrade()).statements == ()
    await connection.execute("set role upsert_svc")
    await job_queue.put(connection, [job_queue.Entry(1, "x"), job_queue.Entry(1, "x")])
    assert await connection.fetchval("select count(*) from pgqueuer.queue") == 1
    await connection.close()


async def test_a_database_that_had_no_jobs_gets_their_queue(cluster: Cluster) -> None:
    url = await cluster.new_database()
    connection = await asyncpg.connect(url)
    await connection.execute("drop schema pgqueuer cascade; drop table jobs")
    await connection.execute("delete from schema_migrations where name = '0008_jobs'")
    assert await migrations.migrate(url) == ["0008_jobs"]
    await connection.execute("set role upsert_svc")
    await job_queue.put(connection, [job_queue.Entry(1, "x")])
    await connection.close()
