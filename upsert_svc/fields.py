"""Field types: what a value of each may be, and an object's fields compiled to one pydantic validator.

Refuses every value that is not of its field's JSON type (docs/api.md, "Field types"); numbers stay exact.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

import orjson
import re2
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    TypeAdapter,
    ValidationError,
)
from typing_extensions import TypedDict

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
)
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


def compile_pattern(pattern: str) -> Any:
    """A regexp field's pattern, to be matched against UTF-8. Raises ValueError for one not linear in time."""
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern.encode(), options=options)  # bytes spare it the places of each character
    except re2.error as error:
        reason = error.args[0]
        raise ValueError(reason.decode("utf-8", "replace") if isinstance(reason, bytes) else reason) from None


def _date(value: str) -> str:
    match = _DATE.fullmatch(value)
    if match is None:
        raise ValueError
    day = date.fromisoformat(match[1])
    if match[2]:
        datetime.fromisoformat(value)
    return day.isoformat()


def _decimal(value: object) -> int | Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ValueError
    number = Decimal(value)
    exponent = number.as_tuple().exponent
    # compared without abs(), which rounds to 28 digits and overflows
    if not -_DECIMAL_LIMIT < number < _DECIMAL_LIMIT:
        raise ValueError
    if not isinstance(exponent, int) or exponent < -_DECIMAL_PLACES:
        raise ValueError
    return value


def _record_id(value: str) -> str:
    if not is_record_id(value):
        raise ValueError
    return value


def _matching(pattern: str) -> AfterValidator:
    compiled = compile_pattern(pattern)

    def judge(value: str) -> str:
        if compiled.search(value.encode()) is None:
            raise ValueError
        return value

    return AfterValidator(judge)


def _not_blank(value: Any) -> Any:
    if value == [] or (isinstance(value, str) and not value.strip()):
        raise ValueError
    return value


def _value_type(field: FieldDefinition) -> Any:
    match field.type:
        case "regexp" if field.regexp_for_validation:
            return Annotated[StrictStr, _matching(field.regexp_for_validation)]
        case "text" | "textarea" | "regexp":
            return StrictStr
        case "checkbox":
            return StrictBool
        case "date":
            return Annotated[StrictStr, AfterValidator(_date)]
        case "integer":
            return Annotated[StrictInt, Field(gt=-_INTEGER_LIMIT, lt=_INTEGER_LIMIT)]
        case "decimal":
            return Annotated[Any, BeforeValidator(_decimal)]
        case "dropdown":
            return _option_type(field)
        case "multiselect":
            options = _option_type(field)
            return Annotated[list[options], AfterValidator(lambda values: list(dict.fromkeys(values)))]  # type: ignore[valid-type]
        case "lookup":
            is_ours = (field.relationship_target_type or "").startswith(CUSTOM_OBJECT_TARGET)
            return Annotated[StrictStr, AfterValidator(_record_id)] if is_ours else StrictStr
    raise AssertionError(f"no such field type: {field.type}")


def _option_type(field: FieldDefinition) -> Any:
    return (
        Annotated[Literal[field.options], Field()]
        if field.options
        else Annotated[StrictStr, AfterValidator(_no_option)]
    )


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
    return "must be the id of a record of the target object, as text"


class FieldValidator:
    """The fields of one object as a pydantic validator of partial values."""

    def __init__(self, fields: Iterable[FieldDefinition]) -> None:
        self._fields: Mapping[str, FieldDefinition] = {field.key: field for field in fields}
        shape = {
            field.key: Annotated[_value_type(field), AfterValidator(_not_blank)] | None
            if field.required
            else _value_type(field) | None
            for field in self._fields.values()
            if field.active
        }
        values = TypedDict("values", shape, total=False)  # type: ignore[misc]
        values.__pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[attr-defined]
        self._adapter = TypeAdapter(values)

    def ignorable(self, values: Mapping[str, Any]) -> list[str]:
        """The standard attributes among the values that no field is called by."""
        return [key for key in values if key in STANDARD_ATTRIBUTES and key not in self._fields]

    def judge(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values as they are stored, null where one is to be cleared.

        Raises RecordInvalid with every value that breaks a rule of its field, and every unknown key.
        """
        try:
            return dict(self._adapter.validate_python(values))
        except ValidationError as error:
            keys = dict.fromkeys(str(item["loc"][0]) for item in error.errors(include_url=False))
            raise RecordInvalid({key: [self._problem(key, values.get(key))] for key in keys}) from None

    def _problem(self, key: str, value: object) -> Problem:
        field = self._fields.get(key)
        if field is None:
            return Problem(f"{key} is not a field of this object", "UnknownField")
        if not field.active:
            return Problem(f"{key} is inactive", "InactiveField")
        if field.required and (value == "" or value == [] or (isinstance(value, str) and not value.strip())):
            return Problem(f"{key} cannot be blank", "BlankValue")
        return Problem(f"{key} {_expected(field)}")


def _exactly(value: object) -> orjson.Fragment:
    if isinstance(value, Decimal):
        return orjson.Fragment(format(value, "f"))
    raise TypeError


def dumped(values: Mapping[str, Any]) -> str:
    """Judged values as JSON text, decimals digit by digit."""
    return orjson.dumps(values, default=_exactly, option=orjson.OPT_PASSTHROUGH_SUBCLASS).decode()
