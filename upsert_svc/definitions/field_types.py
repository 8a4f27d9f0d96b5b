"""Field types: what a value of each may be, and an object's fields compiled to one pydantic validator.

Refuses every value that is not of its field's JSON type (docs/api.md, "Field types"); numbers stay exact.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal

import orjson
import re2
from pydantic_core import CoreSchema, SchemaValidator, ValidationError, core_schema

from upsert_svc.errors import Problem, RecordInvalid

FIELD_TYPES = (
    "text",
    "textarea",
    "regexp",
    "checkbox",
    "date",
    "integer",
    "decimal",
    "dropdown",
    "multiselect",
    "lookup",
    "json",
)
LookupBy = Literal["record_id", "external_id", "name"]
OPTION_TYPES = ("dropdown", "multiselect")
PATTERN_LIMIT = 255
CUSTOM_OBJECT_TARGET = "zen:custom_object:"

# What a client may send among the fields because it sends the whole record; no field, so ignored.
STANDARD_ATTRIBUTES = frozenset(
    (
        "url",
        "id",
        "name",
        "external_id",
        "custom_object_key",
        "custom_object_fields",
        "photo",
        "created_at",
        "updated_at",
        "created_by_user_id",
        "updated_by_user_id",
    )
)

_INTEGER_LIMIT = 10**12
_DECIMAL_LIMIT = Decimal(10**15)
_DECIMAL_PLACES = 15
_DATE = re.compile(r"(\d{4}-\d{2}-\d{2})([Tt ].+)?", re.ASCII)
_RECORD_ID = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")


@dataclass(frozen=True)
class FieldDefinition:
    """What judging a value needs to know of a field."""

    key: str
    type: str
    required: bool = False
    active: bool = True
    regexp_for_validation: str | None = None
    options: tuple[str, ...] = ()
    relationship_target_type: str | None = None


def is_record_id(value: str) -> bool:
    """Whether the text has the form of a record's id, a ULID."""
    return _RECORD_ID.fullmatch(value) is not None


def lookup_identifier(value: str) -> tuple[LookupBy, str]:
    """How a lookup's value names its target, and by what: an id, `external_id:X` or `name:X`."""
    kind, colon, identifier = value.partition(":")
    if colon and kind == "external_id":
        return "external_id", identifier
    if colon and kind == "name":
        return "name", identifier
    return "record_id", value


def _pattern_options() -> Any:
    options = re2.Options()
    options.log_errors = False
    return options


def compile_pattern(pattern: str) -> Any:
    """A regexp field's pattern, to be matched against UTF-8. Raises ValueError for one not linear in time."""
    try:
        # bytes spare it the places of each character
        return re2.compile(pattern.encode(), options=_pattern_options())
    except re2.error as error:
        reason = error.args[0]
        raise ValueError(reason.decode("utf-8", "replace") if isinstance(reason, bytes) else reason) from None


def _date(value: str) -> str:
    if len(value) == 10 and value[4] == value[7] == "-":
        date.fromisoformat(value)
        return value
    match = _DATE.fullmatch(value)
    if match is None:
        raise ValueError
    day = date.fromisoformat(match[1])
    if match[2]:
        datetime.fromisoformat(value)
    return day.isoformat()


def _decimal(value: object) -> int | Decimal:
    if isinstance(value, bool) or not isinstance(value, (int, Decimal)):
        raise ValueError
    # compared without abs(), which rounds to 28 digits and overflows
    if not -_DECIMAL_LIMIT < value < _DECIMAL_LIMIT:
        raise ValueError
    if isinstance(value, Decimal):
        exponent = value.as_tuple().exponent
        if not isinstance(exponent, int) or exponent < -_DECIMAL_PLACES:
            raise ValueError
    return value


