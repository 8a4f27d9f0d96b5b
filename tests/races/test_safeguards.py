"""The races again, each with its safeguard removed: what test_races.py asserts must then come out wrong."""

from collections.abc import AsyncIterator

import pytest

from tests.races import scenarios
from tests.support.harness import Api, Cluster, running
from tests.support.mutations import mutate_sql
from upsert_svc.records import write_batching


@pytest.fixture
async def mutable(cluster: Cluster) -> AsyncIterator[Api]:
    """A service on a database of its own, whose schema the test may mutate."""
    async with running(await cluster.new_database(), batch_lock_timeout_seconds=30) as service:
        api = Api(service, await service.token())
        async with api.client:
            yield api


async def _execute(api: Api, statement: str) -> None:
    async with api.running.sql() as connection:
        await connection.execute(statement)


async def test_without_the_row_lock_and_the_count_an_acknowledged_attribute_is_lost(mutable: Api) -> None:
    await mutate_sql(mutable, "update_records", "for no key update of r", "")
    await mutate_sql(mutable, "update_records", "v_changed <> cardinality(v_changes)", "false")
    seen, fields = await scenarios.two_updates_of_one_record(mutable)
    assert (seen.outcome, fields["ours"]) == ("updated", None)


async def test_without_the_second_look_the_loser_of_a_creation_is_turned_away(
    mutable: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_batching, "is_definite", lambda _: False)  # nor a second try
    await mutate_sql(mutable, "write_records", "v_rounds > 10 + cardinality(p_writes)", "v_rounds > 0")
    seen, _ = await scenarios.two_creations_of_one_external_id(mutable)
    assert seen.status == 503


async def test_without_the_row_lock_and_the_count_an_update_of_a_deleted_record_is_acknowledged(
    mutable: Api,
) -> None:
    await mutate_sql(mutable, "update_records", "for no key update of r", "")
    await mutate_sql(mutable, "update_records", "v_changed <> cardinality(v_changes)", "false")
    seen, records = await scenarios.an_upsert_against_a_deletion(mutable)
    assert (seen.outcome, records) == ("updated", [])


async def test_without_the_unique_index_a_name_is_taken_twice(mutable: Api) -> None:
    await _execute(mutable, "drop index records_name_key_key")
    _, count = await scenarios.one_name_under_two_external_ids(mutable)
    assert count == 2


async def test_without_the_unique_index_an_update_takes_a_taken_name(mutable: Api) -> None:
    await _execute(mutable, "drop index records_name_key_key")
    seen, _ = await scenarios.an_update_to_a_name_being_taken(mutable)
    assert seen.status == 200


async def test_without_the_foreign_key_the_settings_change_under_a_record(mutable: Api) -> None:
    await _execute(mutable, "alter table records drop constraint records_naming_fkey")
    seen, is_unique = await scenarios.a_settings_change_against_the_first_record(mutable)
    assert (seen.status, is_unique) == (200, True)


async def test_without_the_version_check_a_removed_field_is_written(mutable: Api) -> None:
    await mutate_sql(mutable, "update_records", "o.version = w.definition_version and", "")
    await mutate_sql(mutable, "stale_results", "w.definition_version is distinct from", "0 =")
    seen, stored = await scenarios.a_field_removed_between_validation_and_write(mutable)
    assert (seen.status, stored) == (200, [{"ours": "x"}])


async def test_without_the_definition_lock_a_write_does_not_wait_for_a_change(mutable: Api) -> None:
    await mutate_sql(mutable, "write_records", "pg_advisory_xact_lock_shared(p_account_id, w.object_id)", "1")
    seen, _ = await scenarios.a_field_removed_between_validation_and_write(mutable)
    assert not seen.has_waited


async def test_without_the_counters_lock_and_the_index_a_number_is_taken_twice(mutable: Api) -> None:
    await _execute(mutable, "drop index records_number_key")
    await mutate_sql(mutable, "create_records", "for update;", ";")
    _, names = await scenarios.two_autonumbered_creations(mutable)
    assert names == ["1", "1"]
