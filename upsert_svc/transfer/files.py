"""What import and export share beside the service's client: locks, partial files, a bar of progress.

A file that neither wrote, and that nobody named to be written, is never overwritten (TransferFailed).
"""

import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from upsert_svc.transfer.client import TransferFailed

if sys.platform != "win32":
    import fcntl

_HEAD_BYTES = 1 << 20


def lock(file: BinaryIO, refusal: str) -> None:
    """Two transfers of one file would spoil each other's; the lock goes with the process.

    Raises TransferFailed with the refusal when another process has it.
    """
    if sys.platform != "win32":
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TransferFailed(refusal) from None


def spelled(path: Path) -> str:
    """A path as text that JSON can hold: its bytes are any, and those that are not UTF-8 become escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def refuse_foreign(path: Path, is_ours: Callable[[bytes], bool]) -> None:
    """Raises TransferFailed for what is there and is no file that begins as an earlier run would begin it.

    `is_ours` is asked about the first line. An empty file is nobody's.
    """
    try:
        is_file = stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return
    if not is_file:
        raise TransferFailed(f"{path} is not a file")
    with path.open("rb") as file:
        head = file.readline(_HEAD_BYTES)
    if head and not is_ours(head):
        raise TransferFailed(f"{path} holds something else, which would be lost; move it, or name another")


def open_part(part: Path, is_ours: Callable[[bytes], bool]) -> BinaryIO:
    """A partial file for this process alone, open at the end of what it holds already.

    Raises TransferFailed when another process writes it, or when it is none of an earlier run's.
    """
    refuse_foreign(part, is_ours)
    file = part.open("ab")
    refusal = f"{part} is being written already"
    try:
        lock(file, refusal)
        if not _is_still(file, part):
            raise TransferFailed(refusal)
    except BaseException:
        file.close()
        raise
    return file


def _is_still(file: BinaryIO, path: Path) -> bool:
    """Whether an open file is the one of that name: who had the lock before may have moved it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def progress() -> Progress:
    """A bar with the number of rows, on a terminal only."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rows]} rows"),
        TimeRemainingColumn(),
        console=console,
        refresh_per_second=4,
        disable=not console.is_terminal,
    )
