import asyncio
from pathlib import Path

import asyncpg
import pytest
from harness import Cluster

from upsert_svc import migrations, sql


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
