"""What a body says of an object, a field or a record: the attributes it sets, and those it cannot.

Refuses a body without its wrapper (400) and attributes of the wrong type (422); attributes that are unknown
or read-only are collected, to be named in a warning.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationError,
)
from pydantic_core import PydanticCustomError

from upsert_svc import json_body
from upsert_svc.errors import BadRequest, Problem, RecordInvalid, ServiceError, shortened
from upsert_svc.json_body import as_whole

Model = TypeVar("Model", bound=BaseModel)
TEXT_LIMIT = 255
FIELD_KEY_LIMIT = 100
NAMES_LIMIT = 250  # of what is ignored, as many as may be told
NAME_LIMIT = 200  # characters of each
DESCRIPTION_LIMIT = 32_768
_MOST_COMPOSED = 4  # characters that NFC makes one of
# All but white space, controls, and what Unicode ignores or shows as nothing: joiners, marks of direction,
# fillers of Hangul and Khitan, variation selectors, tags, the blank of Braille, the notehead of none.
_VISIBLE = re.compile(
    r"[^\s\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    r"\u2028-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U00013430-\U0001343f\U00016fe4"
    r"\U0001bca0-\U0001bca3\U0001d159\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def unwrap(body: Any, wrapper: str, *, empty_is_a_patch: bool = False) -> tuple[dict[str, Any], list[str]]:
    """The object under the wrapper's key, and the keys beside it, which are ignored.

    Raises BadRequest naming what is missing. `{}` alone may stand for a patch that changes nothing.
    """
    if not isinstance(body, dict):
        raise BadRequest(f"The body must be a JSON object with the key {wrapper}")
    if not body and empty_is_a_patch:
        return {}, []
    if wrapper not in body:
        raise BadRequest(f"The body must have the key {wrapper}")
    inner = body[wrapper]
    if not isinstance(inner, dict):
        raise BadRequest(f"{wrapper} must be a JSON object")
    beside = [key for key in body if key != wrapper]
    require_no_parameter(beside, _PARAMETERS)
    require_no_parameter(inner, DRY_RUN)
    return inner, beside


DRY_RUN: Mapping[str, str] = {"dryrun": "dry_run"}
_PARAMETERS: Mapping[str, str] = {**DRY_RUN, "strategy": "strategy", "dataonly": "dataOnly"}
_LONGEST_SPELLING = 20
_DRY_RUN_WORD = re.compile(rb"\bdry[-_]*run\b", re.IGNORECASE)
_WRAPPERS = ("custom_object_record", "custom_object", "custom_object_field")
_OTHER_STARTS = frozenset("abcefghijklmnopqrtuvwxyzABCEFGHIJKLMNOPQRTUVWXYZ")  # of keys that are no parameter
_NEITHER_LETTER_NOR_DIGIT = re.compile(r"[\W_]+")


def letters_and_digits(name: str) -> str:
    """What is left of a name where spellings of it are compared, in lower case."""
    return _NEITHER_LETTER_NOR_DIGIT.sub("", name).lower()


def require_no_parameter(keys: Iterable[str], parameters: Mapping[str, str] = _PARAMETERS) -> None:
    """Raises BadRequest for a key of a body that is a parameter of the query, in whatever spelling."""
    for key in keys:
        if key[:1] not in _OTHER_STARTS and len(key) <= _LONGEST_SPELLING:
            name = parameters.get(letters_and_digits(key.partition("[")[0]))
            if name is not None:
                raise BadRequest(f"{key} is not taken in the body: {name} belongs into the query")


def may_name_dry_run(raw: bytes) -> bool:
    """Whether a body may have a key that is meant for a dry run, its letters escaped or in UTF-16 even."""
    return b"\\u" in raw or _DRY_RUN_WORD.search(raw.replace(b"\0", b"")) is not None


def require_no_dry_run(raw: bytes) -> None:
    """Raises BadRequest where a body of any kind asks for a dry run.

    In JSON that is a key at the top or in a wrapper; in what is none, as a form, the word is enough.
    """
    try:
        body = json_body.parse(raw)
    except ServiceError:
        if (word := _DRY_RUN_WORD.search(raw.replace(b"\0", b""))) is not None:
            require_no_parameter([word[0].decode()], DRY_RUN)
        return
    for item in body if isinstance(body, list) else [body]:
        if isinstance(item, dict):
            require_no_parameter(item, DRY_RUN)
            for wrapped in map(item.get, _WRAPPERS):
                require_no_parameter(wrapped if isinstance(wrapped, dict) else (), DRY_RUN)


ShortText = Annotated[StrictStr, Field(max_length=TEXT_LIMIT)]
Whole = Annotated[StrictInt, BeforeValidator(as_whole)]
Description = Annotated[StrictStr, Field(max_length=DESCRIPTION_LIMIT)]


class ObjectBody(BaseModel):
    """The writable attributes of a custom object; None where not sent."""

    model_config = ConfigDict(extra="ignore")

    key: StrictStr | None = None
    title: ShortText | None = None
    raw_title: ShortText | None = None
    title_pluralized: ShortText | None = None
    raw_title_pluralized: ShortText | None = None
    description: Description | None = None
    raw_description: Description | None = None
    include_in_list_view: StrictBool | None = None
    allows_photos: StrictBool | None = None
    allows_attachments: StrictBool | None = None


class OptionBody(BaseModel):
    model_config = ConfigDict(extra="ignore")

    id: Whole | None = None
    name: ShortText | None = None
    raw_name: ShortText | None = None
    value: Annotated[StrictStr, Field(min_length=1, max_length=TEXT_LIMIT)]


class PropertiesBody(BaseModel):
    """The properties of standard::name, and that of a field of the type currency."""

    model_config = ConfigDict(extra="ignore")

    is_unique: StrictBool | None = None
    autoincrement_enabled: StrictBool | None = None
    autoincrement_prefix: Annotated[StrictStr, Field(max_length=30)] | None = None
    autoincrement_padding: Annotated[Whole, Field(ge=0, le=9)] | None = None
    autoincrement_next_sequence: Annotated[Whole, Field(ge=0, lt=10**15)] | None = None
    currency: StrictStr | None = None


def _filter(value: object) -> dict[str, Any]:
    """A lookup's filter: lists of conditions of field, operator and value. Kept and answered, for clients."""
    if not isinstance(value, dict) or not value.keys() <= {"all", "any"}:
        raise PydanticCustomError("filter", "Input should be an object with all, any or both")
    for conditions in value.values():
        if not isinstance(conditions, list) or not all(map(_is_condition, conditions)):
            # a model would tell of each in each of its thousands, with all keys around it
            raise PydanticCustomError("filter", "all and any should be lists of conditions")
    return {"all": [], "any": []} | value


