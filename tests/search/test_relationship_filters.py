"""Conditions narrow what is offered and refuse nothing: none becomes a filter that a search refuses."""

from decimal import Decimal
from typing import Any

import pytest

from upsert_svc.definitions.field_types import FIELD_TYPES, FieldDefinition
from upsert_svc.search.filters import STANDARD, Arguments, compile_filter
from upsert_svc.search.relationship_filters import RelationshipFilter

FIELDS = {
    name: FieldDefinition(
        name, name, relationship_target_type="zen:custom_object:car" if kind.has_target else None
    )
    for name, kind in FIELD_TYPES.items()
}
POSITIVE = ("is", "present", "includes", "includes_string", "matches")
COMPARING = ("less_than", "less_than_equal", "greater_than", "greater_than_equal")
DAYS = ("within_previous_n_days", "within_next_n_days")
OPERATORS = (*POSITIVE, *(f"not_{name}" for name in POSITIVE), "is_not", *COMPARING, *DAYS)
VALUES: tuple[Any, ...] = (
    None, "", "red", 1, "1", True, Decimal("1.5"), Decimal("1e9999"), -5, "9" * 300, "0000-00-00",
    "2026-02-03", "2026-02-03T09:10:11Z", "external_id:", "NAME", [], {}, ["red", 1, None], [[1]], {"red": 1},
)  # fmt: skip


@pytest.mark.parametrize("name", [*FIELDS, *STANDARD])
def test_no_operator_with_no_value_is_refused_for_any_field(name: str) -> None:
    for operator in OPERATORS:
        for value in VALUES:
            conditions = {"all": [{"field": name, "operator": operator, "value": value}]}
            filter_ = RelationshipFilter(conditions, {"NAME": "2"}).over(FIELDS)
            if filter_ is not None:
                compile_filter(filter_, FIELDS, 1)(Arguments())


@pytest.mark.parametrize("operator", DAYS)
def test_days_are_counted_for_dates_and_times_alone(operator: str) -> None:
    def is_passed_over(name: str) -> bool:
        conditions = {"any": [{"field": name, "operator": operator, "value": 3}]}
        return RelationshipFilter(conditions, {}).over(FIELDS) is None

    assert [name for name in (*FIELDS, *STANDARD) if not is_passed_over(name)] == [
        "date",
        "created_at",
        "updated_at",
    ]
