"""Row 21 of the upsert table and its neighbours: who waits for whom, and what each of them is answered."""

import asyncio

import pytest

from tests.races import scenarios
from tests.support.harness import PATCH, PUT, PUT_MERGE, Api, problems_of

Fields = dict[str, str | None]
KEPT: Fields = {"ours": "kept", "theirs": "kept"}
CLEARED: Fields = {"ours": "kept", "theirs": None}
NAME_TAKEN = {"base": ["Name already exists. Try another one."]}


@pytest.fixture(autouse=True, params=[PATCH, PUT_MERGE, PUT], ids=str)
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it holds whether a record is patched or replaced."""
    monkeypatch.setattr(Api, "way", request.param)


def expected(api: Api) -> Fields:
    """What is left of a peer's field by a write that does not send it."""
    return CLEARED if api.way is PUT else KEPT


async def test_of_two_creations_of_one_external_id_the_second_waits_and_updates(api: Api) -> None:
    seen, fields = await scenarios.two_creations_of_one_external_id(api)
    assert (seen.has_waited, seen.status, seen.outcome) == (True, 200, "updated")
    assert fields == [expected(api)]


async def test_when_the_first_creation_fails_the_second_creates(api: Api) -> None:
    seen, fields = await scenarios.two_creations_of_one_external_id(api, "rollback")
    assert (seen.has_waited, seen.outcome) == (True, "created")
    assert fields == [CLEARED]


async def test_two_updates_of_one_record_lose_no_attribute(api: Api) -> None:
    seen, fields = await scenarios.two_updates_of_one_record(api)
    assert (seen.has_waited, seen.outcome) == (True, "updated")
    assert fields == expected(api)


async def test_of_two_external_ids_with_one_unique_name_the_second_is_refused(api: Api) -> None:
    seen, count = await scenarios.one_name_under_two_external_ids(api)
    assert (seen.has_waited, count) == (True, 1)
    assert problems_of(seen.response) == NAME_TAKEN


async def test_a_unique_name_is_free_again_when_its_taker_fails(api: Api) -> None:
    seen, count = await scenarios.one_name_under_two_external_ids(api, "rollback")
    assert (seen.has_waited, seen.outcome, count) == (True, "created", 1)


async def test_an_update_to_a_name_being_taken_waits_and_is_refused(api: Api) -> None:
    seen, count = await scenarios.an_update_to_a_name_being_taken(api)
    assert (seen.has_waited, count) == (True, 2)
    assert problems_of(seen.response) == NAME_TAKEN


async def test_an_upsert_waits_for_a_deletion_and_creates_anew(api: Api) -> None:
    seen, is_same = await scenarios.an_upsert_against_a_deletion(api)
    assert (seen.has_waited, seen.outcome, is_same) == (True, "created", [False])


async def test_an_upsert_updates_the_record_that_was_not_deleted_after_all(api: Api) -> None:
    seen, is_same = await scenarios.an_upsert_against_a_deletion(api, "rollback")
    assert (seen.has_waited, seen.outcome, is_same) == (True, "updated", [True])


async def test_a_deletion_waits_for_an_upsert_and_deletes_what_it_wrote(api: Api) -> None:
    seen, count = await scenarios.a_deletion_against_an_upsert(api)
    assert (seen.has_waited, seen.status, count) == (True, 204, 0)


async def test_a_settings_change_waits_for_the_first_record_and_is_refused(api: Api) -> None:
    seen, is_unique = await scenarios.a_settings_change_against_the_first_record(api)
    assert (seen.has_waited, is_unique) == (True, False)
    assert list(problems_of(seen.response)) == ["properties"]


async def test_a_settings_change_goes_through_when_the_first_record_fails(api: Api) -> None:
    seen, is_unique = await scenarios.a_settings_change_against_the_first_record(api, "rollback")
    assert (seen.has_waited, seen.status, is_unique) == (True, 200, True)


async def test_the_first_record_waits_for_a_settings_change_and_obeys_it(api: Api) -> None:
    seen, names = await scenarios.the_first_record_against_a_settings_change(api)
    assert (seen.has_waited, seen.outcome, names) == (True, "created", ["1"])


async def test_a_write_validated_before_a_field_was_removed_is_validated_again(api: Api) -> None:
    seen, stored = await scenarios.a_field_removed_between_validation_and_write(api)
    assert (seen.has_waited, stored) == (True, [])
    assert list(problems_of(seen.response)) == ["ours"]


async def test_a_write_goes_through_when_the_removal_of_its_field_fails(api: Api) -> None:
    seen, stored = await scenarios.a_field_removed_between_validation_and_write(api, "rollback")
    assert (seen.has_waited, seen.outcome, stored) == (True, "created", [{"ours": "x"}])


@pytest.mark.parametrize(("end", "names"), [("commit", ["1", "2"]), ("rollback", ["1"])])
async def test_two_autonumbered_creations_take_one_number_each(api: Api, end: str, names: list[str]) -> None:
    seen, found = await scenarios.two_autonumbered_creations(api, end)
    assert (seen.has_waited, seen.outcome, found) == (True, "created", names)


async def test_a_race_for_one_external_id_burns_no_number(api: Api) -> None:
    seen, following = await scenarios.two_autonumbered_creations_of_one_external_id(api)
    assert (seen.has_waited, seen.outcome, following) == (True, "updated", "2")


async def test_twins_created_at_one_moment_burn_no_number(api: Api) -> None:
    key = await api.new_object(naming={"autoincrement_enabled": True})
    for turn in range(4):
        answers = await asyncio.gather(*(api.create(key, external_id=f"{turn}-{n // 2}") for n in range(16)))
        assert sorted(answer.status_code for answer in answers) == [201] * 8 + [422] * 8
    numbers = sorted(int(record["name"]) for record in await api.records(key))
    assert numbers == list(range(1, 33))


async def test_a_re_keying_peer_burns_no_number(api: Api) -> None:
    seen, numbers = await scenarios.a_re_keying_against_two_autonumbered_creations(api)
    assert (seen.has_waited, seen.status, numbers) == (True, 200, [1, 2])


async def test_an_update_that_waited_behind_a_later_one_is_the_last(api: Api) -> None:
    seen, is_later = await scenarios.an_update_behind_a_later_one(api)
    assert (seen.has_waited, seen.outcome, is_later) == (True, "updated", True)


async def test_of_sixteen_writers_with_one_tag_exactly_one_wins_each_round(api: Api) -> None:
    rounds = await scenarios.writers_with_one_tag(api, 20)
    assert rounds == [scenarios.Round([200] + [412] * 15, is_winners=True)] * 20


async def test_sixteen_writers_of_one_document_lose_no_key_of_it(api: Api) -> None:
    if api.way is PUT:
        pytest.skip("what is left out of it is meant to go")
    document, expected_document = await scenarios.writers_of_one_document(api, 10)
    assert document == expected_document
