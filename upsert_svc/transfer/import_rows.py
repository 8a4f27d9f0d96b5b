"""The rows of an import: a CSV or NDJSON file read line by line, each row turned into an upsert.

Refuses a file that cannot be read as such (TransferFailed) and single rows that cannot be sent (RowRefused).
"""

import codecs
import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec

import orjson

from upsert_svc.transfer.cells import (
    Kind,
    Number,
    exactly,
    parsed_json,
    read_cell,
    whole_text,
    without_fraction,
)
from upsert_svc.transfer.client import TransferFailed

STANDARD_COLUMNS = ("name", "external_id")
CSV_SUFFIXES = (".csv",)
NDJSON_SUFFIXES = (".ndjson", ".jsonl")
# A service takes bodies of 256 KB, so what is cut off a longer line never makes an acceptable record.
LINE_LIMIT_BYTES = 1 << 20
_MARKS = {
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"PK\x03\x04": "a spreadsheet or a ZIP archive",
    b"\xd0\xcf\x11\xe0": "a spreadsheet",
    b"\x1f\x8b": "compressed",
}
_BLANK_BYTES = b"\r\n \t"  # the first of them ends where UTF-16 has a 0
_NOT_UTF8 = "not UTF-8; it may be Latin-1 or Windows-1252"
_CSV_ERRORS = {  # what Python calls them, and what they are
    "unexpected end of data": "a quote is not closed",
    "new-line character": "a carriage return (CR) stands alone, outside of quotes; save it with LF or CRLF",
    "field larger than": "a cell has more than 1 MB; is a quote not closed?",
}
_HALF_A_CHARACTER = "has half a character, a lone surrogate"
_OTHER_COMMA = re.compile(r"[;\t|]")
_BLANK = re.compile(r"[^\S\r\n]")  # any white space within a line
_SPACED_QUOTE = re.compile(r'\s+"')
_PLAIN_NAME = re.compile(r"[\w.-]+")
_IDENTIFIER_LIMIT = 4096  # characters, so that the URL stays a URL; the service's own limit is far lower

Given = ParamSpec("Given")
Reasons = Mapping[str, Sequence[str]]


class RowRefused(Exception):
    """A row that is not taken: sentences by column, or by "base"; `status` is that of the answer, if any.

    `key` is the cell or value that identifies it, where there is one; `is_for_missing` tells that it names
    records that may come.
    """

    def __init__(
        self,
        reasons: Reasons,
        status: int | None = None,
        *,
        key: str | None = None,
        is_for_missing: bool = False,
    ) -> None:
        super().__init__(reasons)
        self.reasons = reasons
        self.status = status
        self.key = key
        self.is_for_missing = is_for_missing


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
    """The record of a row as JSON, and the identifier that finds it."""

    identifier: str
    record: bytes


class SourceRow(NamedTuple):
    """A row of the file: where it begins, and where the file goes on behind it."""

    start: Position
    end: Position
    upsert: Upsert | RowRefused

    @property
    def line(self) -> int:
        """That it begins in, from 1."""
        return self.start.line + 1

    @property
    def key(self) -> str | None:
        """What identifies the record, if it can be told."""
        if isinstance(self.upsert, Upsert):
            return self.upsert.identifier
        key = self.upsert.key or ""
        return str(key) if 0 < len(key) <= _IDENTIFIER_LIMIT and is_utf8(key) else None


class Source:
    """The rows of a file, by the suffix of its path.

    Raises TransferFailed for another suffix, for what is not UTF-8 from its beginning, and for a header that
    does not fit.
    """

    def __init__(self, file: BufferedReader, path: Path, definition: TargetDefinition) -> None:
        self._lines = _Lines(file)
        self._definition = definition
        suffix = path.suffix.lower()
        if suffix not in (*CSV_SUFFIXES, *NDJSON_SUFFIXES):
            raise TransferFailed(f"{path.name} must end in {', '.join((*CSV_SUFFIXES, *NDJSON_SUFFIXES))}")
        if problem := _problem_of_beginning(file.peek()):
            raise TransferFailed(f"{path.name} {problem}")
        self._header = _header(self._lines, definition) if suffix in CSV_SUFFIXES else None

    def row(self, start: Position) -> SourceRow:
        """The row that begins at a position behind all that was read."""
        return next(self.rows(start))

    def rows(self, start: Position) -> Iterator[SourceRow]:
        """The rows from a position on, one walk at a time. Raises TransferFailed for what is not CSV."""
        self._lines.go_to(start)
        if self._header is not None:
            return _csv_rows(self._lines, self._definition, self._header)
        return _ndjson_rows(self._lines, self._definition)


