import asyncio
from pathlib import Path

import asyncpg
import pytest
from harness import Api, Cluster, record_of, running

from upsert_svc import job_queue, migrations, sql


async def test_several_processes_migrate_a_database_once(cluster: Cluster) -> None:
    url = await cluster.new_database(empty=True)
    applied = await asyncio.gather(*(migrations.migrate(url) for _ in range(4)))
    assert sorted(map(len, applied)) == [0, 0, 0, len(migrations.steps())]


async def test_a_step_that_was_changed_after_it_was_applied_is_refused(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = await cluster.new_database()
    (step, *_) = migrations.steps()
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / step.name).write_text("select 1;")
    monkeypatch.setattr(sql, "DIRECTORY", tmp_path)
    with pytest.raises(migrations.MigrationError, match=step.stem):
        await migrations.migrate(url)


async def test_a_step_that_fails_leaves_nothing_behind(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = await cluster.new_database(empty=True)
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / "0001_bad.sql").write_text("create table half (id integer); select 1 / 0;")
    monkeypatch.setattr(sql, "DIRECTORY", tmp_path)
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