def _is_condition(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_operand, value.values()))


def _is_operand(value: object) -> bool:
    if isinstance(value, list):
        return all(isinstance(item, str) for item in value)
    if isinstance(value, int):  # or a bool
        return -(10**15) < value < 10**15
    return value is None or isinstance(value, str)


Filter = Annotated[dict[str, Any], PlainValidator(_filter)]


class FieldBody(BaseModel):
    """The writable attributes of a field; None where not sent."""

    model_config = ConfigDict(extra="ignore")

    key: StrictStr | None = None
    type: StrictStr | None = None
    title: ShortText | None = None
    raw_title: ShortText | None = None
    description: Description | None = None
    raw_description: Description | None = None
    active: StrictBool | None = None
    required: StrictBool | None = None
    regexp_for_validation: Annotated[StrictStr, Field(max_length=TEXT_LIMIT)] | None = None
    tag: ShortText | None = None
    custom_field_options: Annotated[list[OptionBody], Field(max_length=2000)] | None = None
    relationship_target_type: ShortText | None = None
    relationship_filter: Filter | None = None
    properties: PropertiesBody | None = None


def read(model: type[Model], attributes: Mapping[str, Any]) -> tuple[Model, list[str]]:
    """The attributes as their model, and the names it does not know.

    Raises RecordInvalid naming each attribute of a wrong type or length.
    """
    try:
        body = model.model_validate(attributes)
    except ValidationError as error:
        details: dict[str, list[Problem]] = {}
        for item in error.errors(include_url=False, include_context=False, include_input=False):
            name = shortened(".".join(str(part) for part in item["loc"] if isinstance(part, str)))
            details.setdefault(str(item["loc"][0]), []).append(Problem(f"{name}: {item['msg']}"))
        raise RecordInvalid(details) from None
    return body, [name for name in attributes if name not in model.model_fields]


def first_set(*values: Any) -> Any:
    """The first value that is not None: what a body sends, else what is stored, else the default."""
    return next((value for value in values if value is not None), None)


class RecordPatch(NamedTuple):
    """What a body says of a record. None: not sent, or null, which never clears a name.

    Whether an external_id was sent as null counts where a record is replaced by its id, and ignored names,
    which may be meant for fields, where it is replaced.
    """

    name: str | None = None
    external_id: str | None = None
    fields: Mapping[str, Any] = MappingProxyType({})
    ignored: tuple[str, ...] = ()
    is_external_id_null: bool = False
    elsewhere: tuple[str, ...] = ()


