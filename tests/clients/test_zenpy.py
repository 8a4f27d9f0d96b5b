"""zenpy: its job statuses and counts, and the exceptions that it makes of errors."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

pytestmark = pytest.mark.clients


@pytest.fixture
async def reported(story: Callable[[str], Awaitable[Any]]) -> Any:
    return await story("zenpy")


async def test_a_count_and_a_search_are_understood(reported: Any) -> None:
    assert reported.saw("count")["value"] == 5
    found = reported.saw("filter")["body"]["custom_object_records"]
    assert [record["name"] for record in found] == ["Opel"]


async def test_the_caller_is_its_own_user(reported: Any) -> None:
    user = reported.saw("users me")
    assert (user["email"], user["name"], user["role"]) == ("admin@example.com", "admin", "admin")
    assert (type(user["id"]), user["active"], user["verified"], user["tags"]) == (int, True, True, [])


async def test_a_missing_record_is_its_record_not_found_exception(reported: Any) -> None:
    kind, text = reported.raised("missing record")
    assert (kind, json.loads(text)) == (
        "RecordNotFoundException",
        {"error": "RecordNotFound", "description": "Not found"},
    )


async def test_a_filter_of_too_many_values_is_its_too_many_values_exception(reported: Any) -> None:
    kind, text = reported.raised("too many ids")
    assert (kind, json.loads(text)["max_count"]) == ("TooManyValuesException", 100)


@pytest.mark.parametrize(
    ("step", "key", "description"),
    [
        ("taken name", "base", "Name already exists. Try another one."),
        ("wrong value", "year", "year must be a whole number of at most 12 digits"),
        ("create object again", "key", "Key has already been taken"),
    ],
)
async def test_a_refused_value_is_its_api_exception_with_the_details(
    reported: Any, step: str, key: str, description: str
) -> None:
    kind, text = reported.raised(step)
    details = json.loads(text)["details"]
    assert (kind, [problem["description"] for problem in details[key]]) == ("APIException", [description])


async def test_jobs_are_listed_and_shown_by_their_ids(reported: Any) -> None:
    assert reported.saw("job by id") is True
    assert reported.saw("job listed") is True


async def test_it_waits_for_as_long_as_a_limit_says(reported: Any) -> None:
    assert reported.saw("limited") == [[200, "3"]] * 4  # more than are taken in a window


async def test_its_own_limiter_reads_how_many_requests_are_left(reported: Any) -> None:
    left = reported.saw("limited and careful")
    assert len(left) == 4
    assert all(0 <= number < 3 for number in left)
    assert max(left) > 0
