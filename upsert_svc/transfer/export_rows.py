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

from upsert_svc.transfer.cells import Columns, Kinds, columns_by_type, dumped_json, write_cell
from upsert_svc.transfer.client import TransferFailed
from upsert_svc.transfer.import_rows import CSV_SUFFIXES, NDJSON_SUFFIXES, STANDARD_COLUMNS

Values = Mapping[str, Any]
_BEGINNINGS = (b"name,external_id", b'{"name":')  # of CSV and NDJSON


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


def columns_of(fields: Iterable[Values], kinds: Kinds, object_key: str) -> Columns:
    """The active fields by position. Raises TransferFailed for one that the import could not tell apart."""
    columns = columns_by_type(fields, kinds)
    for column in STANDARD_COLUMNS:
        if column in columns:
            raise TransferFailed(f"{object_key} has a field {column}, which would stand for the record's own")
    return columns


def is_begun(head: bytes) -> bool:
    """Whether a file that begins so may be an export that was cut off; it may have had another format."""
    return any(head.startswith(begun) or begun.startswith(head) for begun in _BEGINNINGS)


class Lines(Protocol):
    """Makes the lines of a format. `emptied` counts the values it could not tell from null."""

    emptied: int

    def header(self) -> bytes:
        """What stands before all records."""

    def of(self, records: Sequence[Values]) -> bytes:
        """The lines of some records."""


def lines(chosen: Format, columns: Columns) -> Lines:
    """The lines of a format."""
    return CsvLines(columns) if chosen is Format.csv else NdjsonLines(columns)


class NdjsonLines:
    """A JSON object a line; a null is written as such."""

    emptied = 0

    def __init__(self, columns: Columns) -> None:
        self._columns = columns

    def header(self) -> bytes:
        return b""

    def of(self, records: Sequence[Values]) -> bytes:
        return b"".join(
            dumped_json(_flat(record, self._columns), orjson.OPT_APPEND_NEWLINE) for record in records
        )


class CsvLines:
    """A cell for each value, as `cells.read_cell` takes it; a null is an empty cell."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self.emptied = 0

    def header(self) -> bytes:
        return _csv([[*STANDARD_COLUMNS, *self._columns]])

    def of(self, records: Sequence[Values]) -> bytes:
        return _csv(self._row(_flat(record, self._columns)) for record in records)

    def _row(self, values: Values) -> list[str]:
        self.emptied += sum(value == "" for value in values.values())
        return [write_cell(value, self._columns.get(column, "text")) for column, value in values.items()]


def _flat(record: Values, columns: Columns) -> dict[str, Any]:
    """Name, external_id and fields of a record, in the order of the columns."""
    fields = record["custom_object_fields"]
    if fields.keys() != columns.keys():
        raise TransferFailed("The fields were changed during the export; begin anew")
    standard = {column: record[column] for column in STANDARD_COLUMNS}
    return standard | {key: fields[key] for key in columns}


def _csv(rows: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()
