"""The validation of field values: what each type takes, how it is kept, what the refusal says."""

import time
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upsert_svc import json_body
from upsert_svc.definitions import patterns
from upsert_svc.definitions.field_types import FIELD_TYPES, FieldDefinition, lookup_identifier
from upsert_svc.definitions.validator import FieldValidator, dumped
from upsert_svc.errors import RecordInvalid

ULID = "01HZXW3V5K8Y7QF2N4R6T8B0CD"


def validator(field_type: str, *, required: bool = False, active: bool = True, **more: Any) -> FieldValidator:
    return FieldValidator([FieldDefinition("f", field_type, required=required, active=active, **more)])


def refusal(validate: FieldValidator, values: dict[str, Any]) -> dict[str, list[tuple[str, str]]]:
    with pytest.raises(RecordInvalid) as caught:
        validate.validate(values)
    details = caught.value.details or {}
    return {
        key: [(problem.description, problem.error) for problem in found] for key, found in details.items()
    }


@pytest.mark.parametrize(
    ("field_type", "value", "kept"),
    [
        ("text", "", ""),
        ("text", "  Ford\n", "  Ford\n"),
        ("textarea", "a\nb", "a\nb"),
        ("checkbox", True, True),
        ("checkbox", False, False),
        ("date", "2024-02-29", "2024-02-29"),
        ("date", "2024-02-29T10:00:00Z", "2024-02-29"),
        ("date", "2024-02-29 10:00:00+02:00", "2024-02-29"),
        ("date", "9999-12-31", "9999-12-31"),
        ("integer", 999_999_999_999, 999_999_999_999),
        ("integer", -999_999_999_999, -999_999_999_999),
        ("integer", Decimal("2026.0"), 2026),
        ("integer", Decimal("2.026E+3"), 2026),
        ("integer", Decimal("-0.0"), 0),
        ("decimal", 5, 5),
        ("decimal", Decimal("0.1"), Decimal("0.1")),
        ("decimal", Decimal("1E-15"), Decimal("1E-15")),
        ("decimal", Decimal("999999999999999.999999999999999"), Decimal("999999999999999.999999999999999")),
        ("decimal", Decimal("-999999999999999.999999999999999"), Decimal("-999999999999999.999999999999999")),
    ],
)
def test_a_value_of_its_type_is_kept(field_type: str, value: Any, kept: Any) -> None:
    assert validator(field_type).validate({"f": value}) == {"f": kept}


@pytest.mark.parametrize(
    ("field_type", "values", "expected"),
    [
        ("text", [1, True, ["a"], {"a": 1}, Decimal("1.0")], "must be text"),
        ("textarea", [1, False, []], "must be text"),
        ("checkbox", ["true", "", 0, 1, Decimal("1.0"), []], "must be true or false"),
        (
            "date",
            [
                20240229, "2024-02-30", "2023-02-29", "0000-00-00", "0000-01-01", "2024-2-3", "2024-02-03x",
                "2024-02-03T25:00:00Z", "2024-02-03T", "٢٠٢٤-٠٢-٠٣", "2024-W05", "20240203", "",
            ],
            "must be a date, YYYY-MM-DD",
        ),
        (
            "integer",
            [
                10**12, -(10**12), 10**300, "1", True, Decimal("1.5"), Decimal("1E+400"), Decimal("1E+12"),
                "", [],
            ],
            "must be a whole number of at most 12 digits",
        ),
        (
            "decimal",
            [
                10**15, -(10**15), Decimal("1E+15"), Decimal("1E+400"), Decimal("1E+1000000"), True, [],
                Decimal("-1E+1000000"), Decimal("1E-16"), Decimal("0.1234567890123456"), "0.1",
            ],
            "must be a number below 10^15 with at most 15 decimals",
        ),
    ],
)  # fmt: skip
def test_a_value_of_another_form_is_refused(field_type: str, values: list[Any], expected: str) -> None:
    for value in values:
        assert refusal(validator(field_type), {"f": value}) == {"f": [(f"f {expected}", "InvalidValue")]}, (
            value
        )