def _problem_of_beginning(head: bytes) -> str | None:
    """What a file is that is no text of lines in UTF-8, as far as its beginning tells."""
    for mark, name in _MARKS.items():
        if head.startswith(mark):
            return f"is {name}, not UTF-8; save it as CSV or NDJSON in UTF-8"
    first_line = head.lstrip(_BLANK_BYTES).partition(b"\n")[0]
    if first_line.count(0) * 4 > len(first_line):  # of the letters of keys every second byte is 0
        return "is UTF-16, or no text at all, and not UTF-8; save it as CSV or NDJSON in UTF-8"
    if b"\r" in head.rstrip(b"\r") and b"\n" not in head:
        return "has lines that end with a carriage return (CR) alone; save it with LF or CRLF"
    return None


class _Lines:
    """The lines as text, and how far the file has been read. Bytes that are not UTF-8 become surrogates."""

    def __init__(self, file: BufferedReader) -> None:
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
    csv.field_size_limit(LINE_LIMIT_BYTES)  # a cell that no field takes is a matter of its row
    reader = csv.reader(lines, strict=True)
    header = _next_cells(reader, 1)
    while header is not None and not any(cell.strip() for cell in header):
        header = _next_cells(reader, lines.position.line + 1)
    if header is None:
        raise TransferFailed("The file has no header row")
    if not is_utf8(*header):
        raise TransferFailed(f"The header is {_NOT_UTF8}")
    columns = [_quoted(column) for column in header]
    if again := sorted({column for column in columns if columns.count(column) > 1}):
        raise TransferFailed(f"The header names {', '.join(again)} more than once")
    if definition.key not in header:
        hint = (
            "; cells are separated by commas" if len(header) == 1 and _OTHER_COMMA.search(header[0]) else ""
        )
        raise TransferFailed(
            f"The header has no column {_quoted(definition.key)}; it has {', '.join(columns)}{hint}"
            f"{_meant(header, definition)}"
        )
    if unknown := [_quoted(column) for column in header if definition.problem(column)]:
        raise TransferFailed(
            f"Unknown columns: {', '.join(unknown)}; {definition.object_key} has no such fields"
            f"{_meant(header, definition)}"
        )
    return header


def _meant(header: Sequence[str], definition: TargetDefinition) -> str:
    """A hint at unknown columns that are known in another case, or without the blanks around them."""
    known = (*definition.kinds, *STANDARD_COLUMNS, definition.key)
    by_letters = {name.strip().casefold(): name for name in known}
    meant = [
        f"{by_letters[letters]} for {_quoted(column)}"
        for column in header
        if definition.problem(column) and (letters := column.strip().casefold()) in by_letters
    ]
    return f"; write {', '.join(meant)}, because columns count as they are written" if meant else ""


def _quoted(column: str) -> str:
    """The name of a column so that blanks around it, or nothing at all, can be seen."""
    return column if _PLAIN_NAME.fullmatch(column) else f'"{column}"'


