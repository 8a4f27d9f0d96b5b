"""The rows of an import: a CSV or NDJSON file read line by line, each row turned into an upsert.

Refuses a file that cannot be read as such (TransferFailed) and single rows that cannot be sent (RowRefused).
"""

import codecs
import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, ParamSpec

import orjson

from upsert_svc.transfer.cells import Kind, exactly, parsed_json, read_cell
from upsert_svc.transfer.client import TransferFailed

STANDARD_COLUMNS = ("name", "external_id")
CSV_SUFFIXES = (".csv",)
NDJSON_SUFFIXES = (".ndjson", ".jsonl")
# A service takes bodies of 256 KB, so what is cut off a longer line never makes an acceptable record.
LINE_LIMIT_BYTES = 1 << 20
_IDENTIFIER_LIMIT = 4096  # characters, so that the URL stays a URL; the service's own limit is far lower

Given = ParamSpec("Given")
Reasons = Mapping[str, Sequence[str]]


class RowRefused(Exception):
    """A row that is not taken: sentences by column, or by "base"; `status` is that of the answer, if any."""

    def __init__(self, reasons: Reasons, status: int | None = None) -> None:
        super().__init__(reasons)
        self.reasons = reasons
        self.status = status


@dataclass(frozen=True)
class TargetDefinition:
    """What rows are made by: how the cells of the object's active fields are read, and what identifies.

    Where names are numbered by the service none is sent.
    """

    object_key: str
    key: str
    kinds: Mapping[str, Kind]
    is_numbered: bool = False

    def problem(self, column: str) -> str | None:
        """Why no value can be sent for a column, if so."""
        if column in self.kinds or column in STANDARD_COLUMNS or column == self.key:
            return None
        return f"{column} is not an active field of {self.object_key}"

    def kind_of(self, column: str) -> Kind:
        """The kind of a column's cells; text for a standard one and for a mere identifier."""
        return "text" if column in STANDARD_COLUMNS else self.kinds.get(column, "text")


class Position(NamedTuple):
    """A place between two rows of the file: bytes and lines before it."""

    offset: int = 0
    line: int = 0


class Upsert(NamedTuple):
    """One request: the identifier of the query, and the body."""

    identifier: str
    body: bytes


class SourceRow(NamedTuple):
    """A row of the file: the line it begins in (from 1), and where the file goes on behind it."""

    line: int
    end: Position
    upsert: Upsert | RowRefused


def rows(file: BinaryIO, path: Path, definition: TargetDefinition, start: Position) -> Iterator[SourceRow]:
    """The rows from a position on, by the suffix of the path.

    Raises TransferFailed for another suffix, for a header that does not fit, and for what is not CSV.
    """
    lines = _Lines(file)
    suffix = path.suffix.lower()
    if suffix in CSV_SUFFIXES:
        return _csv_rows(lines, definition, _header(lines, definition), start)
    if suffix in NDJSON_SUFFIXES:
        return _ndjson_rows(lines, definition, start)
    raise TransferFailed(f"{path.name} must end in {', '.join((*CSV_SUFFIXES, *NDJSON_SUFFIXES))}")


