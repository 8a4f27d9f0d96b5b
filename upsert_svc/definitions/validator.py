"""The fields of one object as a validator of partial values.

Refuses every value that its field's type does not take, and every key that is no active field.
"""

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from functools import cached_property
from typing import Any

import orjson
from pydantic_core import CoreSchema, SchemaValidator, ValidationError, core_schema

from upsert_svc.definitions import patterns
from upsert_svc.definitions.field_types import FIELD_TYPES, FieldDefinition
from upsert_svc.errors import PROBLEM_LIMIT, Problem, RecordInvalid, shortened

SIZE_LIMIT = 32 * 1024  # characters, and bytes, of a record as JSON
TOO_LARGE = Problem("The record's name, external_id and fields are larger than 32 KB as JSON text", "TooLong")

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

_FIELDS = "customobjectfields"
_PART = re.compile(r"\W+")


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
        self._active = shape.keys()
        self._validator = SchemaValidator(core_schema.typed_dict_schema(shape, extra_behavior="ignore"))
        self._patterns = {
            field.key: field.regexp_for_validation
            for field in self.fields.values()
            if field.active and FIELD_TYPES[field.type].has_pattern and field.regexp_for_validation
        }

    def ignorable(self, values: Mapping[str, Any]) -> list[str]:
        """The standard attributes among the values that no field is called by."""
        return [key for key in values if key in STANDARD_ATTRIBUTES and key not in self.fields]

    def misplaced(self, names: Iterable[str]) -> list[str]:
        """The names among those that stand where no field does that mean an active field.

        They are spelt as its key is, or otherwise, or have it as a part, as `custom_object_fields[color]`.
        """
        return [name for name in names if name not in STANDARD_ATTRIBUTES and self._means_field(name)]

    def _means_field(self, name: str) -> bool:
        spelt = _spelt(name)
        return (spelt.startswith(_FIELDS) and spelt != _FIELDS) or not self._spelt.isdisjoint(
            _PART.split(spelt)
        )

    @cached_property
    def _spelt(self) -> frozenset[str]:
        """The active fields, as names are compared with them; only a PUT asks for it."""
        return frozenset(map(_spelt, self._active))

    def validate(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values as they are stored, null where one is to be cleared.

        Raises RecordInvalid with the values that break a rule of their field, and the unknown keys.
        """
        known = values.keys() <= self._active
        if self._patterns:
            self._refuse_long_matches(values)
        try:
            validated: dict[str, Any] = self._validator.validate_python(values)
        except ValidationError as error:
            broken = error.errors(include_url=False, include_context=False, include_input=False)
            keys = dict.fromkeys(str(item["loc"][0]) for item in broken)
            raise self._refusal(keys, values) from None
        if not known:
            raise self._refusal({}, values)
        return validated

    def _refusal(self, broken: Iterable[str], values: Mapping[str, Any]) -> RecordInvalid:
        """The problems of the values that break a rule, and of as many unknown keys as are told."""
        unknown = [key for key in values if key not in self._active]
        told = [*broken, *unknown[:PROBLEM_LIMIT]]
        details = {key: self._problems(key, values.get(key)) for key in told}
        return RecordInvalid(details, uncounted=max(len(unknown) - PROBLEM_LIMIT, 0))

    def _refuse_long_matches(self, values: Mapping[str, Any]) -> None:
        """Before a pattern is tried: it would take as long as the text is, and there are many fields."""
        size, steps = 0, 0
        problems: dict[str, list[Problem]] = {}
        for key, pattern in self._patterns.items():
            if not isinstance(text := values.get(key), str):
                continue
            size += (length := len(text.encode()))
            if size > SIZE_LIMIT:
                raise RecordInvalid({"base": [TOO_LARGE]})
            steps += length * _steps_of(pattern)
            if steps > patterns.STEP_LIMIT:
                problems[key] = [Problem(f"{key} is too long to be compared with its pattern", "TooLong")]
        if problems:
            raise RecordInvalid(problems)

    def _problems(self, key: str, value: object) -> list[Problem]:
        field = self.fields.get(key)
        if field is None:
            key = shortened(key)
            return [Problem(f"{key} is not a field of this object", "UnknownField")]
        if not field.active:
            return [Problem(f"{key} is inactive", "InactiveField")]
        field_type = FIELD_TYPES[field.type]
        if field.required and _is_blank(value):
            return [Problem(f"{key} cannot be blank", "BlankValue")]
        refused_places = field_type.refused_places
        places = [key] if refused_places is None else refused_places(value, key)
        return [Problem(f"{place} {field_type.expected(field)}") for place in places]


def _spelt(name: str) -> str:
    """A name without what its spellings differ in: upper and lower case, `_` and `-`."""
    return name.casefold().replace("_", "").replace("-", "")


def _nullable_schema(field: FieldDefinition) -> CoreSchema:
    field_type = FIELD_TYPES[field.type]
    schema = field_type.schema(field)
    if field.required and not field_type.is_empty_a_value:
        schema = core_schema.no_info_after_validator_function(_not_blank, schema)
    return core_schema.nullable_schema(schema)


def _steps_of(pattern: str) -> int:
    try:
        return patterns.compiled(pattern).steps
    except ValueError:  # one of before; no text matches it
        return 0


def _not_blank(value: Any) -> Any:
    if _is_blank(value):
        raise ValueError
    return value


def _is_blank(value: object) -> bool:
    return value == [] or (isinstance(value, str) and not value.strip())


def dumped(values: Mapping[str, Any]) -> str:
    """Validated values as JSON text, decimals digit by digit."""
    return orjson.dumps(values, default=_exactly, option=orjson.OPT_PASSTHROUGH_SUBCLASS).decode()


def _exactly(value: object) -> orjson.Fragment:
    if isinstance(value, Decimal):
        return orjson.Fragment(format(value, "f"))
    raise TypeError
