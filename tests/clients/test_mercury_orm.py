"""mercury-orm: models to objects and fields, records to instances, its searches and bulk jobs."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

pytestmark = pytest.mark.clients
FIELD_TYPES = {
    "color": "dropdown",
    "extras": "multiselect",
    "year": "integer",
    "price": "decimal",
    "electric": "checkbox",
    "sold": "date",
    "plate": "regexp",
    "notes": "textarea",
    "garage": "lookup",
}


@pytest.fixture
async def reported(story: Callable[[str], Awaitable[Any]]) -> Any:
    return await story("mercury_orm")


def results_of(jobs: list[dict[str, Any]]) -> list[tuple[Any, Any]]:
    """Of the one job that a bulk action made, once completed: status and success of each item."""
    (job,) = jobs
    assert job["status"] == "completed", job
    return [(result["status"], result["success"]) for result in job["results"]]


async def test_a_model_becomes_an_object_with_its_fields(reported: Any) -> None:
    assert (reported.saw("create object"), reported.saw("create object again")) == (True, False)
    fields = reported.saw("fields")
    assert {field["key"]: field["type"] for field in fields} == FIELD_TYPES
    by_key = {field["key"]: field for field in fields}
    options = [(option["value"], option["name"]) for option in by_key["color"]["custom_field_options"]]
    assert options == [("dark_red", "Dark red"), ("blue", "Blue")]
    assert by_key["plate"]["regexp_for_validation"] == "^[A-Z]{1,3}-[0-9]+$"
    assert by_key["garage"]["relationship_target_type"] == "zen:custom_object:garage"


async def test_a_field_that_is_there_is_refused_at_its_key(reported: Any) -> None:
    refused = reported.saw("create field again")
    assert (refused["status_code"], list(refused["details"])) == (422, ["key"])


async def test_an_autonumbered_model_saves_without_a_name(reported: Any) -> None:
    assert reported.saw("create autonumbered object") is None
    assert reported.saw("create autonumbered record")["name"] == "G-001"


async def test_an_instance_saves_all_its_fields_and_reads_them_back(reported: Any) -> None:
    created = reported.saw("create record")
    assert (created["name"], created["external_id"]) == ("Ford", "v-1")
    assert created["custom_object_fields"] == {
        "color": "dark_red",
        "extras": ["radio"],
        "year": 2026,
        "price": 19.5,
        "electric": False,
        "sold": "2026-02-03",
        "plate": "G-1",
        "notes": None,
        "garage": reported.saw("create autonumbered record")["id"],
    }
    shown = reported.saw("get by id")
    assert shown == reported.saw("get by value")
    assert (shown["id"], shown["external_id"]) == (created["id"], "v-1")


async def test_saving_again_changes_the_record_and_clears_what_is_none(reported: Any) -> None:
    fields = reported.saw("save changed")["custom_object_fields"]
    assert (fields["color"], fields["year"], fields["plate"]) == ("blue", None, "G-1")
    assert reported.saw("save changed")["id"] == reported.saw("create record")["id"]


async def test_a_taken_name_is_its_unique_constraint_error(reported: Any) -> None:
    kind, text = reported.raised("taken name")
    assert kind == "UniqueConstraintError"
    assert "FORD" in text


@pytest.mark.parametrize(
    ("step", "kind", "field"),
    [
        ("taken external_id", "CreateRecordError", "external_id"),
        ("wrong value", "UpdateRecordError", "garage"),
    ],
)
async def test_other_refusals_carry_the_details(reported: Any, step: str, kind: str, field: str) -> None:
    raised, text = reported.raised(step)
    assert raised == kind
    assert f"'{field}': [{{'description': '" in text


async def test_records_are_listed_paged_and_filtered(reported: Any) -> None:
    names = ["Ford", "Opel 0", "Opel 1", "Opel 2", "Opel 3"]
    assert reported.saw("all") == names
    assert reported.saw("list in pages") == [names[:2], names[2:4], names[4:]]
    assert reported.saw("filter in memory") == ["Opel 2"]
    assert reported.saw("last") == "Opel 3"


async def test_records_are_found_by_filters(reported: Any) -> None:
    assert reported.saw("find") == ["Ford"]
    assert reported.saw("find in pages") == [["Opel 1", "Opel 2"], ["Opel 3"]]


async def test_records_are_searched_by_words(reported: Any) -> None:
    assert reported.saw("search") == ["Opel 0", "Opel 1", "Opel 2", "Opel 3"]
    assert reported.saw("search in pages") == [2, 2]


async def test_bulk_jobs_create_update_and_upsert(reported: Any) -> None:
    assert results_of(reported.saw("bulk create")) == [("Created", True)] * 3
    assert reported.saw("bulk created") == [["Bulk 0", 0], ["Bulk 1", 1], ["Bulk 2", 2]]
    assert results_of(reported.saw("bulk update")) == [("Updated", True)]
    assert [success for _, success in results_of(reported.saw("bulk upsert by external_id"))] == [True, True]
    assert [success for _, success in results_of(reported.saw("bulk upsert by name"))] == [True]
    assert reported.saw("bulk upserted") == [
        ["Bulk 0", 100],
        ["Bulk 1", 101],
        ["Bulk 9", None],
        ["bulk 2", 102],
    ]


async def test_a_bulk_job_with_a_taken_name_completes_and_tells_which(reported: Any) -> None:
    assert results_of(reported.saw("bulk create taken")) == [("Failed", False), ("Created", True)]


async def test_bulk_jobs_delete(reported: Any) -> None:
    assert results_of(reported.saw("bulk delete")) == [("Deleted", True)]
    assert results_of(reported.saw("bulk delete by external_id")) == [("Deleted", True)] * 2
    assert reported.saw("bulk deleted") == [["bulk 2", 102]]


async def test_records_are_deleted_and_then_missing(reported: Any) -> None:
    steps = ("delete", "delete itself", "delete by the name of its class")
    assert [reported.saw(step) for step in steps] == [{"status_code": 204}] * 3
    assert reported.saw("count") == 5  # three Opels, a Seat and a "bulk 2"
    kind, text = reported.raised("get missing")
    assert kind == "RetryError"  # it asks again for whatever is missing, thrice
    assert "too many 404 error responses" in text


async def test_it_waits_for_as_long_as_a_limit_says(reported: Any) -> None:
    assert reported.saw("limited") == [reported.saw("count")] * 4  # more than are taken in a window
