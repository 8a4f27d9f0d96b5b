"""What became of the rows of an import: counted, the refused ones written down, and noted for the next run.

Rows are settled in any order and recorded in the file's, so that one position tells how far the file is done.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from upsert_svc.transfer.client import TransferFailed, escaped
from upsert_svc.transfer.files import open_part, progress, refuse_foreign
from upsert_svc.transfer.import_rows import Position, RowRefused, SourceRow

OUTCOMES = ("created", "updated", "unchanged")
_NOTE_SECONDS = 0.5
_REFUSED_BEGINNING, _STATE_BEGINNING = b'{"line":', b'{"source":'


@dataclass(frozen=True)
class Files:
    """The file, and what is written because of it."""

    path: Path
    refused: Path

    @property
    def target(self) -> Path:
        """Where the refused rows are in the end: so that a link stays one."""
        return Path(os.path.realpath(self.refused))

    @property
    def part(self) -> Path:
        """The refused rows until the import is done."""
        return self.target.with_name(f"{self.target.name}.part")

    @property
    def state(self) -> Path:
        return self.path.with_name(f"{self.path.name}.import-state")

    @property
    def fresh_state(self) -> Path:
        """The state while it is written."""
        return self.state.with_name(f"{self.state.name}.new")

    def check(self) -> None:
        """Raises TransferFailed, or OSError, if anything would be overwritten that no import wrote.

        The partial file is looked at when it is opened.
        """
        if self.refused.exists() and not self.refused.is_file():
            raise TransferFailed(f"{self.refused} is not a file; --refused names where refused rows go")
        if self.target.exists() and self.target.samefile(self.path):
            raise TransferFailed(f"{self.refused} is the file to import; --refused must name another")
        if self.target in (Path(os.path.realpath(path)) for path in (self.state, self.fresh_state)):
            raise TransferFailed(
                f"{self.refused} is where the import takes notes; --refused must name another"
            )
        refuse_foreign(self.target, is_of_refused_rows)
        for state in (self.state, self.fresh_state):
            refuse_foreign(state, lambda head: _begins(head, _STATE_BEGINNING))


def is_of_refused_rows(line: bytes) -> bool:
    """Whether the first line of a file is a refused row."""
    try:
        row = orjson.loads(line)
    except ValueError:
        return False
    return isinstance(row, dict) and list(row) == ["line", "key", "status", "reasons"]


def is_of_refused_part(line: bytes) -> bool:
    """Whether the first line is a refused row, perhaps one that was not written to its end."""
    return is_of_refused_rows(line) or (not line.endswith(b"\n") and _begins(line, _REFUSED_BEGINNING))


def _begins(head: bytes, beginning: bytes) -> bool:
    return head.startswith(beginning) or beginning.startswith(head)


@dataclass(frozen=True)
class State:
    """How far a source is settled: every row before `offset` (bytes) and `line` was taken, refused, or waits.

    `waiting` has the places of those that wait, in the file's order, each an offset and a line.
    """

    source: Mapping[str, Any]
    offset: int = 0
    line: int = 0
    refused_bytes: int = 0
    counts: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys((*OUTCOMES, "refused"), 0))
    waiting: Sequence[tuple[int, int]] = field(default_factory=list)

    @property
    def waiting_positions(self) -> Iterator[Position]:
        return (Position(*place) for place in self.waiting)

    @property
    def position(self) -> Position:
        return Position(self.offset, self.line)


def kept_state(source: Mapping[str, Any], files: Files) -> State:
    """The state that an interrupted import left, if it is of this source and whole; else a new one."""
    try:
        kept = State(**orjson.loads(files.state.read_bytes()))
        is_whole = not kept.refused_bytes or files.part.stat().st_size >= kept.refused_bytes
    except (OSError, ValueError, TypeError):
        return State(source)
    return kept if kept.source == source and is_whole else State(source)


class Ledger:
    """The rows that are under way, and what is known of those before them.

    Refused rows go to a partial file, which takes its name at the end. A note of the state says how long it
    is: what an interrupted import wrote behind that is cut off, and those rows are sent again.
    """

    def __init__(self, files: Files, state: State, *, rows_ahead: int) -> None:
        self._files = files
        self._source = state.source
        self._position = state.position
        self._refused_bytes = state.refused_bytes
        self.counts = dict(state.counts)
        self._room = asyncio.Semaphore(rows_ahead)
        self._admitted = self._recorded = 0
        self._unrecorded: dict[int, tuple[SourceRow, str | RowRefused | None]] = {}
        self._waiting = dict(state.waiting)
        self._is_changed = False
        self._part = self._opened_part()
        self._is_published = False
        self._progress = progress()
        self._task = self._progress.add_task(escaped(files.path.name), total=self._source["size"], rows=0)
        self._noted_at = time.monotonic()

    def __enter__(self) -> "Ledger":
        if self._position.line:
            self._progress.console.print(f"Going on behind line {self._position.line}", highlight=False)
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leaves a note of how far the import came, unless it is done."""
        self._progress.stop()
        if self._is_changed and not self._is_published:
            self._note()
        if not self._refused_bytes and not self._is_published:
            self._files.part.unlink(missing_ok=True)
        self._part.close()

    def _opened_part(self) -> BinaryIO:
        """Opened before anything is sent: an import must not end at its first refused row."""
        try:
            part = open_part(self._files.part, is_of_refused_part)
        except OSError as error:
            reason = error.strerror or str(error)
            raise TransferFailed(
                f"{self._files.refused}: {reason}; --refused names where refused rows go"
            ) from None
        part.truncate(self._refused_bytes)
        return part

    async def admit(self) -> int:
        """The number of the next row, once the first unsettled one is not too far behind."""
        await self._room.acquire()
        self._admitted += 1
        return self._admitted

    def settle(self, number: int, row: SourceRow, outcome: str | RowRefused | None) -> None:
        """Takes the outcome of a row, None if it waits; records it as soon as all before it are settled."""
        self._unrecorded[number] = (row, outcome)
        while (settled := self._unrecorded.pop(self._recorded + 1, None)) is not None:
            self._record(*settled)
            self._recorded += 1
            self._room.release()
        self._note_at_times()

    def settle_waiting(self, row: SourceRow, outcome: str | RowRefused) -> None:
        """Takes the outcome of a row that waited; all before it are recorded."""
        del self._waiting[row.start.offset]
        self._count(row, outcome)
        self._note_at_times()

    def publish(self) -> None:
        """The import is done: the refused rows take their name, and no state is left."""
        self._note()
        if self.counts["refused"]:
            self._files.part.replace(self._files.target)
        else:
            self._files.part.unlink(missing_ok=True)
            self._files.target.unlink(missing_ok=True)  # of an earlier import
        self._files.state.unlink(missing_ok=True)
        self._is_published = True

    def _record(self, row: SourceRow, outcome: str | RowRefused | None) -> None:
        if outcome is None:
            self._waiting[row.start.offset] = row.start.line
            self._is_changed = True
        else:
            self._count(row, outcome)
        self._position = row.end

    def _count(self, row: SourceRow, outcome: str | RowRefused) -> None:
        if isinstance(outcome, RowRefused):
            self._write_refused(row, outcome)
            outcome = "refused"
        self.counts[outcome] += 1
        self._is_changed = True

    def _write_refused(self, row: SourceRow, refusal: RowRefused) -> None:
        line = {"line": row.line, "key": row.key, "status": refusal.status, "reasons": refusal.reasons}
        self._refused_bytes += self._part.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    def _note_at_times(self) -> None:
        if time.monotonic() - self._noted_at > _NOTE_SECONDS:
            self._note()

    def _note(self) -> None:
        self._progress.update(self._task, completed=self._position.offset, rows=sum(self.counts.values()))
        self._part.flush()
        os.fsync(self._part.fileno())
        waiting = list(self._waiting.items())
        state = State(self._source, *self._position, self._refused_bytes, self.counts, waiting)
        fresh = self._files.fresh_state
        # Where nothing can be written beside the file it is still imported, only not resumed.
        with contextlib.suppress(OSError):
            fresh.write_bytes(orjson.dumps(state))
            fresh.replace(self._files.state)
        self._noted_at = time.monotonic()
