"""node-zendesk: queries out of objects, pages by link, and the texts that it makes of errors."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

pytestmark = pytest.mark.clients


@pytest.fixture
async def reported(story: Callable[[str], Awaitable[Any]]) -> Any:
    return await story("node_zendesk")


async def test_fields_are_reordered(reported: Any) -> None:
    assert reported.saw("reorder fields") == [200, ["year", "color"]]


async def test_a_count_a_filter_and_an_autocompletion_are_understood(reported: Any) -> None:
    assert reported.saw("count")["body"]["count"]["value"] == 5
    found = reported.saw("filter")["body"]["custom_object_records"]
    assert [record["name"] for record in found] == ["Opel"]
    assert reported.saw("autocomplete") == ["Fiat"]


async def test_the_caller_is_its_own_user(reported: Any) -> None:
    answer = reported.saw("users me")
    user = answer["body"]
    assert (answer["status"], user["email"], user["role"]) == (200, "admin@example.com", "admin")
    assert (type(user["id"]), user["active"], user["verified"]) == (int, True, True)


async def test_a_missing_record_is_an_error_of_its_own_words(reported: Any) -> None:
    text = "Request processing failed: Zendesk Error (404): Item not found"
    assert reported.raised("missing record") == ("Error", text)


@pytest.mark.parametrize(
    ("step", "status", "error"),
    [
        ("missing record, frankly", 404, "RecordNotFound"),
        ("taken name, frankly", 422, "RecordInvalid"),
        ("no identifier, frankly", 400, "BadRequest"),
    ],
)
async def test_an_original_exception_carries_the_body(
    reported: Any, step: str, status: int, error: str
) -> None:
    assert reported.raised(step)[1].startswith(f"Zendesk Error ({status})")
    assert reported.steps[step]["statusCode"] == status
    assert reported.steps[step]["body"]["error"] == error


async def test_a_taken_name_is_told_in_the_words_that_clients_look_for(reported: Any) -> None:
    details = reported.steps["taken name, frankly"]["body"]["details"]
    assert details["base"][0]["description"] == "Name already exists. Try another one."


async def test_jobs_are_listed_and_shown_by_their_ids(reported: Any) -> None:
    assert reported.saw("job by id") is True
    assert reported.saw("job listed") is True


async def test_what_is_over_a_limit_is_an_error_of_its_own(reported: Any) -> None:
    refused = reported.saw("limited")
    assert refused
    for answer in refused:
        assert (answer["status"], answer["body"]) == (429, "Zendesk rate limits 200 requests per minute")
