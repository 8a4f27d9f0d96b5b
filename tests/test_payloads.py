"""What a body says of an object, a field or a record: refusals and ignored names are small, and come soon."""

import time
from typing import Any

import pytest

from upsert_svc.api.responses import warning
from upsert_svc.errors import RecordInvalid
from upsert_svc.payloads import FieldBody, read, record_patch


@pytest.mark.parametrize(
    "attributes",
    [
        {"relationship_filter": {"all": [{"a": {}}] * 9_000}},
        {"relationship_filter": {"all": [{"a" * 100_000: [1] * 18_000}]}},
        {"relationship_filter": {f"key {number}": [] for number in range(9_000)}},
        {"relationship_filter": {"all": [{f"key {number}": {} for number in range(9_000)}]}},
        {"custom_field_options": [{}] * 9_000},
        {"custom_field_options": [{"value": "", "name": 5}] * 2_000},
        {"custom_field_options": [{"value": "x" * 100_000}, {"x" * 100_000: 1}]},
    ],
)
def test_thousands_of_faults_are_refused_soon_and_briefly(attributes: dict[str, Any]) -> None:
    started = time.process_time()
    with pytest.raises(RecordInvalid) as caught:
        read(FieldBody, attributes)
    assert time.process_time() - started < 0.25
    assert len(str(caught.value.body())) < 5_000


@pytest.mark.parametrize("value", [None, True, 1, "x", ["x"], []])
def test_a_filter_of_a_lookup_is_kept_as_it_is_sent(value: Any) -> None:
    condition = {"field": "f", "operator": "is", "value": value}
    body, _ = read(FieldBody, {"relationship_filter": {"any": [condition]}})
    assert body.relationship_filter == {"all": [], "any": [condition]}


@pytest.mark.parametrize("value", [{}, [1], 10**15, 1.5, [None]])
def test_a_condition_of_another_form_is_refused(value: Any) -> None:
    with pytest.raises(RecordInvalid):
        read(FieldBody, {"relationship_filter": {"all": [{"value": value}]}})


def test_of_many_ignored_names_as_many_are_kept_as_a_warning_can_tell() -> None:
    names = [f"{number}" * 100_000 if number < 10 else f"{number}" for number in range(17_000)]
    patch = record_patch({"custom_object_record": dict.fromkeys(names, 1)})
    assert sum(map(len, patch.ignored)) < 10_000
    assert warning(patch.ignored) == warning(names)
    few = dict.fromkeys("abc", 1)
    assert record_patch({"custom_object_record": few, "d": 1}).ignored == ("d", "a", "b", "c")
