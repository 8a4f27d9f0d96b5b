"""The embedded server is started again for as long as it is used: after a kill, on a full disk, or never."""

import asyncio
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from tests.db.test_embedded import PROJECT, lives, query, running, server_pid, wait_until
from upsert_svc.db import embedded_watch
from upsert_svc.db.embedded import EmbeddedError, Server, start
from upsert_svc.db.embedded_home import Home

BACK_SECONDS = 5.0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a cluster and no server."""
    data_dir = tmp_path_factory.mktemp("watched") / "pg"
    start(data_dir, durable=False).stop()
    return data_dir


@pytest.fixture
def watched(made: Path) -> Iterator[Server]:
    """A server that is watched, and stopped at the end."""
    with start(made, durable=False) as server, server.watched():
        yield server
    assert not running(made)


def kill(server: Server) -> None:
    os.kill(server_pid(server.data_dir), signal.SIGKILL)


def until_back(server: Server, pid: int) -> float:
    """The seconds until another server takes connections."""
    home, begun = Home.at(server.data_dir), time.monotonic()
    wait_until(lambda: home.address() and home.server_pid() not in (pid, None))
    return time.monotonic() - begun


def test_a_killed_server_is_back_with_what_was_committed(
    watched: Server, caplog: pytest.LogCaptureFixture
) -> None:
    durable = "set synchronous_commit = on"
    query(watched.url, durable, "drop table if exists kept", "create table kept (n integer)")
    for number in range(3):
        query(watched.url, durable, f"insert into kept values ({number})")
        pid = server_pid(watched.data_dir)
        with caplog.at_level(logging.WARNING):
            kill(watched)
            assert until_back(watched, pid) < BACK_SECONDS
            wait_until(lambda: "runs again" in caplog.text)
        caplog.clear()
        assert query(watched.url, "select count(*) from kept") == number + 1


async def computing(url: str) -> asyncpg.Connection:
    """A connection whose server process does not look up from its work."""
    connection = await asyncpg.connect(url)
    task = asyncio.ensure_future(
        connection.execute("select count(*) from generate_series(1, 3000) a, generate_series(1, 1000000) b")
    )
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    await asyncio.sleep(0.2)
    return connection


async def stopped(url: str) -> asyncpg.Connection:
    """A connection whose server process has been stopped."""
    connection = await asyncpg.connect(url)
    os.kill(connection.get_server_pid(), signal.SIGSTOP)
    return connection


@pytest.mark.parametrize("busy", [computing, stopped])
@pytest.mark.parametrize("is_watched", [True, False])
async def test_processes_of_a_killed_server_that_do_not_end_do_not_keep_the_next_one_from_starting(
    made: Path, busy: object, is_watched: bool
) -> None:
    assert callable(busy)
    server = await asyncio.to_thread(start, made, durable=False)
    connection = await busy(server.url)
    leftover, pid = psutil.Process(connection.get_server_pid()), server_pid(made)
    if is_watched:
        with server.watched():
            kill(server)
            assert await asyncio.to_thread(until_back, server, pid) < BACK_SECONDS
    else:
        kill(server)
        (await asyncio.to_thread(start, made, durable=False)).stop()
    assert not lives(leftover)
    connection.terminate()
    await asyncio.to_thread(server.stop)


def test_processes_of_a_live_server_are_not_taken_for_leftovers(watched: Server) -> None:
    server = psutil.Process(server_pid(watched.data_dir))
    writers = [process for process in server.children() if "writer" in " ".join(process.cmdline())]
    Home.at(watched.data_dir).kill_leftovers()
    assert all(map(lives, [server, *writers]))
    assert len(writers) == 2


def test_two_that_watch_start_one_server(watched: Server) -> None:
    ready = watched.log_file.read_text().count("ready to accept connections")
    with start(watched.data_dir, durable=False) as second, second.watched():
        pid = server_pid(watched.data_dir)
        kill(watched)
        until_back(watched, pid)
    assert query(watched.url, "select 1") == 1
    assert watched.log_file.read_text().count("ready to accept connections") == ready + 1


def test_whoever_stops_does_not_wait_for_a_start_that_fails(
    made: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = start(made, durable=False)
    with server.watched():
        monkeypatch.setenv("UPSERT_SVC_PG_BINDIR", "/nowhere")
        kill(server)
        wait_until(lambda: "does not start" in caplog.text)
        begun = time.monotonic()
    server.stop()
    assert time.monotonic() - begun < 2
    assert not running(made)


def test_a_start_under_way_is_let_go_of_by_whoever_stops(made: Path) -> None:
    for _ in range(3):
        server = start(made, durable=False)
        with server.watched():
            kill(server)
            wait_until(lambda: not running(made))
        server.stop()
        assert not running(made)


def test_a_server_that_cannot_be_brought_back_ends_the_process_which_says_why(tmp_path: Path) -> None:
    script = """
