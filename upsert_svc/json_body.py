"""Strict JSON: bytes to a value.

Refuses what two JSON parsers could read in two ways, what PostgreSQL could not store, and what is of more
values than can be looked at in a moment: nobody else is served meanwhile.
"""

import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import Any

import jiter

from upsert_svc.combining_marks import RUN_LIMIT, has_long_run
from upsert_svc.errors import BadRequest, Problem, RecordInvalid, TooManyValues, shortened

DEPTH_LIMIT = 20
VALUE_LIMIT = 20_000  # of a body, at any depth; a record of 32 KB has no more than 16,400
_NUMBER_LIMIT = 4300  # characters; no field takes a number nearly as long
_DIGITS = bytes.maketrans(b"123456789.", b"0000000000")
_LONG_NUMBER = b"0" * 100
_WRAPPERS = ("custom_object_record", "custom_object_fields")  # around what places begin with
_WHOLE_DIGITS = 30  # more than any whole number has that is taken anywhere
_BRACKET = re.compile(rb"[][{}]")


def parse(raw: bytes, *, around: int = 0) -> Any:
    """The JSON value of a body, or of a part of one with so many levels around it.

    Floats come as Decimal, digit by digit. A body may begin with a byte order mark, as some writers of UTF-8
    have it.

    Raises BadRequest for what is not strict JSON in UTF-8, TooManyValues for more than VALUE_LIMIT values,
    RecordInvalid for text that cannot be stored.
    """
    if len(raw) > VALUE_LIMIT:  # each takes a byte at least
        _refuse_many_values(raw)
    try:
        value = _parsed(raw)
    except ValueError:
        _refuse_deep_text(raw)
        value = _parsed_slowly(raw if around else raw.removeprefix(BOM_UTF8))  # which says what is wrong
    _refuse_depth(raw, value, DEPTH_LIMIT - around)
    if b"\\u" in raw or (len(raw) > RUN_LIMIT and not raw.isascii()):
        _refuse_unstorable_text(value)
    return value


def as_whole(value: Any) -> Any:
    """The int that a number with a fraction or an exponent stands for, as 2026.0 or 2.026e3 for 2026.

    Any other value stays as it is.
    """
    if type(value) is not Decimal:
        return value
    if not value:
        return 0  # of which the exponent may be anything
    is_whole = value.adjusted() <= _WHOLE_DIGITS and value == value.to_integral_value()
    return int(value) if is_whole else value


def _refuse_many_values(raw: bytes) -> None:
    """Counts before anything is read. What it counts in text it looks at again, so that text is no value."""
    if _values(raw) > VALUE_LIMIT and _values(_without_text(raw)) > VALUE_LIMIT:
        raise TooManyValues("The body", VALUE_LIMIT)


def _values(raw: bytes) -> int:
    """How many values there may be: one, one behind each comma, and the first of each list or object."""
    return 1 + raw.count(b",") + raw.count(b"[") + raw.count(b"{")


def _without_text(raw: bytes) -> bytes:
    """What stands between the strings: without escapes, every other quote begins one."""
    return b"".join(raw.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])


def _parsed(raw: bytes) -> Any:
    """The value of most bodies, in a third of the time. Raises ValueError for what it does not vouch for."""
    if _LONG_NUMBER in raw.translate(_DIGITS):  # whether it is within its limit, the other says
        raise ValueError
    return jiter.from_json(
        raw, allow_inf_nan=False, cache_mode="keys", catch_duplicate_keys=True, float_mode="decimal"
    )