class _Lines:
    """The lines as text, and how far the file has been read. Bytes that are not UTF-8 become surrogates."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.position = Position()

    def go_to(self, position: Position) -> None:
        if position.offset > self.position.offset:
            self._file.seek(position.offset)
            self.position = position

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = part = self._file.readline(LINE_LIMIT_BYTES)
        if not line:
            raise StopIteration
        offset, number = self.position
        offset += len(line)
        while len(part) == LINE_LIMIT_BYTES and not part.endswith(b"\n"):
            part = self._file.readline(LINE_LIMIT_BYTES)
            offset += len(part)
        self.position = Position(offset, number + 1)
        if number == 0:
            line = line.removeprefix(codecs.BOM_UTF8)
        return line.decode("utf-8", "surrogateescape")


def _header(lines: _Lines, definition: TargetDefinition) -> list[str]:
    """The columns of a CSV file. Raises TransferFailed for any that is missing, unknown or given twice."""
    header = _next_cells(csv.reader(lines, strict=True), 1)
    if not header:
        raise TransferFailed("The file has no header row")
    columns = [_printable(column) or "(no name)" for column in header]
    if again := sorted({column for column in columns if columns.count(column) > 1}):
        raise TransferFailed(f"The header names {', '.join(again)} more than once")
    if definition.key not in header:
        raise TransferFailed(f"The header has no column {definition.key}; it has {', '.join(columns)}")
    if unknown := [column for column in columns if definition.problem(column)]:
        raise TransferFailed(
            f"Unknown columns: {', '.join(unknown)}; {definition.object_key} has no such fields"
        )
    return header


def _csv_rows(
    lines: _Lines, definition: TargetDefinition, header: list[str], start: Position
) -> Iterator[SourceRow]:
    lines.go_to(start)
    csv.field_size_limit(LINE_LIMIT_BYTES)  # a cell that no field takes is a matter of its row
    reader = csv.reader(lines, strict=True)
    while True:
        line = lines.position.line + 1
        cells = _next_cells(reader, line)
        if cells is None:
            return
        if cells:
            yield SourceRow(line, lines.position, _validated(of_cells, definition, header, cells))


def _next_cells(reader: Iterator[list[str]], line: int) -> list[str] | None:
    """The next row; None at the end. After an error, where a row ends cannot be known any more."""
    try:
        return next(reader, None)
    except csv.Error as error:
        raise TransferFailed(f"Line {line} is not CSV: {error}") from None


def _ndjson_rows(lines: _Lines, definition: TargetDefinition, start: Position) -> Iterator[SourceRow]:
    lines.go_to(start)
    for text in lines:
        if text.strip():
            yield SourceRow(lines.position.line, lines.position, _validated(of_line, definition, text))


def _validated(
    validate: Callable[Given, Upsert], *given: Given.args, **options: Given.kwargs
) -> Upsert | RowRefused:
    try:
        return validate(*given, **options)
    except RowRefused as refusal:
        return refusal


def of_cells(definition: TargetDefinition, header: Sequence[str], cells: Sequence[str]) -> Upsert:
    """The upsert of a CSV row; an empty cell is left out. Raises RowRefused."""
    if len(cells) != len(header):
        raise RowRefused({"base": [f"The row has {len(cells)} cells, the header has {len(header)}"]})
    given = {column: cell for column, cell in zip(header, cells, strict=True) if cell}
    values: dict[str, Any] = {}
    reasons: dict[str, list[str]] = {}
    for column, cell in given.items():
        try:
            values[column] = read_cell(cell, definition.kind_of(column))
        except ValueError as error:
            reasons[column] = [f"{column} {error}"]
    if reasons:
        raise RowRefused(reasons)
    return _upsert(definition, given.get(definition.key, ""), values)


def of_line(definition: TargetDefinition, text: str) -> Upsert:
    """The upsert of an NDJSON line. Raises RowRefused."""
    try:
        values = parsed_json(text)
    except ValueError as error:
        raise RowRefused({"base": [f"The line {error}"]}) from None
    if not isinstance(values, dict):
        raise RowRefused({"base": ["The line is not a JSON object"]})
    if reasons := {
        name: [problem] for name in map(_printable, values) if (problem := definition.problem(name))
    }:
        raise RowRefused(reasons)
    identifier = values.get(definition.key)
    if not isinstance(identifier, str | None):
        raise RowRefused({definition.key: [f"{definition.key} must be text or a number"]})
    return _upsert(definition, str(identifier or ""), values)


def _upsert(definition: TargetDefinition, identifier: str, values: Mapping[str, Any]) -> Upsert:
    """The standard columns are attributes of the record, the others its fields. Raises RowRefused."""
    if not identifier:
        raise RowRefused({definition.key: [f"{definition.key} cannot be blank"]})
    if len(identifier) > _IDENTIFIER_LIMIT:
        raise RowRefused({definition.key: [f"{definition.key} is too long"]})
    record = {name: values[name] for name in STANDARD_COLUMNS if name in values}
    if definition.is_numbered:
        record.pop("name", None)
    if definition.key == "external_id":
        del record["external_id"]  # the query has it, as text
    fields = {
        key: value for key, value in values.items() if key in definition.kinds and key not in STANDARD_COLUMNS
    }
    try:
        identifier.encode()
        body = {"custom_object_record": {**record, "custom_object_fields": fields}}
        return Upsert(identifier, orjson.dumps(body, exactly, orjson.OPT_PASSTHROUGH_SUBCLASS))
    except (TypeError, UnicodeEncodeError):
        raise RowRefused({"base": ["The row is not UTF-8, or is nested too deep"]}) from None


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