import signal, sys, time
from pathlib import Path
from upsert_svc.db import embedded, embedded_watch
embedded_watch.GIVE_UP_SECONDS = 0.5
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
try:
    with embedded.start(Path(sys.argv[1]), durable=False) as server, server.watched():
        print("up", flush=True)
        time.sleep(60)
except embedded.EmbeddedError as error:
    sys.exit(str(error))
"""
    with script_of(script, tmp_path / "pg") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        pid = server_pid(tmp_path / "pg")
        control = tmp_path / "pg/cluster/data/global/pg_control"
        control.rename(control.with_suffix(".gone"))
        os.kill(pid, signal.SIGKILL)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 1
        assert "global/pg_control" in err
        assert str(tmp_path / "pg") in err


def test_a_data_directory_that_is_gone_does_not_come_back_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_watch, "GIVE_UP_SECONDS", 0.2)
    told: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    try:
        server = start(tmp_path / "pg", durable=False)
        with pytest.raises(EmbeddedError, match="is gone"), server.watched():  # noqa: PT012
            kill(server)
            shutil.move(tmp_path / "pg/cluster", tmp_path / "moved")
            wait_until(lambda: told)
        server.stop()
    finally:
        signal.signal(signal.SIGTERM, before)
    with pytest.raises(EmbeddedError, match="to begin with an empty database"):
        start(tmp_path / "pg", durable=False)
    assert not (tmp_path / "pg/cluster").exists()
    shutil.move(tmp_path / "moved", tmp_path / "pg/cluster")
    start(tmp_path / "pg", durable=False).stop()


def script_of(script: str, *arguments: object, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [*before, sys.executable, "-c", script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )


FULL_DISK = """
import asyncio, contextlib, os, signal, subprocess, sys, time
from pathlib import Path
import asyncpg
from upsert_svc.db import embedded

disk = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300m,mode=755", "tmpfs", disk], check=True)

def pid():
    return int((disk / "pg/cluster/data/postmaster.pid").read_text().split()[0])

async def fill(url):
    connection = await asyncpg.connect(url)
    await connection.execute("create table filler (n serial, t text)")
    acknowledged = 0
    with open(disk / "ballast", "wb", buffering=0) as ballast:
        try:
            while ballast.write(bytes(1 << 20)): pass
        except OSError: pass
        ballast.truncate(os.path.getsize(disk / "ballast") - (2 << 20))
    try:
        while True:
            await connection.execute("insert into filler (t) values (repeat('x', 1500))")
            acknowledged += 1
    except (asyncpg.PostgresError, OSError, asyncpg.InterfaceError) as error:
        print("failed with", type(error).__name__, flush=True)
    connection.terminate()
    return acknowledged

async def back(url, deadline):
    while True:
        try:
            connection = await asyncpg.connect(url)
            await connection.execute("insert into filler (t) values ('after')")
            rows = await connection.fetchval("select count(*) from filler") - 1
            await connection.close()
            return rows
        except (OSError, asyncpg.PostgresError):
            assert time.monotonic() < deadline, "it did not come back"
            await asyncio.sleep(0.05)

with embedded.start(disk / "pg", durable=True) as server, server.watched():
    acknowledged = asyncio.run(fill(server.url))
    with contextlib.suppress(OSError, ValueError):  # it may have ended already
        os.kill(pid(), signal.SIGKILL)
    time.sleep(float(sys.argv[2]))
    tries = server.log_file.read_text(errors="replace").count("No space left on device")
    begun = time.monotonic()
    (disk / "ballast").unlink()
    rows = asyncio.run(back(server.url, begun + 20))
    print("back after", time.monotonic() - begun, "acknowledged", acknowledged, "kept", rows, "tries", tries)
    assert rows >= acknowledged > 0
    assert time.monotonic() - begun < 5
"""


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="a small disk is root's to make")
def test_a_server_that_ended_with_a_full_disk_is_back_as_soon_as_there_is_room(tmp_path: Path) -> None:
    isolated = ("unshare", "--mount", "--propagation", "private")
    if subprocess.run([*isolated, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("no mount namespaces here")
    with script_of(FULL_DISK, tmp_path, 8, before=isolated) as process:
        out, err = process.communicate(timeout=100)
    assert process.returncode == 0, out + err
    assert "kept" in out