def _json(value: object) -> object:
    """Any JSON value; numbers anywhere in it are bounded as a decimal field's are."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
        elif isinstance(item, int | Decimal) and not isinstance(item, bool):
            _decimal(item)
    return value


def _lookup(value: str) -> str:
    by, identifier = lookup_identifier(value)
    if not identifier or (by == "record_id" and not is_record_id(identifier)):
        raise ValueError
    return value


def _matching(pattern: str) -> Callable[[str], str]:
    search = compile_pattern(pattern).search
    find = _set_of(pattern)

    def validate(value: str) -> str:
        text = value.encode()
        if not (find(text) or search(text)):  # out of memory, a set finds too little
            raise ValueError
        return value

    return validate


def _set_of(pattern: str) -> Callable[[bytes], Any]:
    """Finds as a search does, in a quarter of its time: it makes no match. Some patterns are too large."""
    alone = re2.Set.SearchSet(_pattern_options())
    alone.Add(pattern.encode())
    try:
        alone.Compile()
    except re2.error:
        return lambda _: None
    return alone.Match  # type: ignore[no-any-return]


def _not_blank(value: Any) -> Any:
    if value == [] or (isinstance(value, str) and not value.strip()):
        raise ValueError
    return value


_TEXT = core_schema.str_schema(strict=True)


def _schema(field: FieldDefinition) -> CoreSchema:
    """What a value of the field may be, when it is not null."""
    match field.type:
        case "regexp" if field.regexp_for_validation:
            return _after(_matching(field.regexp_for_validation), _TEXT)
        case "text" | "textarea" | "regexp":
            return _TEXT
        case "checkbox":
            return core_schema.bool_schema(strict=True)
        case "date":
            return _after(_date, _TEXT)
        case "integer":
            return core_schema.int_schema(strict=True, gt=-_INTEGER_LIMIT, lt=_INTEGER_LIMIT)
        case "decimal":
            return core_schema.no_info_plain_validator_function(_decimal)
        case "dropdown":
            return (
                core_schema.literal_schema(list(field.options))
                if field.options
                else _after(_no_option, _TEXT)
            )
        case "multiselect":
            option = _schema(replace(field, type="dropdown"))
            return _after(_once_each, core_schema.list_schema(option, strict=True))
        case "lookup":
            is_ours = (field.relationship_target_type or "").startswith(CUSTOM_OBJECT_TARGET)
            return _after(_lookup, _TEXT) if is_ours else _TEXT
        case "json":
            return core_schema.no_info_plain_validator_function(_json)
    raise AssertionError(f"no such field type: {field.type}")


def _nullable_schema(field: FieldDefinition) -> CoreSchema:
    schema = _schema(field)
    is_never_blank = field.required and field.type != "json"  # where an empty text is a value like any other
    return core_schema.nullable_schema(_after(_not_blank, schema) if is_never_blank else schema)


def _after(validate: Callable[[Any], Any], schema: CoreSchema) -> CoreSchema:
    return core_schema.no_info_after_validator_function(validate, schema)


def _once_each(values: list[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _no_option(_value: str) -> str:
    raise ValueError


def _expected(field: FieldDefinition) -> str:
    match field.type:
        case "regexp" if field.regexp_for_validation:
            return f"must be text that matches the pattern {field.regexp_for_validation}"
        case "text" | "textarea" | "regexp":
            return "must be text"
        case "checkbox":
            return "must be true or false"
        case "date":
            return "must be a date, YYYY-MM-DD"
        case "integer":
            return "must be a whole number of at most 12 digits"
        case "decimal":
            return "must be a number below 10^15 with at most 15 decimals"
        case "dropdown":
            return "must be one of the field's option values"
        case "multiselect":
            return "must be a list of the field's option values"
        case "json":
            return "must hold no numbers but such below 10^15 with at most 15 decimals"
    return "must name a record of the target object by its id, or as external_id:… or name:…"


class FieldValidator:
    """The fields of one object as a pydantic validator of partial values.

    It is built of pydantic's core schemas: by way of annotations that takes sixteen times as long, and an
    account may have thousands of objects.
    """

    def __init__(self, fields: Iterable[FieldDefinition]) -> None:
        self.fields: Mapping[str, FieldDefinition] = {field.key: field for field in fields}
        shape = {
            field.key: core_schema.typed_dict_field(_nullable_schema(field), required=False)
            for field in self.fields.values()
            if field.active
        }
        self._validator = SchemaValidator(core_schema.typed_dict_schema(shape, extra_behavior="forbid"))

    def ignorable(self, values: Mapping[str, Any]) -> list[str]:
        """The standard attributes among the values that no field is called by."""
        return [key for key in values if key in STANDARD_ATTRIBUTES and key not in self.fields]

    def validate(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values as they are stored, null where one is to be cleared.

        Raises RecordInvalid with every value that breaks a rule of its field, and every unknown key.
        """
        try:
            validated: dict[str, Any] = self._validator.validate_python(values)
            return validated
        except ValidationError as error:
            keys = dict.fromkeys(str(item["loc"][0]) for item in error.errors(include_url=False))
            raise RecordInvalid({key: [self._problem(key, values.get(key))] for key in keys}) from None

    def _problem(self, key: str, value: object) -> Problem:
        field = self.fields.get(key)
        if field is None:
            return Problem(f"{key} is not a field of this object", "UnknownField")
        if not field.active:
            return Problem(f"{key} is inactive", "InactiveField")
        if field.required and (value == [] or (isinstance(value, str) and not value.strip())):
            return Problem(f"{key} cannot be blank", "BlankValue")
        return Problem(f"{key} {_expected(field)}")


def _exactly(value: object) -> orjson.Fragment:
    if isinstance(value, Decimal):
        return orjson.Fragment(format(value, "f"))
    raise TypeError


def dumped(values: Mapping[str, Any]) -> str:
    """Judged values as JSON text, decimals digit by digit."""
    return orjson.dumps(values, default=_exactly, option=orjson.OPT_PASSTHROUGH_SUBCLASS).decode()