@pytest.mark.parametrize("field_type", FIELD_TYPES)
def test_null_clears_a_field_of_any_type(field_type: str) -> None:
    assert validator(field_type, regexp_for_validation="^a").validate({"f": None}) == {"f": None}


def test_a_dropdown_takes_one_of_its_options_exactly() -> None:
    validate = validator("dropdown", options=("red", "1"))
    assert validate.validate({"f": "red"}) == {"f": "red"}
    for value in ("Red", "blue", "", 1, ["red"], {"red": 1}, True):
        assert refusal(validate, {"f": value}) == {
            "f": [("f must be one of the field's option values", "InvalidValue")]
        }


def test_a_multiselect_takes_a_list_of_its_options_once_each() -> None:
    validate = validator("multiselect", options=("a", "b"))
    assert validate.validate({"f": ["b", "a", "b"]}) == {"f": ["b", "a"]}
    assert validate.validate({"f": []}) == {"f": []}
    for value in ("a", ["c"], [None], [["a"]], {"a": 1}, ["a", 1]):
        assert refusal(validate, {"f": value}) == {
            "f": [("f must be a list of the field's option values", "InvalidValue")]
        }


@pytest.mark.parametrize("field_type", ["dropdown", "multiselect"])
def test_a_field_without_options_takes_no_value(field_type: str) -> None:
    refusal(validator(field_type), {"f": "a" if field_type == "dropdown" else ["a"]})


def test_a_lookup_of_custom_objects_takes_a_record_id_or_the_name_of_an_identifier() -> None:
    validate = validator("lookup", relationship_target_type="zen:custom_object:car")
    for value in (ULID, "external_id:x", "external_id: ", "name:a:b", "name:name:"):
        assert validate.validate({"f": value}) == {"f": value}
    for wrong in (ULID.lower(), ULID[:-1], ULID + "0", ULID + "\n", 7, "", "external_id:", "name:", "id:x"):
        refusal(validate, {"f": wrong})


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (ULID, ("record_id", ULID)),
        ("external_id:v:1", ("external_id", "v:1")),
        ("name:external_id:x", ("name", "external_id:x")),
        ("Name:x", ("record_id", "Name:x")),
    ],
)
def test_a_lookup_names_its_target_by_one_identifier(value: str, found: tuple[str, str]) -> None:
    assert lookup_identifier(value) == found


def test_a_lookup_of_what_is_not_kept_here_takes_any_text() -> None:
    assert validator("lookup", relationship_target_type="zen:ticket").validate({"f": "35436"}) == {
        "f": "35436"
    }


def test_a_regexp_is_searched_in_linear_time() -> None:
    validate = validator("regexp", regexp_for_validation="^(a+)+$")
    started = time.perf_counter()
    refusal(validate, {"f": "a" * 30_000 + "!"})
    assert time.perf_counter() - started < 1
    assert validate.validate({"f": "aaa"}) == {"f": "aaa"}


@pytest.mark.parametrize(
    ("pattern", "found", "missing"),
    [
        ("b+", "abc", "ac"),  # anywhere
        ("^b", "bc", "a\nb"),
        ("é$", "caf\u00e9", "caf\u00e9\n"),
        ("^$|^ $", " ", "  "),
        (r"^\pL{50}$", "é" * 50, "é" * 49),  # too large for a set
    ],
)
def test_a_regexp_is_looked_for_anywhere_in_the_value(pattern: str, found: str, missing: str) -> None:
    validate = validator("regexp", regexp_for_validation=pattern)
    assert validate.validate({"f": found}) == {"f": found}
    refusal(validate, {"f": missing})


@pytest.mark.parametrize("pattern", ["(", "a{1000000}", "(?=a)", "\\", "*a", "((a{100}){100}){100}"])
def test_a_pattern_that_cannot_be_matched_in_linear_time_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"^(?!b')."):
        patterns.require_bounded(pattern)


@pytest.mark.parametrize("value", ["", "   ", []])
def test_a_required_field_is_not_set_to_nothing(value: Any) -> None:
    validate = validator("multiselect" if value == [] else "text", required=True, options=("a",))
    assert refusal(validate, {"f": value}) == {"f": [("f cannot be blank", "BlankValue")]}


