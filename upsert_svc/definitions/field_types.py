"""The registry of field types: all that the service knows of each, in one entry.

What a value may be (docs/api.md, "Field types"), how a filter compares it, whether a search for words looks
into it, how a cell of CSV holds it, what it is called in messages. Numbers stay exact.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic_core import CoreSchema, core_schema

from upsert_svc.definitions import numbers, operands, patterns, times
from upsert_svc.definitions.operands import Operands, is_record_id

LookupBy = Literal["record_id", "external_id", "name"]
Cell = Literal["text", "integer", "decimal", "boolean", "list", "json"]  # see transfer/cells.py
CUSTOM_OBJECT_TARGET = "zen:custom_object:"


@dataclass(frozen=True)
class FieldDefinition:
    """What validating a value needs to know of a field."""

    key: str
    type: str
    required: bool = False
    active: bool = True
    regexp_for_validation: str | None = None
    options: tuple[str, ...] = ()
    relationship_target_type: str | None = None


@dataclass(frozen=True)
class FieldType:
    """One type of fields."""

    schema: Callable[[FieldDefinition], CoreSchema]  # of a value that is not null
    expected: Callable[[FieldDefinition], str]  # the end of a refusal that begins with the field's key
    cell: Cell  # how a cell of CSV holds a value
    operands: Operands | None = None  # of a filter; None where it takes no operator
    # where in a value, called by the field's key, that is refused which is; None where it is the value itself
    refused_places: Callable[[Any, str], Iterator[str]] | None = None
    is_searched: bool = False  # a search for words looks into it
    is_merged: bool = False  # a patch is merged into the value level by level
    has_pattern: bool = False  # a field has a regexp_for_validation
    has_options: bool = False  # a field has custom_field_options
    has_currency: bool = False  # a field has a currency among its properties
    has_target: bool = False  # a field has a relationship_target_type
    is_empty_a_value: bool = False  # an empty text or list fills a required field


def custom_object_of(target_type: str | None) -> str | None:
    """The key of the object of ours that a type names; None for any other type, and for none."""
    if target_type is None or not target_type.startswith(CUSTOM_OBJECT_TARGET):
        return None
    return target_type.removeprefix(CUSTOM_OBJECT_TARGET) or None


def lookup_identifier(value: str) -> tuple[LookupBy, str]:
    """How a lookup's value names its target, and by what: an id, `external_id:X` or `name:X`."""
    kind, colon, identifier = value.partition(":")
    if colon and kind == "external_id":
        return "external_id", identifier
    if colon and kind == "name":
        return "name", identifier
    return "record_id", value


def _matching(pattern: str) -> Callable[[str], str]:
    def validate(value: str) -> str:
        if not patterns.compiled(pattern).is_found_in(value.encode()):
            raise ValueError
        return value

    return validate


def _lookup(value: str) -> str:
    by, identifier = lookup_identifier(value)
    if not identifier or (by == "record_id" and not is_record_id(identifier)):
        raise ValueError
    return value


def _once_each(values: list[str]) -> list[str]:
    return list(dict.fromkeys(values))


_TEXT = core_schema.str_schema(strict=True)


def _after(validate: Callable[[Any], Any], schema: CoreSchema) -> CoreSchema:
    return core_schema.no_info_after_validator_function(validate, schema)


def _text_schema(_field: FieldDefinition) -> CoreSchema:
    return _TEXT


def _regexp_schema(field: FieldDefinition) -> CoreSchema:
    return _after(_matching(field.regexp_for_validation), _TEXT) if field.regexp_for_validation else _TEXT


def _checkbox_schema(_field: FieldDefinition) -> CoreSchema:
    return core_schema.bool_schema(strict=True)


def _date_schema(_field: FieldDefinition) -> CoreSchema:
    return _after(times.read_date, _TEXT)


def _integer_schema(_field: FieldDefinition) -> CoreSchema:
    digits = core_schema.int_schema(strict=True, gt=-numbers.INTEGER_LIMIT, lt=numbers.INTEGER_LIMIT)
    otherwise = core_schema.no_info_plain_validator_function(numbers.whole)
    return core_schema.union_schema([digits, otherwise], mode="left_to_right")


def _decimal_schema(_field: FieldDefinition) -> CoreSchema:
    return core_schema.no_info_plain_validator_function(numbers.decimal)


def _option_schema(field: FieldDefinition) -> CoreSchema:
    options = frozenset(field.options)  # of which a schema of literals would make texts of its own, slowly

    def validate(value: str) -> str:
        if value not in options:
            raise ValueError
        return value

    return _after(validate, _TEXT)


def _options_schema(field: FieldDefinition) -> CoreSchema:
    return _after(_once_each, core_schema.list_schema(_option_schema(field), strict=True, fail_fast=True))


def _lookup_schema(field: FieldDefinition) -> CoreSchema:
    return _after(_lookup, _TEXT) if custom_object_of(field.relationship_target_type) else _TEXT


def _json_schema(_field: FieldDefinition) -> CoreSchema:
    return core_schema.no_info_plain_validator_function(numbers.document)


def _expecting(words: str) -> Callable[[FieldDefinition], str]:
    return lambda _: words


def _text_of_pattern(field: FieldDefinition) -> str:
    pattern = field.regexp_for_validation
    return f"must be text that matches the pattern {pattern}" if pattern else "must be text"


_expecting_decimal = _expecting("must be a number below 10^15 with at most 15 decimals")

FIELD_TYPES: Mapping[str, FieldType] = {
    "text": FieldType(_text_schema, _expecting("must be text"), "text", operands.TEXT, is_searched=True),
    "textarea": FieldType(_text_schema, _expecting("must be text"), "text", operands.TEXT, is_searched=True),
    "regexp": FieldType(
        _regexp_schema, _text_of_pattern, "text", operands.TEXT, is_searched=True, has_pattern=True
    ),
    "checkbox": FieldType(_checkbox_schema, _expecting("must be true or false"), "boolean", operands.FLAG),
    "date": FieldType(_date_schema, _expecting("must be a date, YYYY-MM-DD"), "text", operands.DATE),
    "integer": FieldType(
        _integer_schema,
        _expecting("must be a whole number of at most 12 digits"),
        "integer",
        operands.NUMBER,
    ),
    "decimal": FieldType(
        _decimal_schema,
        _expecting_decimal,
        "decimal",
        operands.NUMBER,
    ),
    "dropdown": FieldType(
        _option_schema,
        _expecting("must be one of the field's option values"),
        "text",
        operands.WORD,
        has_options=True,
    ),
    "multiselect": FieldType(
        _options_schema,
        _expecting("must be a list of the field's option values"),
        "list",
        operands.OPTIONS,
        has_options=True,
    ),
    "lookup": FieldType(
        _lookup_schema,
        _expecting("must name a record of the target object by its id, or as external_id:… or name:…"),
        "text",
        operands.WORD,
        has_target=True,
    ),
    "json": FieldType(
        _json_schema,
        _expecting(
            "must be a number below 10^15 in size, of at most 17 significant digits, and 0 or at least 10^-30"
        ),
        "json",
        operands.ANYTHING,
        refused_places=numbers.refused_places,
        is_merged=True,
        is_empty_a_value=True,
    ),
    "currency": FieldType(
        _decimal_schema,
        _expecting_decimal,
        "decimal",
        operands.NUMBER,
        has_currency=True,
    ),
}


def types_that(has: Callable[[FieldType], bool]) -> list[str]:
    """The names of the types of which something holds."""
    return [name for name, field_type in FIELD_TYPES.items() if has(field_type)]
