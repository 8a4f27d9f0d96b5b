"""Each type of field: what defines a field of it, values that it takes, and values that it refuses.

Values are JSON text, for the tests' own JSON would round the numbers.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_ULID = "01HZXW3V5K8Y7QF2N4R6T8B0CD"
_NESTED = r'[1, [true, {"": "\t"}], null, {"a": null}]'


def options(*values: str) -> list[dict[str, str]]:
    """The options of a dropdown or multiselect, each named as its value, but with a capital."""
    return [{"name": value.capitalize(), "value": value} for value in values]


@dataclass(frozen=True)
class FieldType:
    """A type, with the good values that differ from what is read in pairs: as sent, as read."""

    good: Sequence[str | tuple[str, str]]
    bad: Sequence[str]
    more: Mapping[str, Any] = field(default_factory=dict)  # what a field of the type needs

    def pairs(self) -> list[tuple[str, str]]:
        """The good values, as sent and as read."""
        return [(value, value) if isinstance(value, str) else value for value in self.good]


EVERY_TYPE: Mapping[str, FieldType] = {
    "text": FieldType(
        good=['""', ('"<b>\\"é😀\\" \\\\ \u200f"', json.dumps('<b>"é😀" \\ \u200f'))],
        bad=["1", "true", '["a"]', '{"a": 1}', "1.0"],
    ),
    "textarea": FieldType(good=[r'"a\n\tb"', '"c"'], bad=["0", "[]"]),
    "regexp": FieldType(
        good=['"aaa"', '"a"'], bad=['"b"', '""', "1"], more={"regexp_for_validation": "^(a+)+$"}
    ),
    "checkbox": FieldType(good=["true", "false"], bad=['"true"', "0", "1", '""']),
    "date": FieldType(
        good=[
            '"2024-02-29"', ('"2024-02-29T23:59:59+05:00"', '"2024-02-29"'), '"9999-12-31"',
            ('"2024-02-29t23:59:60z"', '"2024-02-29"'),
            ('"2024-02-29 00:00:00.123456789 +0530"', '"2024-02-29"'),
        ],
        bad=[
            '"2024-02-30"', '"0000-00-00"', '"2024-1-1"', "20240101", '""', '"2024-01-01T24:61"',
            '"20240101"', '"2024-W05-1"', '"2024-01-01T24:00:00Z"', '"2024-01-01T12:00:60Z"',
            '"2024-01-01T091011Z"',
        ],
    ),
    "integer": FieldType(
        good=[
            "999999999999", "-999999999999", ("-0", "0"), ("2026.0", "2026"), ("2.026e3", "2026"),
            ("-9.99999999999E11", "-999999999999"), ("-0.0", "0"), ("0e999999", "0"), ("202600e-2", "2026"),
        ],
        bad=[
            "1000000000000", "9223372036854775808", "1e12", '"5"', "true", "1e400", "[1]", "2026.5", "1e-3",
            "1e999999999", "1e-999999999", '"2026.0"',
        ],
    ),
    "decimal": FieldType(
        good=[
            "0.1", "1.50", "12345678901234.123456789012345", "-999999999999999.999999999999999",
            ("1e-15", "0.000000000000001"), ("1e14", "100000000000000"), "7",
        ],
        bad=["1e15", "1e400", "-1e400", "1e-16", "1e9999999", '"0.1"', "0.1234567890123456", "true"],
    ),
    "dropdown": FieldType(
        good=['"1"', '"red"'],
        bad=['"blue"', '"Red"', '""', "1", '["red"]'],
        more={"custom_field_options": options("red", "1")},
    ),
    "multiselect": FieldType(
        good=[('["1", "red", "1"]', '["1","red"]'), "[]"],
        bad=['"red"', '["blue"]', "[null]", "[1]", '[["red"]]', "{}"],
        more={"custom_field_options": options("red", "1")},
    ),
    "json": FieldType(
        good=[
            '"x"', "[]", "0.10", _NESTED, "0.9999999999999999", "-123456789012345.67", "999999999999999",
            ("1e-16", "0.0000000000000001"), ("1E+2", "100"), ("-0", "0"), ("0e-999999", "0"),
            ("0E+999999", "0"),
            ("1.2345678901234567e-30", f"0.{'0' * 29}12345678901234567"), (f"1.5{'0' * 200}", "1.5"),
            ('[{"a": 12' + "0" * 20 + "e-10}]", '[{"a":120000000000}]'),
        ],
        bad=[
            "1e15", '{"a": [1e400]}', "[[0.123456789012345678]]", '{"a": {"b": -1e15}}',
            "12345678901234567890", "1e-31", "9.9e-31", "[1234567890.12345678]", "-1e-999999",
            "[999999999999999.99999]",
        ],
    ),
    "currency": FieldType(
        good=["0.1", "1.50", "-999999999999999.999999999999999", ("1e3", "1000"), "7"],
        bad=["1e15", "1e-16", '"0.1"', '"USD 5"', "true", '{"amount": 1}'],
        more={"properties": {"currency": "EUR"}},
    ),
    # what it names is made by whoever has a target
    "lookup": FieldType(
        good=[],
        bad=[f'"{_ULID}"', '"x"', '""', "5", f'["{_ULID}"]'],
        more={"relationship_target_type": "zen:custom_object:not_made"},
    ),
}  # fmt: skip


def definitions(types: Iterable[str] = EVERY_TYPE, **more: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A field of each of these types, called by it; `more` is what one of them has instead."""
    return [{"key": name, "type": name, **EVERY_TYPE[name].more, **more.get(name, {})} for name in types]
