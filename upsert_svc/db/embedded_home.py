"""A data directory of the embedded server: its paths, its locks, the processes that run on it.

Only `cluster/` in it belongs to the server's user, the rest to the caller's:

    start.lock    held while one process starts or stops the server
    users.lock    a shared flock for each user of the server; the kernel drops it when a process dies
    server.lock   held by the server's own processes, so that no second server runs on their cluster
    server.log    what initdb and the server print
    cluster/      data/ (PGDATA), run/ (the socket), password (the owner's, should someone turn TCP on)
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

from upsert_svc.mistakes import Mistake

if sys.platform != "win32":
    import fcntl

_T = TypeVar("_T")
START_SECONDS, STOP_SECONDS = 300, 120
LEFTOVER_SECONDS = 0.5  # that processes of a dead server have to end by themselves
HARMLESS = {"start.lock", "lost+found", ".gitignore"}
_LOG_LINES = 6
_TITLE = b"postgres: "  # of every process that a server has started; the server shows its arguments


class EmbeddedError(Mistake):
    """The embedded server cannot be used; the message names its data directory, its log and a way out."""


class Stopped(Exception):
    """What was waited for is no longer wanted."""


class Process(NamedTuple):
    """A process of this machine."""

    pid: int
    parent: int
    command: bytes


@dataclass(frozen=True, slots=True)
class Home:
    """A data directory: its paths, its locks and the server that runs on it."""

    data_dir: Path
    log: Path
    cluster: Path
    pgdata: Path
    tag: str  # tells its server from every other one in a list of processes
    stopping: threading.Event = field(default_factory=threading.Event, compare=False)  # ends all waiting

    @classmethod
    def at(cls, data_dir: Path) -> Home:
        root = Path(data_dir).resolve()
        tag = "upsert_svc_" + hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
        return cls(root, root / "server.log", root / "cluster", root / "cluster/data", tag)

    def error(self, what: str, advice: str = "see the end of the log") -> EmbeddedError:
        end: list[str] = []
        with contextlib.suppress(OSError):
            end = self.log.read_text(errors="replace")[-4000:].splitlines()[-_LOG_LINES:]
        what = f"{what} (data directory {self.data_dir}, log file {self.log}): {advice}"
        return EmbeddedError("\n  ".join([what, *end]))

    def lock(self, name: str) -> IO[bytes]:
        return os.fdopen(os.open(self.data_dir / name, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0)

    def may_have_cluster(self) -> bool:
        """Whether there is a cluster, or was one, or this user may not look: the start says so then."""
        try:
            return (self.pgdata / "PG_VERSION").exists() or (self.data_dir / "server.lock").exists()
        except OSError:
            return True

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Make the directory ours; then one process at a time starts or stops the server."""
        try:
            self.data_dir.mkdir(0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
            names = {path.name for path in self.data_dir.iterdir()}
            is_ours = "start.lock" in names or (self.pgdata / "PG_VERSION").exists()  # or a backup of ours
            if not is_ours and (others := names - HARMLESS):
                raise self.error(f"there are files of others ({min(others)})", "choose an empty directory")
            with self.lock("start.lock") as lock:
                self.until(lambda: flock(lock), START_SECONDS + STOP_SECONDS, "another process is at it")
                yield
        except (OSError, subprocess.SubprocessError) as error:
            raise self.error(str(error), "check the path, its owner and free space") from error

    @contextlib.contextmanager
    def turn_on_what_is_there(self) -> Iterator[None]:
        """The same on a cluster that exists; one that is gone is not to come back as an empty one."""
        version = self.pgdata / "PG_VERSION"
        if not version.exists():
            raise self.error(f"{version} is gone", "bring the data directory back")
        with self.turn():
            yield

    def until(self, attempt: Callable[[], _T | None], seconds: float, what: str) -> _T:
        """What an attempt answers at last. Raises EmbeddedError after a time, and Stopped."""
        deadline = time.monotonic() + seconds
        while not (result := attempt()):
            if time.monotonic() > deadline:
                raise self.error(f"{what} for {seconds:.0f} s")
            if self.stopping.wait(0.01):
                raise Stopped
        return result

    def server_pid(self, file: Path | None = None) -> int | None:
        """The process id in a lock file if that is a live PostgreSQL of this directory, else None."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            text = (file or self.pgdata / "postmaster.pid").read_text()
            command = _command(pid := abs(int(text.split("\n", 1)[0])))  # negative: a single-user session
            ours = self.tag.encode() in command or os.fsencode(self.pgdata) in command
            return pid if ours and b"postgres -" in command else None
        return None

    def address(self) -> tuple[str, str] | None:
        """Socket directory and port of the server, None while it starts or stops."""
        with contextlib.suppress(FileNotFoundError):
            lines = (self.pgdata / "postmaster.pid").read_text().splitlines()
            return (lines[4], lines[3]) if len(lines) > 7 and lines[7].strip() == "ready" else None
        return None

    def kill_leftovers(self) -> None:
        """Kill what is left of a dead server: PostgreSQL starts none while a process of the last one lives.

        They end by themselves as soon as they look, which one that computes or is stopped does not.
        """
        ours = {process.pid: process for process in _processes() if self._is_of_the_server(process)}
        for process in ours.values():
            if process.command.startswith(_TITLE) and process.parent not in ours:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)

    def _is_of_the_server(self, process: Process) -> bool:
        """Whether it is one of the server's: by its directory where that can be told, else by its title."""
        if not process.command.startswith(_TITLE) and b"postgres -" not in process.command:
            return False
        if sys.platform != "linux":
            return self.tag.encode() in process.command
        with contextlib.suppress(OSError):  # it has ended
            return Path(f"/proc/{process.pid}/cwd").samefile(self.pgdata)
        return False

    def leave(self, reference: IO[bytes]) -> None:
        """Drop a reference, and stop the server if it was the last one."""
        reference.close()  # not LOCK_UN, which would also drop the reference of a forked child
        with self.lock("users.lock") as users:
            pid, address = self.server_pid(), self.address()
            if pid is None or not flock(users):
                return
            os.kill(pid, signal.SIGINT)
            self.until(lambda: self.server_pid() is None, STOP_SECONDS, "the server does not stop")
            with contextlib.suppress(OSError):
                if address and Path(address[0]).name == self.tag:
                    os.rmdir(address[0])


def flock(file: IO[bytes]) -> bool:
    """Whether the file could be locked for this process alone."""
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _command(pid: int) -> bytes:
    """The command line of a process; without arguments if it is a zombie, empty if there is none."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
        return b""
    command = ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)]
    return subprocess.run(command, capture_output=True, timeout=10, check=False).stdout


def _processes() -> Iterator[Process]:
    """All processes that this one can see."""
    if sys.platform == "linux":
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):  # it has ended
                state = Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()
                yield Process(int(name), int(state[1]), _command(int(name)))
        return
    command = ["/bin/ps", "-wwax", "-o", "pid=,ppid=,command="]
    listed = subprocess.run(command, capture_output=True, timeout=10, check=False).stdout
    for line in listed.splitlines():
        pid, parent, *rest = line.split(maxsplit=2)
        yield Process(int(pid), int(parent), b"".join(rest))
