"""What became of the rows of an import: counted, the refused ones written down, and noted for the next run.

Rows are settled in any order and recorded in the file's, so that one position tells how far the file is done.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from upsert_svc.transfer.files import progress
from upsert_svc.transfer.import_rows import Position, RowRefused, SourceRow, Upsert

OUTCOMES = ("created", "updated", "unchanged")
_NOTE_SECONDS = 0.5


@dataclass(frozen=True)
class Files:
    """The file, and what is written because of it."""

    path: Path
    refused: Path

    @property
    def part(self) -> Path:
        """The refused rows until the import is done."""
        return self.refused.with_name(f"{self.refused.name}.part")

    @property
    def state(self) -> Path:
        return self.path.with_name(f"{self.path.name}.import-state")


@dataclass(frozen=True)
class State:
    """How far a source is settled: every row before `offset` (bytes) and `line` was taken or refused."""

    source: Mapping[str, Any]
    offset: int = 0
    line: int = 0
    refused_bytes: int = 0
    counts: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys((*OUTCOMES, "refused"), 0))

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
        self._waiting: dict[int, tuple[SourceRow, str | RowRefused]] = {}
        self._part: BinaryIO | None = None
        self._is_published = False
        self._progress = progress()
        self._task = self._progress.add_task(files.path.name, total=self._source["size"], rows=0)
        self._noted_at = time.monotonic()

    def __enter__(self) -> "Ledger":
        if self._refused_bytes:
            self._part = self._files.part.open("ab")
            self._part.truncate(self._refused_bytes)
        if self._position.line:
            self._progress.console.print(f"Going on behind line {self._position.line}", highlight=False)
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leaves a note of how far the import came, unless it is done."""
        self._progress.stop()
        if self._recorded and not self._is_published:
            self._note()
        if self._part is not None:
            self._part.close()

    async def admit(self) -> int:
        """The number of the next row, once the first unsettled one is not too far behind."""
        await self._room.acquire()
        self._admitted += 1
        return self._admitted

    def settle(self, number: int, row: SourceRow, outcome: str | RowRefused) -> None:
        """Takes the outcome of a row; records it as soon as all rows before it are settled."""
        self._waiting[number] = (row, outcome)
        while (settled := self._waiting.pop(self._recorded + 1, None)) is not None:
            self._record(*settled)
            self._recorded += 1
            self._room.release()
        if time.monotonic() - self._noted_at > _NOTE_SECONDS:
            self._note()

    def publish(self) -> None:
        """The import is done: the refused rows take their name, and no state is left."""
        self._note()
        if self.counts["refused"]:
            self._files.part.replace(self._files.refused)
        else:
            self._files.refused.unlink(missing_ok=True)  # of an earlier import
        self._files.state.unlink(missing_ok=True)
        self._is_published = True

    def _record(self, row: SourceRow, outcome: str | RowRefused) -> None:
        if isinstance(outcome, RowRefused):
            self._write_refused(row, outcome)
            outcome = "refused"
        self.counts[outcome] += 1
        self._position = row.end

    def _write_refused(self, row: SourceRow, refusal: RowRefused) -> None:
        if self._part is None:
            self._part = self._files.part.open("wb")
        key = row.upsert.identifier if isinstance(row.upsert, Upsert) else None
        line = {"line": row.line, "key": key, "status": refusal.status, "reasons": refusal.reasons}
        self._refused_bytes += self._part.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    def _note(self) -> None:
        self._progress.update(self._task, completed=self._position.offset, rows=sum(self.counts.values()))
        if self._part is not None:
            self._part.flush()
            os.fsync(self._part.fileno())
        state = State(self._source, *self._position, self._refused_bytes, self.counts)
        fresh = self._files.state.with_name(f"{self._files.state.name}.new")
        # Where nothing can be written beside the file it is still imported, only not resumed.
        with contextlib.suppress(OSError):
            fresh.write_bytes(orjson.dumps(asdict(state)))
            fresh.replace(self._files.state)
        self._noted_at = time.monotonic()