FIELDS = "custom_object_fields"
PHOTO = "photo"  # the one read-only attribute whose value is an object
_LONGEST_PLACE = 300  # of a name that means a field: its key, and those of what is around it
_RECORD_ATTRIBUTES = frozenset({"name", "external_id", FIELDS})


def record_patch(body: Any, *, empty_is_a_patch: bool = True) -> RecordPatch:
    """Reads `{"custom_object_record": {…}}`.

    Raises BadRequest for another shape, RecordInvalid for a name, external_id or fields of a wrong form.
    """
    attributes, beside = unwrap(body, "custom_object_record", empty_is_a_patch=empty_is_a_patch)
    patch, unknown = _patch(attributes)
    if not (beside or unknown):
        return patch
    ignored = beside + unknown
    elsewhere: tuple[str, ...] = ()
    if not empty_is_a_patch:
        _refuse_dropped(
            [*_filled(body, beside), *(key for key in _filled(attributes, unknown) if key != PHOTO)]
        )
        elsewhere = tuple(name for name in ignored if len(name) <= _LONGEST_PLACE)
    return patch._replace(ignored=_told(ignored), elsewhere=elsewhere)


def record_line(value: Any) -> RecordPatch:
    """Reads one record of many, `{"external_id": …, "name": …, "custom_object_fields": {…}}`.

    Raises BadRequest for what is no JSON object, RecordInvalid as `record_patch` does.
    """
    if not isinstance(value, dict):
        raise BadRequest("A record must be a JSON object")
    require_no_parameter(value, DRY_RUN)
    patch, unknown = _patch(value)
    return patch._replace(ignored=_told(unknown)) if unknown else patch


def _patch(attributes: Mapping[str, Any]) -> tuple[RecordPatch, list[str]]:
    """What the attributes of a record say, and which of them are unknown."""
    problems: dict[str, list[Problem]] = {}
    name, external_id = attributes.get("name"), attributes.get("external_id")
    fields = attributes.get("custom_object_fields")
    if name is not None and (problem := name_problem(name)):
        problems["name"] = [problem]
    if external_id is not None and (problem := external_id_problem(external_id)):
        problems["external_id"] = [problem]
    if fields is not None and not isinstance(fields, dict):
        problems["custom_object_fields"] = [Problem("custom_object_fields must be a JSON object")]
    if problems:
        raise RecordInvalid(problems)
    unknown: list[str] = []
    if not attributes.keys() <= _RECORD_ATTRIBUTES:
        unknown = [key for key in attributes if key not in _RECORD_ATTRIBUTES]
    is_external_id_null = external_id is None and "external_id" in attributes
    return RecordPatch(name, external_id or None, fields or {}, (), is_external_id_null), unknown


def _filled(values: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    return [name for name in names if is_filled(values[name])]


def _refuse_dropped(names: Iterable[str]) -> None:
    """Raises RecordInvalid for attributes with values in them: who replaces a record must not lose these."""
    if problems := {name: [dropped(name)] for name in names}:
        raise RecordInvalid(problems)


def is_filled(value: Any) -> bool:
    """Whether a value is a JSON object or list that is not empty."""
    return isinstance(value, dict | list) and bool(value)


def dropped(name: str) -> Problem:
    """The refusal of an attribute that would be ignored, with values in it."""
    name = shortened(name)
    return Problem(
        f"{name} would be ignored with all that it holds: fields belong into custom_object_fields",
        "MisplacedField",
    )


def _told(names: Sequence[str]) -> tuple[str, ...]:
    """As much of ignored names as a warning can tell."""
    return tuple(name[:NAME_LIMIT] for name in names[:NAMES_LIMIT]) if names else ()


def name_problem(name: object) -> Problem | None:
    """What is wrong with a record's name, if anything."""
    if not isinstance(name, str):
        return Problem("name must be text")
    if (problem := _length_problem("name", name)) is not None:
        return problem
    return Problem("Name cannot be blank", "BlankValue") if is_blank(name) else None


def is_blank(text: str) -> bool:
    """Whether nothing of a text is to be seen: it has at most white space and invisible characters."""
    return _VISIBLE.search(text) is None


def external_id_problem(external_id: object) -> Problem | None:
    """What is wrong with an external_id, if anything. An empty one counts as not sent."""
    if not isinstance(external_id, str):
        return Problem("external_id must be text")
    return _length_problem("external_id", external_id)


def _length_problem(name: str, value: str) -> Problem | None:
    length = len(value)
    if not value.isascii() and length <= TEXT_LIMIT * _MOST_COMPOSED:
        length = len(unicodedata.normalize("NFC", value))
    return (
        Problem(f"{name} is longer than {TEXT_LIMIT} characters", "TooLong") if length > TEXT_LIMIT else None
    )