def _parsed_slowly(raw: bytes) -> Any:
    if not raw.strip():
        raise BadRequest("The body is empty")
    require_utf8(raw)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest(f"The body is not UTF-8 (byte {error.start})") from None
    try:
        return _decode(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise BadRequest(f"The body is not valid JSON: {error.msg} at {where}") from None
    except ValueError as error:
        raise BadRequest(f"The body is not valid JSON: {error}") from None


def _refuse_deep_text(raw: bytes) -> None:
    """Counts what is open before anything is decoded: how deep a decoder can go differs between Pythons."""
    depth = 0
    for bracket in _BRACKET.findall(_without_text(raw)):
        depth += 1 if bracket in b"[{" else -1
        if depth > DEPTH_LIMIT:
            raise too_deep()


def require_utf8(raw: bytes) -> None:
    """Raises BadRequest for what begins as JSON in another encoding of Unicode does."""
    if not (encoding := json.detect_encoding(raw)).startswith("utf-8"):
        raise BadRequest(f"The body is not UTF-8: it seems to be {encoding.upper()}")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        again = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {_printable(shortened(again))} is given twice")
    return value


def _integer(digits: str) -> int:
    if len(digits) > _NUMBER_LIMIT:
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)


def _decimal(digits: str) -> Decimal:
    if len(digits) > _NUMBER_LIMIT:
        raise ValueError(f"a number has {len(digits)} digits")
    try:
        return Decimal(digits)
    except InvalidOperation:
        raise ValueError("the exponent of a number is out of range") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


_decode = json.JSONDecoder(
    object_pairs_hook=_unique_keys, parse_int=_integer, parse_float=_decimal, parse_constant=_no_constant
).decode


def too_deep() -> BadRequest:
    """The refusal of what is nested too deep."""
    return BadRequest(f"The body is nested deeper than {DEPTH_LIMIT} levels")


def _refuse_depth(raw: bytes, value: Any, limit: int) -> None:
    # not counted to the end: splitting stops, and looks for a byte where counting looks at each
    if len(raw.split(b"{", limit)) + len(raw.split(b"[", limit)) <= limit:
        return
    level = [value]
    for _ in range(limit + 1):
        if not level:
            return
        level = [child for parent in level for child in _children(parent)]
    raise too_deep()


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _refuse_unstorable_text(value: Any) -> None:
    if any(unstorable(text) is not None for text in _texts(value)):
        field, place, problem = next(_unstorable_texts(value))
        description = problem.description if place == field else f"{place}: {problem.description}"
        raise RecordInvalid({field: [problem._replace(description=description)]})


def unstorable(text: str) -> Problem | None:
    """What keeps a text from being stored, if anything: NUL, half of a surrogate pair, a run of marks."""
    if text.isprintable() and text.isascii():
        return None
    if "\0" in text:
        return Problem("Text cannot hold the character U+0000", "InvalidCharacter")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return Problem("Text cannot hold half of a surrogate pair", "InvalidCharacter")
    if has_long_run(text):
        return Problem(f"Text cannot hold more than {RUN_LIMIT} combining marks in a row", "InvalidCharacter")
    return None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _texts(item)


def _unstorable_texts(
    value: Any, owner: str = "base", place: str = "", *, is_in_field: bool = False
) -> Iterator[tuple[str, str, Problem]]:
    """The texts that cannot be stored: the key or field that each belongs to, its place, and what is wrong.

    A place begins at the record, as `name` or `specs.a[1]`.
    """
    if isinstance(value, str) and (problem := unstorable(value)) is not None:
        yield owner, place or owner, problem
    elif isinstance(value, list):
        for number, item in enumerate(value):
            beneath = shortened(f"{place}[{number}]")
            yield from _unstorable_texts(item, owner, beneath, is_in_field=is_in_field)
    elif isinstance(value, dict):
        for key, item in value.items():
            named = shortened(_printable(key))
            inner = owner if is_in_field and place else named
            beneath = shortened(f"{place}.{named}") if place else named
            if (problem := unstorable(key)) is not None:
                yield inner, beneath, problem
            if is_in_field or key not in _WRAPPERS:
                yield from _unstorable_texts(item, inner, beneath, is_in_field=is_in_field)
            else:
                is_fields = key == "custom_object_fields"
                yield from _unstorable_texts(item, named, "", is_in_field=is_fields)


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\u0000")
