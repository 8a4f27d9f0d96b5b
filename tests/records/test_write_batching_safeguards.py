"""The batches again, each with its safeguard removed: what test_write_batching.py asserts then goes wrong."""

from collections.abc import AsyncIterator

import pytest

from tests.support import batches
from tests.support.batches import UNANSWERED, batching_service
from tests.support.harness import Api, Cluster
from tests.support.mutations import mutate, mutate_sql
from upsert_svc.records import record_store, write_batching


@pytest.fixture
async def mutable(cluster: Cluster) -> AsyncIterator[Api]:
    """A service with one batch connection on a database of its own, whose schema the test may mutate."""
    async with batching_service(cluster) as api:
        yield api


@pytest.fixture
def in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement that fails is not sent again in pieces."""
    monkeypatch.setattr(write_batching, "is_definite", lambda _: False)


@pytest.mark.usefixtures("in_one_piece")
async def test_without_verdicts_a_refused_write_fails_its_neighbours(mutable: Api) -> None:
    await mutate_sql(
        mutable, "create_records", "m.name is null and not m.autoincrement_enabled then", "false then"
    )
    assert await batches.refused_rows(mutable) == dict.fromkeys(
        ("ok", "taken", "blank", "nameless", "twin"), 500
    )


async def test_without_verdicts_the_pieces_still_keep_the_neighbours_whole(mutable: Api) -> None:
    await mutate_sql(
        mutable, "create_records", "m.name is null and not m.autoincrement_enabled then", "false then"
    )
    seen = await batches.refused_rows(mutable)
    assert sorted([seen.pop("ok"), seen.pop("twin")]) == [200, 422]  # they are no longer in one statement
    assert seen == {"taken": 422, "blank": 422, "nameless": 500}


@pytest.mark.usefixtures("in_one_piece")
async def test_without_the_pieces_one_row_fails_its_whole_batch(mutable: Api) -> None:
    assert await batches.a_row_that_fails_the_statement(mutable) == ([500] * 10, 500)


@pytest.mark.usefixtures("in_one_piece")
async def test_without_the_pieces_a_peer_costs_the_whole_batch_its_writes(mutable: Api) -> None:
    statuses, _ = await batches.a_peer_of_a_numbered_batch(mutable)
    assert statuses == [503, 503]


@pytest.mark.usefixtures("in_one_piece")
async def test_without_the_pieces_a_deadlock_costs_the_whole_batch_its_writes(mutable: Api) -> None:
    seen = await batches.a_deadlock_with_a_stranger(mutable, victim="batch")
    assert seen.statuses == [503, 503, 503]
    assert seen.fields == [{"a": None, "b": None, "c": 1}] * 2


async def test_without_a_translation_a_lost_connection_is_a_500(
    mutable: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_batching, "translated", lambda _: None)
    assert await batches.a_connection_lost_under_way(mutable) == (500, None, 200)


async def test_without_a_look_at_the_connection_the_next_write_is_lost_too(
    mutable: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_batching, "is_open", lambda _: True)
    assert await batches.a_connection_lost_under_way(mutable) == (503, "1", 503)


async def test_a_batch_written_again_after_a_lost_answer_undoes_what_a_stranger_wrote(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_batching, "is_definite", lambda _: True)
    seen = await batches.an_answer_lost_after_the_commit(cluster)
    assert (seen.statuses, seen.a) == ([200, 200], 1)


async def test_without_a_bound_on_its_lock_a_record_holds_up_the_batch_connection(cluster: Cluster) -> None:
    async with batching_service(cluster, batch_lock_timeout_seconds=30) as api:
        assert await batches.neighbours_of_a_locked_record(api) == ([UNANSWERED] * 10, True)


async def test_without_a_look_at_who_has_left_a_write_is_made_for_nobody(
    mutable: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch, write_batching._Waiting, "is_in_time", "not self.row.done()", "True")
    outcome, found = await batches.a_caller_who_leaves_the_queue(mutable)
    assert (outcome, found) == ("created", {"stays", "leaves"})


async def test_without_a_look_at_who_has_left_a_neighbour_under_way_fails(
    mutable: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch, write_batching._Waiting, "settle", "if not self.row.done():", "if True:")
    outcome, names = await batches.a_caller_who_leaves_under_way(mutable)
    assert isinstance(outcome, Exception)
    assert names == {"leaves": "n", "stays": "n"}  # written, and its caller was not answered


async def test_without_the_version_check_a_batch_writes_a_removed_field(mutable: Api) -> None:
    await mutate_sql(mutable, "update_records", "o.version = w.definition_version and", "")
    await mutate_sql(mutable, "stale_results", "w.definition_version is distinct from", "0 =")
    statuses, stored = await batches.a_field_removed_while_the_batch_waits(mutable)
    assert statuses == {"removed": 200, "neighbour": 200, "bystander": 200}
    assert {"gone": "x"} in stored


async def test_without_a_second_validation_a_stale_batch_is_turned_away(
    mutable: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_store, "DEFINITION_ATTEMPTS", 1)
    statuses, stored = await batches.a_field_removed_while_the_batch_waits(mutable)
    assert statuses == {"removed": 503, "neighbour": 503, "bystander": 200}
    assert stored == []


async def test_without_their_positions_edits_of_a_standing_record_lose_their_order(mutable: Api) -> None:
    order = "order by w.object_id, found_id, w.position"
    await mutate_sql(mutable, "update_records", order, f"{order} desc")
    await mutate_sql(mutable, "first_per_identifier", "order by w.position", "order by w.position desc")
    seen, last = await batches.opposite_edits_in_one_batch(mutable, stands=True)
    assert seen != batches.in_order()
    assert last != batches.in_order()[-1]


async def test_without_their_positions_the_last_edit_of_a_new_record_makes_it(mutable: Api) -> None:
    await mutate_sql(mutable, "first_per_identifier", "order by w.position", "order by w.position desc")
    seen, _ = await batches.opposite_edits_in_one_batch(mutable, stands=False)
    assert seen != batches.in_order()


async def test_without_groups_edits_that_are_retried_individually_overtake_each_other(
    mutable: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = "groups[item.write.object_id, item.write.identifier]"
    alone = "groups[item.write.object_id, item.write.record_id]"
    mutate(monkeypatch, write_batching._Batch, "by_identifier", group, alone)
    seen, last = await batches.opposite_edits_retried_individually(mutable)
    assert seen != batches.in_order()
    assert last != batches.in_order()[-1]


async def test_without_a_look_for_the_record_the_second_update_by_id_does_not_find_it(mutable: Api) -> None:
    await mutate_sql(mutable, "create_records", "p_by = 'none'\n", "p_by in ('none', 'record_id')\n")
    statuses, fields = await batches.updates_by_id_in_one_batch(mutable)
    assert sorted(statuses) == [200, 200, 404]
    assert list(fields.values()).count(None) == 1


async def test_without_its_share_one_account_fills_the_whole_queue(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch, write_batching._Room, "require", "writes >= self._writes // 2", "False")
    seen = await batches.a_queue_filled_by_two_accounts(cluster)
    assert seen.first == [200] * 7
    assert sorted(seen.second) == [200] * 3 + [503] * 4


async def test_without_a_limit_the_queue_takes_everything(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = 'raise ServiceUnavailable("Too many writes are waiting")'
    mutate(monkeypatch, write_batching._Room, "require", refusal, "pass")
    seen = await batches.a_queue_filled_by_two_accounts(cluster)
    assert {*seen.first, *seen.second, *seen.third} == {200}


async def test_without_a_word_at_the_end_who_waits_at_a_stop_waits_for_ever(
    mutable: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch, write_batching.WriteBatcher, "stop", "in self._queue.drain()", "in ()")
    assert await batches.a_stop_with_waiting_callers(mutable) == (503, [UNANSWERED] * 3)


async def test_without_a_word_to_those_under_way_they_wait_for_ever_after_a_stop(
    mutable: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch, write_batching.WriteBatcher, "_send", "batch.fail(_stopping())", "pass")
    assert await batches.a_stop_with_waiting_callers(mutable) == (UNANSWERED, [503] * 3)


async def test_without_a_word_to_those_retried_individually_they_wait_for_ever_after_a_stop(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch, write_batching.WriteBatcher, "stop", "(*retried, ", "(*(), ")
    async with batching_service(cluster, batch_lock_timeout_seconds=0.3) as api:
        assert await batches.a_stop_with_callers_retried_individually(api) == [UNANSWERED] * 3


async def test_without_turns_of_the_accounts_a_thousand_writes_come_before_one(
    mutable: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = "self._turns[account_id, by] = objects"
    mutate(
        monkeypatch,
        write_batching._Queue,
        "_take",
        turn,
        f"{turn}; self._turns.move_to_end((account_id, by), last=False)",
    )
    assert (await batches.a_thousand_before_one(mutable)).before_another_account > 900


async def test_without_turns_of_the_objects_a_thousand_writes_come_before_one(
    mutable: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = "objects[source] = queue"
    mutate(monkeypatch, write_batching, "_in_turn", turn, f"{turn}; objects.move_to_end(source, last=False)")
    assert (await batches.a_thousand_before_one(mutable)).before_another_object > 900
