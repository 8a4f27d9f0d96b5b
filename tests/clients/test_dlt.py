"""dlt: its paginators over listings and searches, what it detects by itself, and its declarative source."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

pytestmark = pytest.mark.clients
PAGES = [["Ford", "Opel"], ["Audi", "Fiat"], ["Seat"]]


@pytest.fixture
async def reported(story: Callable[[str], Awaitable[Any]]) -> Any:
    return await story("dlt")


async def test_a_listing_is_paged_by_cursor(reported: Any) -> None:
    assert reported.saw("pages by cursor") == PAGES


async def test_the_paging_is_detected_from_the_first_answer(reported: Any) -> None:
    assert reported.saw("pages as detected") == ["JSONLinkPaginator", PAGES]


async def test_the_declarative_source_reads_records_and_fields(reported: Any) -> None:
    assert reported.saw("pages of the source") == [
        ["Ford", "Opel", "Audi", "Fiat", "Seat"],
        ["color", "year"],
    ]


@pytest.mark.parametrize("where", ["query", "body"])
async def test_a_search_is_paged_by_a_cursor_in_the_query_and_in_the_body(reported: Any, where: str) -> None:
    assert reported.saw(f"search by cursor in the {where}") == [["Audi", "Fiat"], ["Seat"]]


async def test_errors_are_not_retried_and_keep_their_status(reported: Any) -> None:
    assert reported.saw("missing record") == {"error": "RecordNotFound", "description": "Not found"}
    assert reported.saw("taken name")["body"]["details"]["base"][0]["error"] == "DuplicateValue"
    for step, status in (("missing object, paged", "404"), ("wrong cursor, paged", "400")):
        kind, text = reported.raised(step)
        assert (kind, text[:3]) == ("HTTPError", status)


async def test_a_job_takes_a_hundred_items(reported: Any) -> None:
    done = reported.saw("job of a hundred")
    assert (done["status"], done["total"], len(done["results"])) == ("completed", 100, 100)
    assert [result["index"] for result in done["results"]] == list(range(100))
    # the five of the sync, the two of the first job, and these
    assert reported.saw("pages of a hundred") == [100, 7]


async def test_it_waits_for_as_long_as_a_limit_says(reported: Any) -> None:
    assert reported.saw("limited") == [[200, "3"]] * 4  # more than are taken in a window
