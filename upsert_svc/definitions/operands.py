"""What a comparison in a filter takes: the operators of a kind of values, and what their operand must be."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from upsert_svc.definitions import times
from upsert_svc.json_body import as_whole

_RECORD_ID = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)  # no other form, which the version of Python would decide
EQUALITY = ("$eq", "$noteq", "$in", "$notin", "$exists")
ORDERING = ("$gt", "$gte", "$lt", "$lte")
CONTAINMENT = ("$contains", "$notcontains")


@dataclass(frozen=True)
class Operands:
    """Values of one type of SQL: what an operand must be (`read` raises ValueError), and their operators.

    Where `is_json`, a field's value is compared as JSON, else as its text cast to the type.
    """

    sql_type: str
    read: Callable[[Any], Any]
    operators: Sequence[str]
    expected: str
    is_json: bool = False


def is_record_id(value: str) -> bool:
    """Whether the text has the form of a record's id, a ULID."""
    return _RECORD_ID.fullmatch(value) is not None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _number(value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal) or not -(10**30) < value < 10**30:
        raise ValueError
    number = Decimal(value)
    if not number:
        return Decimal(0)  # whose exponent may be anything, which PostgreSQL does not take
    if number.adjusted() < -30:
        raise ValueError
    return number


def _day(value: Any) -> date:
    if not _DATE.fullmatch(_text(value)):
        raise ValueError
    return date.fromisoformat(value)


def _moment(value: Any) -> datetime:
    return times.read_moment(_text(value))


def _user(value: Any) -> int:
    value = as_whole(value)
    digits = str(value) if not isinstance(value, bool) and isinstance(value, int | str) else ""
    if not (digits.isascii() and digits.isdigit() and len(digits) < 10):
        raise ValueError
    return int(digits)


def _id(value: Any) -> str:
    return _text(value) if is_record_id(_text(value)) else ""  # which no record has


TEXT = Operands("text", _text, (*EQUALITY, *CONTAINMENT), "text")
WORD = Operands("text", _text, EQUALITY, "text")
NUMBER = Operands("numeric", _number, (*EQUALITY, *ORDERING), "a number")
DATE = Operands("date", _day, (*EQUALITY, *ORDERING), "a date, YYYY-MM-DD")
MOMENT = Operands("timestamptz", _moment, (*EQUALITY, *ORDERING), "a time, YYYY-MM-DDTHH:MM:SSZ")
FLAG = Operands("boolean", _flag, EQUALITY, "true or false")
OPTIONS = Operands("text", _text, (*CONTAINMENT, "$exists"), "an option's value", is_json=True)
ANYTHING = Operands("jsonb", _text, ("$exists",), "", is_json=True)
USER = Operands("integer", _user, EQUALITY, "the id of a user")
ID = Operands("text", _id, EQUALITY, "the id of a record")