def test_false_and_zero_are_values_of_a_required_field() -> None:
    assert validator("checkbox", required=True).validate({"f": False}) == {"f": False}
    assert validator("integer", required=True).validate({"f": 0}) == {"f": 0}


def test_an_inactive_field_is_not_written() -> None:
    assert refusal(validator("text", active=False), {"f": "a"}) == {"f": [("f is inactive", "InactiveField")]}


def test_an_unknown_key_is_refused_by_name_with_every_other_problem() -> None:
    assert refusal(validator("integer"), {"f": "x", "wheels": 4, "": 1}) == {
        "f": [("f must be a whole number of at most 12 digits", "InvalidValue")],
        "wheels": [("wheels is not a field of this object", "UnknownField")],
        "": [(" is not a field of this object", "UnknownField")],
    }


def test_a_standard_attribute_is_ignorable_unless_a_field_is_called_so() -> None:
    validate = FieldValidator([FieldDefinition("name", "text")])
    assert validate.ignorable({"name": "a", "external_id": "b", "color": "red"}) == ["external_id"]


@pytest.mark.parametrize(
    "key", ["_a", "__proto__", "__class__", "__pydantic_config__", "model_config", "class", "a1"]
)
def test_a_field_may_be_called_by_any_word(key: str) -> None:
    validate = FieldValidator([FieldDefinition(key, "text")])
    assert validate.validate({key: "x"}) == {key: "x"}


@given(st.decimals(min_value=-(10**15) + 1, max_value=10**15 - 1, places=15, allow_nan=False))
def test_a_decimal_is_kept_digit_by_digit(number: Decimal) -> None:
    text = dumped(validator("decimal").validate({"f": number}))
    assert json_body.parse(text.encode())["f"] == number


def refused_places(value: str) -> list[str]:
    """Where a document is refused, as its refusal names the places; they are told once, in their order."""
    try:
        validator("json").validate({"f": json_body.parse(value.encode())})
    except RecordInvalid as error:
        return [
            problem.description.partition(" must be a number")[0] for problem in (error.details or {})["f"]
        ]
    return []


@pytest.mark.parametrize(
    ("value", "places"),
    [
        ("1e15", ["f"]),
        ('{"score": 0.12345678901234567890}', ["f.score"]),
        ('{"a": {"b": [1, {"deep": 1e-31}]}}', ["f.a.b[1].deep"]),
        ('[[1e400], {"": 12345678901234567890, "ok": 1e-16}, 5, -1e15]', ["f[0][0]", "f[1].", "f[3]"]),
    ],
)
def test_each_number_that_a_document_may_not_have_is_named_by_its_place(
    value: str, places: list[str]
) -> None:
    assert refused_places(value) == places


def test_a_place_is_told_in_short_and_of_very_many_the_first() -> None:
    started = time.perf_counter()
    long = "k" * 100_000
    told = refused_places(f'{{"{long}": [{",".join(["1e15"] * 19_000)}]}}')
    assert time.perf_counter() - started < 1
    assert len(told) == 20
    assert all(len(place) <= 200 for place in told)


@given(st.floats(min_value=-999999999999999, max_value=999999999999999))
def test_a_document_takes_every_double_of_ordinary_size_and_keeps_its_value(number: float) -> None:
    text = repr(number)
    if abs(number) < 1e-30:
        assert refused_places(text) == ([] if number == 0 else ["f"])
        return
    value = json_body.parse(text.encode())
    kept = dumped(validator("json").validate({"f": {"a": [value]}}))
    assert json_body.parse(kept.encode()) == {"f": {"a": [value]}}
    assert float(kept.removeprefix('{"f":{"a":[').removesuffix("]}}")) == number


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_a_number_of_a_document_is_never_dumped_longer_than_it_may_be(number: Decimal) -> None:
    try:
        validated = validator("json").validate({"f": number})
    except RecordInvalid:
        return
    assert len(dumped(validated)) <= len('{"f":-0.}') + 30 + 17


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_a_decimal_is_never_dumped_longer_than_its_field_allows(number: Decimal) -> None:
    try:
        validated = validator("decimal").validate({"f": number})
    except RecordInvalid:
        return
    assert len(dumped(validated)) <= len('{"f":-.}') + 15 + 15
