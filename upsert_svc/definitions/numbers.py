"""The numbers that fields take, all of them exact: whole ones, decimals, and those within documents.

Refuses with ValueError what a field does not take; of a document it tells where that is.
"""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from upsert_svc.errors import shortened
from upsert_svc.json_body import as_whole

INTEGER_LIMIT = 10**12
_LIMIT, _BOTTOM = Decimal(10**15), Decimal(-(10**15))
_NUMBERS = frozenset((int, Decimal))  # and no bool
_DECIMAL_PLACES = 15
_SIGNIFICANT_DIGITS = 17  # which tell any two doubles apart
_LEAST_EXPONENT = -30


def whole(value: object) -> int:
    """A whole number, however it is written."""
    number = as_whole(value)
    if type(number) is not int or not -INTEGER_LIMIT < number < INTEGER_LIMIT:
        raise ValueError
    return number


def decimal(value: object) -> object:
    """A number of a decimal field, as it is written."""
    if type(value) not in _NUMBERS or not _is_decimal(value):
        raise ValueError
    return value


def _is_decimal(number: Any) -> bool:
    # compared without abs(), which rounds to 28 digits and overflows
    if not _BOTTOM < number < _LIMIT:
        return False
    if type(number) is int:
        return True
    text = str(number)
    if len(text) <= _DECIMAL_PLACES and "E" not in text:  # as most are; asking for the exponent takes long
        return True
    exponent = number.as_tuple().exponent
    return isinstance(exponent, int) and exponent >= -_DECIMAL_PLACES


def document(value: object) -> object:
    """Any JSON value. A number in it keeps its value, though not the spelling that would make it long."""
    waiting: list[Any] = [value]
    while waiting:
        item = waiting.pop()
        kind = type(item)
        if kind is dict:
            waiting += item.values()
        elif kind is list:
            waiting += item
        elif kind in _NUMBERS and not _is_plain(item):
            return _respelt(value)
    return value


def _is_plain(number: Any) -> bool:
    """Whether a number is taken as it is, as nearly all are."""
    if not _BOTTOM < number < _LIMIT:
        return False
    if type(number) is int:
        return True
    text = str(number)
    return len(text) <= _SIGNIFICANT_DIGITS + 1 and "E" not in text


def _respelt(value: Any) -> Any:
    """The value, its numbers without zeros that say nothing where they are written in a long way."""
    if type(value) is dict:
        return {key: _respelt(item) for key, item in value.items()}
    if type(value) is list:
        return [_respelt(item) for item in value]
    return value if type(value) not in _NUMBERS or _is_plain(value) else _shortest(value)


def _shortest(number: Any) -> Any:
    if not number:
        return 0
    if type(number) is int or not _BOTTOM < number < _LIMIT or number.adjusted() < _LEAST_EXPONENT:
        raise ValueError
    sign, digits, exponent = number.as_tuple()
    significant = "".join(map(str, digits)).rstrip("0")
    if len(significant) > _SIGNIFICANT_DIGITS:
        raise ValueError
    dropped = len(digits) - len(significant)
    return Decimal((sign, tuple(map(int, significant)), exponent + dropped))


def refused_places(value: Any, place: str) -> Iterator[str]:
    """Where in a document there are numbers that it may not have, as `specs.a.b[1].deep`."""
    if type(value) is dict:
        for key, item in value.items():
            yield from _refused_beneath(item, place, f".{key}")
    elif type(value) is list:
        for number, item in enumerate(value):
            yield from _refused_beneath(item, place, f"[{number}]")
    elif type(value) in _NUMBERS and not _is_taken(value):
        yield place


def _refused_beneath(value: Any, place: str, step: str) -> Iterator[str]:
    if type(value) in (dict, list) or (type(value) in _NUMBERS and not _is_plain(value)):
        yield from refused_places(value, shortened(place + step))


def _is_taken(number: Any) -> bool:
    try:
        return _is_plain(number) or _shortest(number) is not None
    except ValueError:
        return False
