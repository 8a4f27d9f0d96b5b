"""The lines of an export: records of the service as the import reads them, in CSV or NDJSON.

Refuses records that do not have the fields they should have (TransferFailed).
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import orjson
from jiter import LosslessFloat

from upsert_svc.transfer.client import TransferFailed
from upsert_svc.transfer.import_rows import CSV_SUFFIXES, NDJSON_SUFFIXES, STANDARD_COLUMNS, converted

Types = Mapping[str, str]  # the types of the fields that are exported, in their order, by key
Values = Mapping[str, Any]


class Format(StrEnum):
    csv = "csv"
    ndjson = "ndjson"


def format_of(path: Path | None) -> Format:
    """The format that a file's suffix names. Raises TransferFailed for another suffix."""
    suffix = path.suffix.lower() if path is not None else NDJSON_SUFFIXES[0]
    if suffix in CSV_SUFFIXES:
        return Format.csv
    if suffix in NDJSON_SUFFIXES:
        return Format.ndjson
    raise TransferFailed(f"--format is needed: {suffix or 'no suffix'} names neither csv nor ndjson")


def types_of(fields: Iterable[Values], object_key: str) -> Types:
    """The active fields by position. Raises TransferFailed for one that the import could not tell apart."""
    types = {field["key"]: field["type"] for field in fields if field["active"] and not field["system"]}
    for column in STANDARD_COLUMNS:
        if column in types:
            raise TransferFailed(f"{object_key} has a field {column}, which would stand for the record's own")
    return types


class Lines(Protocol):
    """Makes the lines of a format. `emptied` counts the values it could not tell from null."""

    emptied: int

    def header(self) -> bytes:
        """What stands before all records."""

    def of(self, records: Sequence[Values]) -> bytes:
        """The lines of some records."""


def lines(chosen: Format, types: Types) -> Lines:
    """The lines of a format."""
    return CsvLines(types) if chosen is Format.csv else NdjsonLines(types)


class NdjsonLines:
    """A JSON object a line; a null is written as such."""

    emptied = 0

    def __init__(self, types: Types) -> None:
        self._types = types

    def header(self) -> bytes:
        return b""

    def of(self, records: Sequence[Values]) -> bytes:
        return b"".join(_json(_flat(record, self._types), orjson.OPT_APPEND_NEWLINE) for record in records)


class CsvLines:
    """A cell for each value, as `import_rows.converted` takes it; a null is an empty cell."""

    def __init__(self, types: Types) -> None:
        self._types = types
        self.emptied = 0

    def header(self) -> bytes:
        return _csv([[*STANDARD_COLUMNS, *self._types]])

    def of(self, records: Sequence[Values]) -> bytes:
        return _csv(self._row(_flat(record, self._types)) for record in records)

    def _row(self, values: Values) -> list[str]:
        self.emptied += sum(value == "" for value in values.values())
        return [_cell(value, self._types.get(column, "text")) for column, value in values.items()]


def _flat(record: Values, types: Types) -> dict[str, Any]:
    """Name, external_id and fields of a record, in the order of the columns."""
    fields = record["custom_object_fields"]
    if fields.keys() != types.keys():
        raise TransferFailed("The fields were changed during the export; begin anew")
    standard = {column: record[column] for column in STANDARD_COLUMNS}
    return standard | {key: fields[key] for key in types}


def _cell(value: Any, field_type: str) -> str:
    """The cell from which the import makes this very value; empty for null."""
    if value is None:
        return ""
    if field_type == "multiselect":
        cell = ";".join(value)
        return cell if value and converted(cell, field_type) == value else _json(value).decode()
    if field_type == "json" or not isinstance(value, str):
        return _json(value).decode()
    return value


def _csv(rows: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _json(value: Any, option: int = 0) -> bytes:
    return orjson.dumps(value, _exactly, option)


def _exactly(value: object) -> orjson.Fragment:
    """A number digit by digit."""
    if isinstance(value, LosslessFloat):
        return orjson.Fragment(str(value))
    raise TypeError
