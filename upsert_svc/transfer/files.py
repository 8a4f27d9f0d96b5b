"""What import and export share beside the service's client: a lock on their file, a bar of progress."""

import sys
from typing import BinaryIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from upsert_svc.transfer.client import TransferFailed

if sys.platform != "win32":
    import fcntl


def lock(file: BinaryIO, refusal: str) -> None:
    """Two transfers of one file would spoil each other's; the lock goes with the process.

    Raises TransferFailed with the refusal when another process has it.
    """
    if sys.platform != "win32":
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TransferFailed(refusal) from None


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
