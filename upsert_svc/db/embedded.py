"""Starts, shares and stops an embedded PostgreSQL; owns what is in its data directory and refuses any other.

`embedded_home` has the directory, its locks and processes; `embedded_cluster` the binaries, the cluster and
how it is started; `embedded_watch` starts the server again when it ends.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from upsert_svc.db.embedded_access import DATABASE, OWNER
from upsert_svc.db.embedded_cluster import BINDIR_VARIABLE, find_postgres
from upsert_svc.db.embedded_home import EmbeddedError, Home
from upsert_svc.db.embedded_watch import Watch
from upsert_svc.db.pools import SERVICE_ROLE

if sys.platform != "win32":
    import fcntl

__all__ = [
    "BINDIR_VARIABLE",
    "DATABASE",
    "HELD_VARIABLE",
    "OWNER",
    "EmbeddedError",
    "Server",
    "hold",
    "require_cluster",
    "start",
]
HELD_VARIABLE = "UPSERT_SVC_EMBEDDED_DATA_DIR"  # from a process that serves to its workers


@dataclass(frozen=True)
class Server:
    """One reference to the running server; a context manager that calls `stop` at its end.

    `url` is that of the owner, a superuser. The service has a login of its own, which owns nothing.
    """

    url: str
    data_dir: Path
    log_file: Path
    is_durable: bool
    _reference: IO[bytes] = field(repr=False, compare=False)

    @property
    def service_url(self) -> str:
        """The URL of the service's login."""
        return self.url.replace(f"//{OWNER}@", f"//{SERVICE_ROLE}@", 1)

    def stop(self) -> None:
        """Drop the reference; the last user stops the server in fast mode (120 s at most). Idempotent."""
        home = Home.at(self.data_dir)
        if not self._reference.closed:
            with home.turn():
                home.leave(self._reference)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Start the server again whenever it ends within the block (see `Watch`).

        Where that cannot be done the process gets a SIGTERM, and the block ends with EmbeddedError.
        """
        watch = Watch(Home.at(self.data_dir), durable=self.is_durable)
        try:
            yield
        finally:
            watch.stop()
            if watch.failure is not None:
                raise watch.failure

    def let_workers_hold(self) -> None:
        """Have the processes that this one starts find the server (see `hold`)."""
        os.environ[HELD_VARIABLE] = str(self.data_dir)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


def start(data_dir: Path, *, durable: bool = True) -> Server:
    """Make the cluster and its database if missing, start the server or attach to it, and hold a reference.

    Blocks: about a second for a new directory, 0.2 s for an old one, up to 300 s after a crash. The server
    outlives this process unless `stop` is called. With durable=False a crash of the machine may destroy the
    data (for tests); a durable caller refuses to attach to such a server. Raises EmbeddedError if it fails,
    on Windows, without binaries, and for a directory that is not ours or of another major version.
    """
    if sys.platform == "win32":
        raise EmbeddedError("the embedded server does not run on Windows: set UPSERT_SVC_DATABASE_URL")
    home = Home.at(data_dir)
    with home.turn():
        reference = home.lock("users.lock")
        try:
            fcntl.flock(reference, fcntl.LOCK_SH)
            return Server(find_postgres(home).serve(durable), home.data_dir, home.log, durable, reference)
        except BaseException:
            home.leave(reference)
            raise


def require_cluster(data_dir: Path) -> None:
    """Raises EmbeddedError where `start` would make a cluster, instead of making one."""
    if not Home.at(data_dir).may_have_cluster():
        raise EmbeddedError(
            f"There is no database in the data directory {data_dir.absolute()}: name its directory with "
            "--data-dir or UPSERT_SVC_DATA_DIR; `upsert-svc serve` and `migrate` make one"
        )


def hold() -> IO[bytes] | None:
    """A reference to the server that the process above serves on; None where that has none.

    With it a worker that has lost that process keeps the server for as long as it still works, until
    it closes the answer.
    """
    if (data_dir := os.environ.get(HELD_VARIABLE)) is None:
        return None
    reference = Home.at(Path(data_dir)).lock("users.lock")
    fcntl.flock(reference, fcntl.LOCK_SH)
    return reference
