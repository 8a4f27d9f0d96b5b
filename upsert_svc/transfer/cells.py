"""The cells of CSV: a value read from its cell, and the cell written from which this very value is read.

Which kind of cell holds the values of a field type is given by who starts a transfer (see `Kinds`).
"""

import contextlib
import json
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Literal

import orjson
from jiter import LosslessFloat

Kind = Literal["text", "integer", "decimal", "boolean", "list", "json"]
Kinds = Mapping[str, Kind]  # by field type; that of a type that is not among them is text
Columns = Mapping[str, Kind]  # by field, in their order

_INTEGER = re.compile(r"([+-]?\d{1,300})(?:\.0{0,300})?", re.ASCII)  # as spreadsheets write them: 2026.0
_DECIMAL = re.compile(r"[+-]?(\d{1,300}(\.\d{0,300})?|\.\d{1,300})([eE][+-]?\d{1,2})?", re.ASCII)
_TRUTHS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def columns_by_type(fields: Iterable[Mapping[str, Any]], kinds: Kinds) -> Columns:
    """The active fields of an object, as the service answers them, by key: how their cells hold a value."""
    return {
        field["key"]: kinds.get(field["type"], "text")
        for field in fields
        if field["active"] and not field["system"]
    }


class Number(str):
    """A number as it was written: never rounded, because it is never computed with."""

    __slots__ = ()


def read_cell(cell: str, kind: Kind) -> Any:
    """The JSON value of a cell that is not empty. Raises ValueError saying what it must be."""
    match kind:
        case "integer":
            return Number(whole_text(cell, "a whole number"))
        case "decimal":
            return Number(format(Decimal(_matching(_DECIMAL, cell, "a number")), "f"))
        case "boolean":
            if (truth := _TRUTHS.get(cell.strip().lower())) is None:
                raise ValueError("must be true or false, 1 or 0, yes or no")
            return truth
        case "list":
            return _listed(cell)
        case "json":
            return parsed_json(cell)
    return cell


def without_fraction(cell: str) -> str:
    """A whole number as the cell has it, but without a fraction or an exponent: 02026 for 02026.0."""
    matched = _INTEGER.fullmatch(cell.strip())
    if matched is None and "e" in cell.lower():
        with contextlib.suppress(ValueError):
            return whole_text(cell, "a whole number")
    return matched[1] if matched and "." in cell else cell


def whole_text(number: str, expected: str = "text or a whole number") -> str:
    """The digits of a whole number, alike however it is written: 17 for 17.0 and 1.7e1, 0 for -0.

    Raises ValueError for anything else, saying what is expected.
    """
    value = Decimal(_matching(_DECIMAL, number, expected))
    if value != value.to_integral_value():
        raise ValueError(f"must be {expected}")
    return str(int(value))


def _listed(cell: str) -> list[str]:
    """Texts between `;`, or a JSON list of texts, for those that have a `;` in them."""
    if cell.startswith("["):
        with contextlib.suppress(ValueError):
            values = parsed_json(cell)
            if isinstance(values, list) and all(type(value) is str for value in values):
                return values
    return [value.strip() for value in cell.split(";") if value.strip()]


def _matching(pattern: re.Pattern[str], cell: str, expected: str) -> str:
    if not pattern.fullmatch(text := cell.strip()):
        raise ValueError(f"must be {expected}")
    return text


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key is given twice")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


_decode = json.JSONDecoder(
    object_pairs_hook=_unique_keys, parse_int=Number, parse_float=Number, parse_constant=_no_constant
).decode


def parsed_json(text: str) -> Any:
    """JSON text as a value whose numbers are each a Number. Raises ValueError."""
    try:
        return _decode(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not valid JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not valid JSON: {error}") from None


def write_cell(value: Any, kind: Kind) -> str:
    """The cell from which this very value is read; empty for null."""
    if value is None:
        return ""
    if kind == "list":
        cell = ";".join(value)
        return cell if value and read_cell(cell, kind) == value else dumped_json(value).decode()
    if kind == "json" or not isinstance(value, str):
        return dumped_json(value).decode()
    return value


def dumped_json(value: Any, option: int = 0) -> bytes:
    """A value as JSON, its numbers digit by digit."""
    return orjson.dumps(value, exactly, option)


def exactly(value: object) -> orjson.Fragment:
    """A number digit by digit: for orjson, which does not know the types that hold one so."""
    if isinstance(value, Number | LosslessFloat):
        return orjson.Fragment(str(value))
    raise TypeError