def is_utf8(*texts: str) -> bool:
    """Whether texts were read from UTF-8: other bytes became surrogates, which cannot be written as such."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return False
    return True


def _csv_rows(lines: _Lines, definition: TargetDefinition, header: list[str]) -> Iterator[SourceRow]:
    taken: list[str] = []
    reader = csv.reader(_noted(lines, taken), strict=True)
    while True:
        start = lines.position
        cells = _next_cells(reader, start.line + 1)
        if cells is None:
            return
        if any(cell.strip() for cell in cells):
            upsert = _validated(of_cells, definition, header, cells, _spaced_quotes(cells, taken))
            yield SourceRow(start, lines.position, upsert)
        taken.clear()


def _noted(lines: Iterator[str], taken: list[str]) -> Iterator[str]:
    """The lines, each noted when it is taken."""
    for line in lines:
        taken.append(line)
        yield line


def _spaced_quotes(cells: Sequence[str], lines: Sequence[str]) -> list[str]:
    """The cells that begin with white space before a quote, which so is a part of them: hardly meant."""
    if not any(map(_SPACED_QUOTE.match, cells)):
        return []
    # were the blanks not there, would another cell be read? not where they are themselves between quotes
    try:
        meant = next(csv.reader(map(_blanked, lines), strict=True, skipinitialspace=True))
    except csv.Error:
        meant = []
    return [
        cell
        for number, cell in enumerate(cells)
        if _SPACED_QUOTE.match(cell) and meant[number : number + 1] != [_blanked(cell)]
    ]


def _blanked(text: str) -> str:
    """The text with a blank for any other white space, which is all that the reader of CSV can skip."""
    return _BLANK.sub(" ", text)


def _next_cells(reader: Iterator[list[str]], line: int) -> list[str] | None:
    """The next row; None at the end. After an error, where a row ends cannot be known any more."""
    try:
        return next(reader, None)
    except csv.Error as error:
        said = next((words for part, words in _CSV_ERRORS.items() if part in str(error)), str(error))
        raise TransferFailed(f"Line {line} is not CSV: {said}") from None


def _ndjson_rows(lines: _Lines, definition: TargetDefinition) -> Iterator[SourceRow]:
    start = lines.position
    for text in lines:
        if text.strip():
            yield SourceRow(start, lines.position, _validated(of_line, definition, text))
        start = lines.position


def _validated(
    validate: Callable[Given, Upsert], *given: Given.args, **options: Given.kwargs
) -> Upsert | RowRefused:
    try:
        return validate(*given, **options)
    except RowRefused as refusal:
        return refusal


def of_cells(
    definition: TargetDefinition, header: Sequence[str], cells: Sequence[str], misquoted: Sequence[str] = ()
) -> Upsert:
    """The upsert of a CSV row; an empty cell is left out. Raises RowRefused."""
    given = {column: cell for column, cell in zip(header, cells, strict=False) if cell}
    identifier = given.get(definition.key, "")
    if definition.kind_of(definition.key) == "integer":
        identifier = without_fraction(identifier)
    if misquoted:
        reasons = [f"A blank stands before the quotes of {json.dumps(cell)}" for cell in misquoted]
        raise RowRefused({"base": reasons}, key=identifier)
    if len(cells) != len(header):
        reason = f"The row has {len(cells)} cells, the header has {len(header)}"
        raise RowRefused({"base": [reason]}, key=identifier)
    if not is_utf8(*cells):
        raise RowRefused({"base": [f"The row is {_NOT_UTF8}"]}, key=identifier)
    values, problems = _read(definition, given)
    if problems:
        raise RowRefused(problems, key=identifier)
    return _upsert(definition, identifier, values)


def _read(
    definition: TargetDefinition, cells: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """The values of cells by column, and what is wrong with the others."""
    values: dict[str, Any] = {}
    reasons: dict[str, list[str]] = {}
    for column, cell in cells.items():
        try:
            values[column] = read_cell(cell, definition.kind_of(column))
        except ValueError as error:
            reasons[column] = [f"{column} {error}"]
    return values, reasons


def of_line(definition: TargetDefinition, text: str) -> Upsert:
    """The upsert of an NDJSON line. Raises RowRefused."""
    if not is_utf8(text):
        raise RowRefused({"base": [f"The line is {_NOT_UTF8}"]})
    try:
        values = parsed_json(text)
    except ValueError as error:
        raise RowRefused({"base": [f"The line {error}"]}) from None
    if not isinstance(values, dict):
        raise RowRefused({"base": ["The line is not a JSON object"]})
    values, reasons = _texted(definition, values)
    identifier = values.get(definition.key)
    is_text = isinstance(identifier, str)
    if not reasons and not is_text and identifier is not None:
        reasons = {definition.key: [f"{definition.key} must be text or a whole number"]}
    reasons |= {name: [problem] for name in map(_printable, values) if (problem := definition.problem(name))}
    if reasons:
        raise RowRefused(reasons, key=identifier if is_text else None)
    return _upsert(
        definition, whole_text(identifier) if isinstance(identifier, Number) else identifier or "", values
    )


def _texted(
    definition: TargetDefinition, values: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """The values, those that identify as text where they are numbers; and what is wrong with others."""
    texted = dict(values)
    reasons: dict[str, list[str]] = {}
    for column in {*STANDARD_COLUMNS, definition.key}:
        if isinstance(value := values.get(column), Number):
            try:
                digits = whole_text(value)
            except ValueError as error:
                reasons[column] = [f"{column} {error}"]
            else:
                texted[column] = digits if definition.kind_of(column) == "text" else value
    return texted, reasons


def _upsert(definition: TargetDefinition, identifier: str, values: Mapping[str, Any]) -> Upsert:
    """The standard columns are attributes of the record, the others its fields. Raises RowRefused."""
    if not identifier:
        raise RowRefused({definition.key: [f"{definition.key} cannot be blank"]})
    if len(identifier) > _IDENTIFIER_LIMIT:
        raise RowRefused({definition.key: [f"{definition.key} is too long"]})
    record: dict[str, Any] = {name: values[name] for name in STANDARD_COLUMNS if name in values}
    if definition.is_numbered:
        record.pop("name", None)
    if definition.key != "name":
        if record.get("external_id") not in (None, identifier):
            reason = f"external_id differs from {definition.key}, which identifies the record"
            raise RowRefused({"external_id": [reason]}, key=identifier)
        record["external_id"] = identifier
    fields = {
        key: value for key, value in values.items() if key in definition.kinds and key not in STANDARD_COLUMNS
    }
    if not is_utf8(identifier):
        raise RowRefused({definition.key: [f"{definition.key} {_HALF_A_CHARACTER}"]})
    try:
        record["custom_object_fields"] = fields
        return Upsert(identifier, orjson.dumps(record, exactly, orjson.OPT_PASSTHROUGH_SUBCLASS))
    except TypeError as error:
        is_of_text = "surrogates" in str(error)
        reason = f"A text {_HALF_A_CHARACTER}" if is_of_text else "The row is nested too deep"
        raise RowRefused({"base": [reason]}, key=identifier) from None


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
