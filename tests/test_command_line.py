"""The commands as an operator types them, in processes of their own."""

import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import socket
import stat
import sys
import time
from collections.abc import AsyncIterator, Callable
from importlib.metadata import version
from pathlib import Path

import asyncpg
import httpx
import psutil
import pytest

from tests.support import processes
from tests.support.harness import Cluster
from tests.support.processes import TOKEN, free_port, needs_curl, run, serving, start, start_in, until_ready
from upsert_svc import database_urls
from upsert_svc.settings import Settings

NO_UTF8 = os.fsdecode(b"\xff")
ADMIN = {"BOOTSTRAP_EMAIL": "a@example.com", "BOOTSTRAP_TOKEN": TOKEN}
ROOT = Path(__file__).parents[1]
every_count_of_workers = pytest.mark.parametrize("workers", ["1", "2"])
CARS = "/api/v2/custom_objects/car/records"


async def test_serve_makes_the_bootstrap_admin_and_stops_cleanly_on_sigterm(cluster: Cluster) -> None:
    url = await cluster.new_database(empty=True)
    settings = {"BOOTSTRAP_EMAIL": "Admin@Example.com", "BOOTSTRAP_TOKEN": TOKEN}
    for _ in range(2):
        async with serving("--database-url", url, **settings) as (client, process):
            answer = await client.get("/api/v2/custom_objects", auth=("admin@example.com/token", TOKEN))
            assert answer.status_code == 200
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 20) == 0


async def test_several_workers_share_one_embedded_server(tmp_path: Path) -> None:
    async with serving("--workers", "2", "--data-dir", str(tmp_path / "data"), **ADMIN) as (client, _):
        await make_cars(client)
        upsert = {"custom_object_record": {"name": "x"}}
        answers = await asyncio.gather(
            *(
                client.patch("/api/v2/custom_objects/car/records?external_id=1", json=upsert)
                for _ in range(20)
            )
        )
    outcomes = sorted(answer.headers["Upsert-Result"] for answer in answers)
    assert outcomes == ["created", *["unchanged"] * 19]
    assert not (tmp_path / "data" / "cluster" / "data" / "postmaster.pid").exists()


@needs_curl
async def test_the_demo_prints_requests_that_work_when_pasted_anywhere_and_no_token(tmp_path: Path) -> None:
    data = tmp_path / "it's data"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    async with _demo(data) as (text, client):
        token = (data / "demo-token").read_text().strip()
        assert stat.S_IMODE((data / "demo-token").stat().st_mode) == 0o600
        assert token not in text
        assert len(token) > 40
        headers = {"Authorization": f"Bearer {token}"}
        assert (await client.get("/api/v2/custom_objects", headers=headers)).status_code == 200
        for command, outcome in zip(
            re.findall(r"^ +(curl .*)$", text, re.M), ("created", "unchanged"), strict=True
        ):
            pasted = await asyncio.create_subprocess_shell(
                command, stdout=asyncio.subprocess.PIPE, cwd=elsewhere
            )
            out, _ = await pasted.communicate()
            assert "HTTP/1.1 200" in out.decode()
            assert f"upsert-result: {outcome}" in out.decode()
        assert "demo@example.com" in text
    (data / "demo-token").chmod(0o644)
    async with _demo(data, "--show-token") as (text, _):
        assert f"Token of an admin: {token}" in text
        assert stat.S_IMODE((data / "demo-token").stat().st_mode) == 0o600


@contextlib.asynccontextmanager
async def _demo(data: Path, *arguments: str) -> AsyncIterator[tuple[str, httpx.AsyncClient]]:
    """The demo, and what it prints until it serves."""
    port = free_port()
    named = ("--port", str(port), "--data-dir", data.name)
    process = await start_in(data.parent, "serve", "--demo", *named, *arguments)
    try:
        text = ""
        while text.count("curl") < 2 or ("--show-token" in arguments and "Token of" not in text):
            assert process.stdout is not None
            text += (await asyncio.wait_for(process.stdout.readline(), 30)).decode()
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            await until_ready(client, process)
            yield text, client
    finally:
        process.terminate()
        out, _ = await asyncio.wait_for(process.communicate(), 30)
    assert b"upsert_" not in out


async def test_a_token_is_printed_once_listed_without_its_text_and_revoked(cluster: Cluster) -> None:
    url = await cluster.new_database()
    create = ("token", "create", "--email", "e@example.com", "--role", "agent", "--name", "sync")
    code, out, err = await run(*create, "--database-url", url)
    token = out.removesuffix("\n")
    assert (code, token[:7], len(token)) == (0, "upsert_", 50)
    code, out, _ = await run("token", "list", DATABASE_URL=url)
    assert code == 0
    assert "e@example.com" in out
    assert token[-4:] in out
    assert token not in out
    told = re.fullmatch(r"Token (\d+) of user (\d+) \(e@example.com\)\n", err)
    assert told is not None
    assert re.search(rf"│ {told[1]} .*│ {told[2]} +│ e@example.com", out)
    token_id = re.search(r"│ (\d+) ", out)
    assert token_id is not None
    assert (await run("token", "revoke", token_id[1], DATABASE_URL=url))[0] == 0
    code, _, err = await run("token", "revoke", token_id[1], DATABASE_URL=url)
    assert code == 1
    assert "not revoked" in err


async def test_a_token_is_alone_on_the_standard_output_of_a_new_database_or_json_with_its_ids(
    owner_url: str,
) -> None:
    create = ("token", "create", "--email", "A@x", "--database-url", owner_url)
    _, out, err = await run(*create, "--role", "admin")
    assert re.fullmatch(r"upsert_\S+\n", out)
    assert "Applied migration" in err
    code, out, err = await run(*create, "--role", "agent", "--json")
    assert (code, err) == (0, "a@x was admin and is agent now, with all tokens\n")
    told = json.loads(out)
    assert (told["email"], told["role"], told["account"]) == ("a@x", "agent", "default")
    assert {type(told["token_id"]), type(told["user_id"])} == {int}
    assert told["token"].startswith("upsert_")


async def test_another_bootstrap_token_takes_the_place_of_the_one_before(owner_url: str) -> None:
    first, second = ADMIN, ADMIN | {"BOOTSTRAP_TOKEN": "b" * 40}
    await run("migrate", DATABASE_URL=owner_url, **first)
    code, _, err = await run("migrate", DATABASE_URL=owner_url, **second)
    assert code == 0
    assert re.fullmatch(r"Revoked token \d+, the bootstrap token before this one\n", err)
    assert (await run("migrate", DATABASE_URL=owner_url, **second))[2] == ""
    assert "was revoked" in (await run("migrate", DATABASE_URL=owner_url, **first))[2]
    connection = await asyncpg.connect(owner_url)
    valid = await connection.fetch("select last_four from tokens where revoked_at is null")
    await connection.close()
    assert [row["last_four"] for row in valid] == ["bbbb"]


async def test_migrate_says_when_there_is_nothing_to_do(cluster: Cluster) -> None:
    url = await cluster.new_database(empty=True)
    assert "Applied migration" in (await run("migrate", "--database-url", url))[1]
    assert (await run("migrate", DATABASE_URL=url))[1] == "The schema is up to date\n"
    assert (await run("migrate", "--restored", DATABASE_URL=url))[1] == (
        "The schema is up to date\n"
        "Cursors of incremental exports that were given before are refused from now on\n"
    )


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (("serve",), {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}, "Cannot connect"),
        (("serve",), {"DATABASE_URL": "postgresql://u@a..b/none"}, "Cannot connect"),
        (
            ("migrate",),
            {"DATABASE_URL": "postgresql://u@h/none?sslmode=verify-ca&sslrootcert=/nowhere"},
            "Cannot connect",
        ),
        (("serve",), {"DATABASE_URL": ""}, "UPSERT_SVC_DATABASE_URL: must be a URL such as"),
        (("migrate", "--database-url", "nonsense"), {}, "UPSERT_SVC_DATABASE_URL: must be a URL such as"),
        (("serve",), {"STATEMENT_TIMEOUT_SECONDS": "inf"}, "UPSERT_SVC_STATEMENT_TIMEOUT_SECONDS: must be"),
        (("work",), {"DATA_DIR": ""}, "UPSERT_SVC_DATA_DIR: must name a directory"),
        (("work", "--data-dir", ""), {}, "UPSERT_SVC_DATA_DIR: must name a directory"),
        (("token", "create", "--email", "", "--role", "admin"), {}, "--email must be an e-mail address"),
        (("token", "create", "--email", "a:b@x", "--role", "admin"), {}, "--email must be an e-mail"),
        (("token", "create", "--email", "a@x", "--role", "admin", "--account", " "), {}, "--account must"),
        (("role", "create", "--name", ""), {"DATABASE_URL": "postgresql://u@h/d"}, "--name must not be"),
        (
            ("token", "list"),
            {"POOL_SIZES": "1"},
            "UPSERT_SVC_POOL_SIZES is not a setting; do you mean UPSERT_",
        ),
        (("export", "car"), {"LOG_REQUEST": "1"}, "do you mean UPSERT_SVC_LOG_REQUESTS?"),
        (("migrate",), {"BOOTSTRAP_EMAIL": "a@example.com"}, "belong together"),
        (("migrate",), {"BOOTSTRAP_EMAIL": "a@b.c", "BOOTSTRAP_TOKEN": "short"}, "BOOTSTRAP_TOKEN"),
        (("migrate",), {"RATE_LIMIT_TOKEN": "5/fortnight"}, "RATE_LIMIT_TOKEN: must be"),
        (("serve", "--port", "x"), {}, "--port"),
        (("serve", "--show-token"), {}, "--show-token prints the token of the demo: it belongs to --demo"),
        (("export", "car", "--output", "."), {}, ". is a directory; --output names a file"),
        (("serve", "--workers", "9" * 30), {}, "--workers"),
        (("serve", "--host", ""), {}, "--host must name an address or a host: 0.0.0.0 and :: are all"),
        (("serve", "--host", " "), {}, "--host must name an address"),
        (("serve", "--host", "a..b"), {}, "Cannot listen at a..b port 8080: no host can have such a name"),
        (("serve", "--host", "a" * 64), {}, "no host can have such a name"),
        (("serve", "--host", NO_UTF8), {}, "Cannot listen at"),
        (("serve", "--host", "\x1b[2J"), {}, "Cannot listen at \\x1b[2J port"),
        (("migrate", "--database-url", f"postgresql://{NO_UTF8}@h/d"), {}, "DATABASE_URL: must be UTF-8"),
        (("migrate",), {"BOOTSTRAP_EMAIL": f"{NO_UTF8}@x", "BOOTSTRAP_TOKEN": TOKEN}, "EMAIL: must be UTF-8"),
        (("migrate",), {"BOOTSTRAP_EMAIL": "a@x", "BOOTSTRAP_TOKEN": NO_UTF8 * 32}, "TOKEN: must be UTF-8"),
        (("migrate",), {"SECRET_KEY": NO_UTF8 * 32}, "SECRET_KEY: must be UTF-8"),
        (("migrate",), {"RATE_LIMIT_TOKEN": NO_UTF8}, "RATE_LIMIT_TOKEN: must be UTF-8"),
        (
            ("migrate",),
            {"BOOTSTRAP_EMAIL": "\x1b[2J@x", "BOOTSTRAP_TOKEN": TOKEN},
            "must be an e-mail address",
        ),
        (("migrate",), {"POOL_SIZE": "9" * 5000}, "UPSERT_SVC_POOL_SIZE: must be"),
        (("token", "create", "--email", f"{NO_UTF8}@x", "--role", "admin"), {}, "--email must be an e-mail"),
        (
            ("token", "create", "--email", f"{'a' * 254}@x", "--role", "admin"),
            {},
            "of at most 254 characters",
        ),
        (
            ("token", "create", "--email", "a@x", "--role", "admin", "--account", NO_UTF8),
            {},
            "--account must be",
        ),
        (
            ("token", "create", "--email", "a@x", "--role", "admin", "--account", "a" * 256),
            {},
            "--account must",
        ),
        (
            ("token", "create", "--email", "a@x", "--role", "admin", "--name", NO_UTF8),
            {},
            "--name must be UTF-8",
        ),
        (
            ("token", "create", "--email", "a@x", "--role", "admin", "--name", "\x1b"),
            {},
            "--name must have no",
        ),
        (("token", "revoke", "1", "--account", NO_UTF8), {}, "--account must be UTF-8"),
        (("token", "revoke", "1", "--account", ""), {}, "--account must not be empty"),
        (
            ("role", "create", "--name", NO_UTF8),
            {"DATABASE_URL": "postgresql://u@h/d"},
            "--name must be UTF-8",
        ),
        (("role", "create", "--name", "a" * 64), {"DATABASE_URL": "postgresql://u@h/d"}, "at most 63 bytes"),
        (("role", "create", "--name", "ä" * 32), {"DATABASE_URL": "postgresql://u@h/d"}, "at most 63 bytes"),
    ],
)
async def test_an_operators_mistake_is_a_message_and_no_traceback(
    arguments: tuple[str, ...], settings: dict[str, str], message: str
) -> None:
    code, out, err = await run(*arguments, **settings)
    assert code not in (0, None)
    assert message in err
    assert "Traceback" not in out + err
    assert err.count("\n") == 1 or code == 2
    assert "short" not in err


TOKENS = (("token", "list"), ("token", "revoke", "1"))
A_CREATION = ("token", "create", "--email", "a@x", "--role", "admin")


async def _without_traceback(*arguments: str, **settings: str) -> str:
    """The one line that a command ends with that cannot be carried out."""
    code, out, err = await run(*arguments, **settings)
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


async def _fetch(url: str, sql: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(url)
    try:
        return list(await connection.fetch(sql))
    finally:
        await connection.close()


@pytest.mark.parametrize("arguments", TOKENS)
async def test_tokens_of_a_database_that_was_never_migrated_are_one_line(
    cluster: Cluster, arguments: tuple[str, ...]
) -> None:
    url = await cluster.new_database(empty=True)
    said = await _without_traceback(*arguments, "--database-url", url)
    assert said.startswith("The database was never migrated: run `upsert-svc migrate`")
    await _fetch(url, "create table tokens (id integer)")
    assert await _without_traceback(*arguments, DATABASE_URL=url) == said


@pytest.mark.parametrize("arguments", TOKENS)
async def test_tokens_by_the_login_of_the_service_are_one_line(
    cluster: Cluster, arguments: tuple[str, ...]
) -> None:
    url = (await cluster.new_database()).replace("//upsert_owner@", "//upsert_svc@")
    said = await _without_traceback(*arguments, DATABASE_URL=url)
    assert said.startswith("upsert_svc may not look into the tables: set UPSERT_SVC_MIGRATION_DATABASE_URL")


@pytest.mark.parametrize("arguments", [("serve", "--port", "0"), ("work",), ("migrate",), A_CREATION])
@pytest.mark.parametrize(
    "table", ["tokens (id integer)", "schema_migrations (version text)"], ids=lambda table: table.split()[0]
)
async def test_a_database_of_something_else_is_refused_in_one_line_and_left_as_it_is(
    cluster: Cluster, arguments: tuple[str, ...], table: str
) -> None:
    url = await cluster.new_database(empty=True)
    await _fetch(url, f"create table {table}")
    said = await _without_traceback(*arguments, DATABASE_URL=url)
    assert said.startswith("The database has something else in it (")
    assert said.endswith("): name one that is empty, or was made by this service\n")
    there = await _fetch(url, "select relname from pg_class where relnamespace = 'public'::regnamespace")
    assert [row["relname"] for row in there] == [table.split()[0]]


@pytest.mark.parametrize("arguments", [*TOKENS, A_CREATION, ("migrate", "--restored")])
async def test_a_command_on_what_is_there_makes_no_data_directory(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    for missing in (tmp_path / "missing", tmp_path):
        said = await _without_traceback(*arguments, "--data-dir", str(missing))
        assert said == (
            f"There is no database in the data directory {missing}: name its directory with --data-dir or "
            "UPSERT_SVC_DATA_DIR; `upsert-svc serve` and `migrate` make one\n"
        )
    assert os.listdir(tmp_path) == []


async def test_tokens_are_made_listed_and_revoked_in_a_data_directory_that_migrate_made(
    tmp_path: Path,
) -> None:
    data_dir = ("--data-dir", str(tmp_path / "data"))
    assert (await run("migrate", *data_dir))[0] == 0
    code, _, err = await run(*A_CREATION, *data_dir)
    told = re.search(r"Token (\d+) ", err)
    assert code == 0
    assert told is not None
    assert f"│ {told[1]} " in (await run("token", "list", *data_dir))[1]
    assert (await run("token", "revoke", told[1], *data_dir))[0] == 0


@pytest.mark.parametrize("token_id", ["0", "99999999999999", "2147483648", "9" * 400])
async def test_an_id_that_no_token_can_have_is_none_of_the_account(owner_url: str, token_id: str) -> None:
    await run("migrate", DATABASE_URL=owner_url)
    code, out, err = await run("token", "revoke", token_id, DATABASE_URL=owner_url)
    assert (code, out, err) == (1, "", f"Account default has no token {token_id} that is not revoked\n")


async def test_tokens_of_any_name_are_made_and_listed_as_they_are(owner_url: str) -> None:
    account = "".join(map(chr, range(0x4E00, 0x4E00 + 255)))  # as long as one may be
    for name in ("[/]", "[red]x[/red]", "Zoë 北京", "x" * 300):
        create = ("token", "create", "--email", "a@x", "--role", "admin", "--name", name)
        code, _, err = await run(*create, "--account", account, DATABASE_URL=owner_url)
        assert code == 0, err
    code, out, err = await run("token", "list", DATABASE_URL=owner_url)
    assert (code, err) == (0, "")
    assert "[/]" in out
    assert "[red]x" in out


@pytest.mark.parametrize("name", ["pg_serving", "public", "none", "current_user", "a b", "a" * 63])
async def test_a_name_that_no_login_can_have_is_one_line(elsewhere: str, name: str) -> None:
    code, out, err = await run("role", "create", "--name", name, DATABASE_URL=elsewhere)
    assert (code == 0) is (name in ("a b", "a" * 63, "current_user")), err
    assert "Traceback" not in out + err
    assert len(out.splitlines()) == (code == 0)


@pytest.mark.parametrize(
    ("variable", "workers"), [("UPSERT_SVC_DATA_DIR", "1"), ("upsert_svc_data_dir", "2")]
)
async def test_the_data_directory_of_the_command_line_wins_over_that_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: str, variable: str
) -> None:
    monkeypatch.setattr(processes, "_environment", lambda **settings: {
        **os.environ, variable: "", **{f"UPSERT_SVC_{name}": value for name, value in settings.items()}
    })  # fmt: skip
    arguments = ("--workers", workers, "--data-dir", str(tmp_path / os.fsdecode(b"d\xe4ta")))
    async with serving(*arguments, **ADMIN) as (client, _):
        await make_cars(client)
    assert len(os.listdir(tmp_path)) == 1


@every_count_of_workers
async def test_the_database_of_the_command_line_wins_over_every_setting_of_one(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    wrong = {
        "UPSERT_SVC_DATABASE_URL": "",
        "upsert_svc_database_url": "nonsense",
        "UPSERT_SVC_DATA_DIR": "data",
    }
    monkeypatch.setattr(processes, "_environment", lambda **settings: {
        **os.environ, **wrong, **{f"UPSERT_SVC_{name}": value for name, value in settings.items()}
    })  # fmt: skip
    url = await cluster.new_database()
    async with serving("--workers", workers, "--database-url", url, **ADMIN) as (client, _):
        await make_cars(client)


async def test_settings_of_all_commands_may_be_set_for_each() -> None:
    settings = {"URL": "http://h", "TOKEN": "t", "LANES": "1", "DATABASE_URL": "postgresql://u@127.0.0.1:1/d"}
    assert "Cannot connect" in (await run("migrate", **settings))[2]


@pytest.mark.parametrize("option", ["--version", "-V"])
async def test_the_version_is_told(option: str) -> None:
    assert await run(option) == (0, f"upsert-svc {version('upsert_svc')}\n", "")


async def test_help_tells_defaults_and_settings() -> None:
    assert "FILE.refused.ndjson" in (await run("import", "--help"))[1]
    assert "by the suffix of FILE, else" in " ".join((await run("export", "--help"))[1].split())
    out = (await run("serve", "--help", NO_SETTING="1"))[1]
    assert "(data)" in out
    for name in Settings.model_fields:
        assert f"UPSERT_SVC_{name.upper()}" in out


@pytest.mark.parametrize("command", [(), ("serve",), ("migrate",), ("token", "create"), ("import",)])
async def test_help_names_no_type_of_an_option_that_takes_none(command: tuple[str, ...]) -> None:
    shown = (await run(*command, "--help"))[1].splitlines()
    typed = [line for line in shown if "<bool>" in line and "-completion" not in line]  # the library's own
    assert [line.split()[1] for line in typed] == ["--help"]


@every_count_of_workers
async def test_a_start_at_a_database_that_lacks_something_is_one_line(cluster: Cluster, workers: str) -> None:
    url = await cluster.new_database()
    connection = await asyncpg.connect(url)
    # asked for when the application starts, and by nothing before
    await connection.execute("alter function service_key(text) rename to missing")
    await connection.close()
    service_url = url.replace("//upsert_owner@", "//upsert_svc@")
    settings = {"DATABASE_URL": service_url, "MIGRATION_DATABASE_URL": url}
    code, out, err = await run("serve", "--port", "0", "--workers", workers, **settings)
    assert (code, out) == (1, "")
    assert err.startswith("The database is not as this version needs it: function service_key")
    assert err.count("\n") == 1


@every_count_of_workers
async def test_a_start_that_gets_too_few_connections_is_one_line(cluster: Cluster, workers: str) -> None:
    url = await cluster.new_database()
    connection = await asyncpg.connect(url)
    name = await connection.fetchval("select current_database()")
    await connection.execute(f"alter database {name} connection limit 2")  # enough for what comes before
    await connection.close()
    service_url = url.replace("//upsert_owner@", "//upsert_svc@")
    settings = {"DATABASE_URL": service_url, "MIGRATION_DATABASE_URL": url}
    code, out, err = await run("serve", "--port", "0", "--workers", workers, **settings)
    assert (code, out) == (1, "")
    assert err == f'Cannot connect to the database: too many connections for database "{name}"\n'


_WRONG_IN_THE_WORKER = """
import sys
from upsert_svc import logs, mistakes, server

if __name__ == "__main__":
    logs.configure()
    options = {"delay_seconds": 0, "shutdown_timeout_seconds": 1, "when_started": print}
    with server.bound("127.0.0.1", 0) as sockets:
        server.listen(sockets)
        try:
            server.run(sockets, workers=int(sys.argv[1]), **options)
        except Exception as error:
            sys.exit(mistakes.line_of(error))
"""


@every_count_of_workers
async def test_a_setting_found_wrong_where_the_application_starts_is_one_line(
    tmp_path: Path, workers: str
) -> None:
    (tmp_path / "serving.py").write_text(_WRONG_IN_THE_WORKER)
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(tmp_path / "serving.py"), workers, env=os.environ | {"UPSERT_SVC_POOL_SIZE": "0"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 30)
    assert (process.returncode, out) == (1, b"")
    assert err == b"UPSERT_SVC_POOL_SIZE: must be at least 1\n"


async def make_cars(client: httpx.AsyncClient) -> None:
    body = {"custom_object": {"key": "car", "title": "Car"}}
    assert (await client.post("/api/v2/custom_objects", json=body)).status_code == 201


async def upsert_car(client: httpx.AsyncClient, external_id: str) -> int:
    """The status of the answer; 0 where there was none."""
    try:
        return (
            await client.patch(
                CARS,
                params={"external_id": external_id},
                json={"custom_object_record": {"name": external_id}},
            )
        ).status_code
    except httpx.TransportError:
        return 0


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"waited {seconds} s in vain")


def workers_of(supervisor: asyncio.subprocess.Process) -> list[psutil.Process]:
    children = psutil.Process(supervisor.pid).children()
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def postmaster(data_dir: Path) -> int:
    return int((data_dir / "cluster/data/postmaster.pid").read_text().split()[0])


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@every_count_of_workers
async def test_writes_go_on_after_each_kill_of_the_embedded_server_and_none_is_lost(
    tmp_path: Path, workers: str
) -> None:
    data_dir = tmp_path / "data"
    arguments = ("--workers", workers, "--data-dir", str(data_dir))
    async with serving(*arguments, **ADMIN) as (client, _):
        await make_cars(client)
        numbers, acknowledged, others = itertools.count(), set[str](), set[int]()

        async def write() -> None:
            while True:
                external_id = f"e{next(numbers)}"
                if (status := await upsert_car(client, external_id)) == 200:
                    acknowledged.add(external_id)
                else:
                    others.add(status)
                    await asyncio.sleep(0.02)

        writers = [asyncio.create_task(write()) for _ in range(8)]
        for _ in range(3):
            count = len(acknowledged)
            await until(lambda count=count: len(acknowledged) > count + 50)  # type: ignore[misc]
            os.kill(postmaster(data_dir), signal.SIGKILL)
            await asyncio.sleep(0.2)
            count = len(acknowledged)
            await until(lambda count=count: len(acknowledged) > count, 5)  # type: ignore[misc]
        for writer in writers:
            writer.cancel()
        await asyncio.gather(*writers, return_exceptions=True)
        assert others <= {503}
        kept, url = set[str](), f"{CARS}?page[size]=100"
        while url:
            page = (await client.get(url)).json()
            kept |= {record["external_id"] for record in page["custom_object_records"]}
            url = page["links"]["next"]
        assert acknowledged <= kept


async def test_a_start_at_a_taken_port_is_one_line_and_stops_nobodys_database(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    async with serving("--data-dir", str(data_dir), **ADMIN) as (client, _):
        await make_cars(client)
        port = str(client.base_url.port)
        code, out, err = await run("serve", "--demo", "--port", port, "--data-dir", str(data_dir))
        assert (code, out) == (1, "")
        assert re.fullmatch(rf"[^\n]*\b{port}\b[^\n]*--port[^\n]*\n", err)
        assert await upsert_car(client, "one") == 200


async def test_a_start_at_a_port_of_another_program_makes_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        for workers in ("1", "2"):
            code, out, err = await run(
                "serve", "--port", port, "--workers", workers, "--data-dir", str(tmp_path / "data")
            )
            assert (code, out) == (1, "")
            assert "--port" in err
    assert not (tmp_path / "data").exists()


async def test_port_0_is_a_free_one_that_is_told(cluster: Cluster) -> None:
    process = await start("serve", "--port", "0", DATABASE_URL=await cluster.new_database())
    assert process.stdout is not None
    line = (await asyncio.wait_for(process.stdout.readline(), 30)).decode()
    address = re.fullmatch(r"Serving at (http://127\.0\.0\.1:[1-9]\d+)\n", line)
    assert address is not None, line
    async with httpx.AsyncClient(base_url=address[1], trust_env=False) as client:
        await until_ready(client, process)
    process.terminate()
    await asyncio.wait_for(process.communicate(), 30)


async def test_workers_end_with_a_killed_supervisor_and_the_next_one_starts_at_once(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    arguments = ("--workers", "2", "--data-dir", str(data_dir))
    async with serving(*arguments, **ADMIN) as (client, supervisor):
        await make_cars(client)
        database, port = postmaster(data_dir), str(client.base_url.port)
        workers = [worker.pid for worker in workers_of(supervisor)]
        assert len(workers) == 2
        supervisor.kill()
        await until(lambda: not any(map(lives, workers)), 5)
        assert lives(database)
        await supervisor.wait()
        again = await start("serve", "--port", port, *arguments)
        try:
            await until_ready(client, again)
            assert await upsert_car(client, "one") == 200
        finally:
            again.terminate()
            await asyncio.wait_for(again.communicate(), 30)
    assert not lives(database)


async def test_a_worker_that_is_killed_has_another_in_its_place_and_the_log_says_so(cluster: Cluster) -> None:
    url = await cluster.new_database()
    process = await start("serve", "--port", "0", "--workers", "2", DATABASE_URL=url)
    assert process.stdout is not None
    assert process.stderr is not None
    async with asyncio.timeout(30):
        await process.stdout.readline()
        await until(lambda: len(workers_of(process)) == 2)
        killed = workers_of(process)[0]
        killed.kill()
        while (line := (await process.stderr.readline()).decode()) and "takes its place" not in line:
            pass
    process.terminate()
    await asyncio.wait_for(process.communicate(), 30)
    assert f"the worker {killed.pid} ended (-9)" in line


async def test_another_command_does_not_stop_the_server_of_workers_that_have_lost_their_supervisor(
    tmp_path: Path,
) -> None:
    data_dir = tmp_path / "data"
    async with serving("--workers", "2", "--data-dir", str(data_dir), **ADMIN) as (_, supervisor):
        database = postmaster(data_dir)
        workers = workers_of(supervisor)
        for worker in workers:
            worker.suspend()  # so that they outlive it
        supervisor.kill()
        assert (await run("token", "list", "--data-dir", str(data_dir)))[0] == 0
        assert lives(database)
        for worker in workers:
            worker.kill()
        await until(lambda: not any(lives(worker.pid) for worker in workers))
        assert (await run("token", "list", "--data-dir", str(data_dir)))[0] == 0
    assert not lives(database)


@pytest.fixture
async def owner_url(cluster: Cluster) -> str:
    """The URL of the owner of a new database."""
    return await cluster.new_database(empty=True)


async def first_lines(*arguments: str, **settings: str) -> tuple[str, str]:
    """What a service says until it serves, and what it warns of."""
    process = await start("serve", "--port", "0", *arguments, **settings)
    assert process.stdout is not None
    async with asyncio.timeout(30):
        while (line := await process.stdout.readline()) and not line.startswith(b"Serving"):
            pass
        assert line.startswith(b"Serving")
        process.terminate()
        _, err = await process.communicate()
    return line.decode(), err.decode()


async def test_a_service_that_logs_in_as_the_owner_is_warned_once_and_serves(owner_url: str) -> None:
    _, err = await first_lines("--workers", "2", DATABASE_URL=owner_url)
    warnings = [line for line in err.splitlines() if "upsert-svc role create" in line]
    assert len(warnings) == 1
    assert "upsert_owner" in warnings[0]


async def test_a_service_with_a_login_of_its_own_is_not_warned(owner_url: str) -> None:
    service_url = owner_url.replace("//upsert_owner@", "//upsert_svc@")
    _, err = await first_lines(DATABASE_URL=service_url, MIGRATION_DATABASE_URL=owner_url)
    assert err == ""
    code, out, err = await run("migrate", DATABASE_URL=service_url)
    assert (code, out) == (1, "")
    assert "MIGRATION_DATABASE_URL" in err
    assert "Traceback" not in err


async def test_the_embedded_server_is_served_by_a_login_that_owns_nothing(tmp_path: Path) -> None:
    async with serving("--data-dir", str(tmp_path / "data"), **ADMIN) as (client, _):
        await make_cars(client)
        server = psutil.Process(postmaster(tmp_path / "data"))
        titles = {" ".join(child.cmdline()) for child in server.children()}
        sessions = {title.split(": ")[-1].split()[0] for title in titles if "[local]" in title}
        assert sessions == {"upsert_svc"}


async def test_the_command_makes_a_login_and_prints_its_url(elsewhere: str) -> None:
    code, out, err = await run("role", "create", "--name", "serving", DATABASE_URL=elsewhere)
    assert code == 0
    assert "MIGRATION_DATABASE_URL" in err
    url = out.splitlines()[-1]
    assert re.match(r"postgresql://serving:[\w-]{40,}@/upsert_svc\?host=", url)
    async with serving(DATABASE_URL=url, MIGRATION_DATABASE_URL=elsewhere, **ADMIN) as (client, _):
        await make_cars(client)
    code, _, err = await run("role", "create", "--name", "upsert_owner", DATABASE_URL=elsewhere)
    assert code == 1
    assert "Traceback" not in err
    code, _, err = await run("role", "create")
    assert code == 1
    assert "by itself" in err


async def test_the_first_start_makes_the_login_with_the_password_of_its_url(elsewhere: str) -> None:
    url = elsewhere.replace("//upsert_owner:of-the-owner@", "//upsert_svc:of-the-service@")
    settings = {"DATABASE_URL": url, "MIGRATION_DATABASE_URL": elsewhere}
    _, err = await first_lines(**settings)
    assert err == ""
    async with serving(**settings, **ADMIN) as (client, _):
        assert (await client.get("/readyz")).status_code == 200


async def test_a_demo_whose_token_was_revoked_is_one_line(tmp_path: Path, owner_url: str) -> None:
    demo = ("serve", "--demo", "--port", "0", "--data-dir", str(tmp_path), "--database-url", owner_url)
    await first_lines(*demo[1:2], "--data-dir", str(tmp_path), "--database-url", owner_url)
    connection = await asyncpg.connect(owner_url)
    await connection.execute("update tokens set revoked_at = now()")
    await connection.close()
    code, out, err = await run(*demo)
    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == f"The demo's token was revoked: delete {tmp_path}/demo-token for a new one"
    assert "Traceback" not in err


async def test_passwords_of_any_characters_are_handed_over_beside_the_urls(elsewhere: str) -> None:
    password = "a/b#c?d%e@f:g h+i=&'\"$x\\"
    connection = await asyncpg.connect(elsewhere)
    await connection.execute("create role hand_over login createrole password 'hand'")
    await connection.execute("drop database if exists hand_over")
    await connection.execute("create database hand_over owner hand_over")
    statement = "select format('alter role hand_over password %L', $1::text)"
    await connection.execute(await connection.fetchval(statement, password))
    await connection.execute("grant upsert_svc to hand_over with admin option")
    await connection.close()
    address = elsewhere.partition("@")[2].replace("/upsert_svc?", "/hand_over?")
    settings = {
        "DATABASE_URL": f"postgresql://upsert_svc@{address}",
        "DATABASE_PASSWORD": password,
        "MIGRATION_DATABASE_URL": f"postgresql://hand_over@{address}",
        "MIGRATION_DATABASE_PASSWORD": password,
    }
    for workers in ("1", "2"):
        async with serving("--workers", workers, **settings, **ADMIN) as (client, _):
            assert (await client.get("/readyz")).status_code == 200


def test_the_compose_file_puts_no_password_into_a_url() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    assert not re.search(r"://[^\s]*\$", text)
    for name in ("DATABASE", "MIGRATION_DATABASE"):
        assert re.search(rf"UPSERT_SVC_{name}_PASSWORD: \$\{{", text)
    set_there = set(re.findall(r"^ +UPSERT_SVC_(\w+):", text, re.MULTILINE))
    assert set_there <= {name.upper() for name in Settings.model_fields}
    for url in re.findall(r"_URL: (\S+)", text):
        assert database_urls.checked(url)
    assert text.count("restart: unless-stopped") == 2
    grace = re.search(r"stop_grace_period: (\d+)s", text.partition("  service:")[2])
    fields = Settings.model_fields
    stopping = fields["shutdown_delay_seconds"].default + fields["shutdown_timeout_seconds"].default + 5
    assert grace is not None
    assert int(grace[1]) > stopping


def test_the_compose_file_passes_the_proxies_that_the_operator_names() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    passed = re.search(
        r"^ +UPSERT_SVC_TRUSTED_PROXIES: \$\{UPSERT_SVC_TRUSTED_PROXIES:-(\S+)\}$", text, re.MULTILINE
    )
    assert passed is not None
    default = Settings.model_fields["trusted_proxies"].default
    assert passed[1] == ",".join(str(network) for network in default)
    explained = (ROOT / ".env.example").read_text()
    assert re.search(r"^# ?UPSERT_SVC_TRUSTED_PROXIES=\S+$", explained, re.MULTILINE)
    for name in re.findall(r"\$\{(\w+)", text):
        assert re.search(rf"^#? ?{name}=", explained, re.MULTILINE), name


@needs_curl
async def test_the_request_that_the_contract_begins_with_works_when_pasted(tmp_path: Path) -> None:
    text = (ROOT / "docs/api.md").read_text().partition("## A request\n")[2].split("```\n")[1]
    async with serving("--data-dir", str(tmp_path / "data"), **ADMIN) as (client, _):
        await make_cars(client)
        lines = text.replace("http://127.0.0.1:8080", str(client.base_url).rstrip("/"))
        pasted = await asyncio.create_subprocess_shell(
            lines, stdout=asyncio.subprocess.PIPE, env=os.environ | {"TOKEN": TOKEN}
        )
        out, _ = await asyncio.wait_for(pasted.communicate(), 30)
    assert out.count(b'"name":"Ada"') == 2


@needs_curl
@pytest.mark.parametrize("where", ["make run", "compose"])
async def test_the_object_of_ones_own_in_the_readme_is_made_by_its_lines(tmp_path: Path, where: str) -> None:
    run_token, compose_token, lines = (
        (ROOT / "README.md").read_text().partition("## An object of your own\n")[2].split("```\n")[1:6:2]
    )
    (tmp_path / "data").mkdir()
    (tmp_path / "data/demo-token").write_text(TOKEN + "\n")
    example = (ROOT / ".env.example").read_text()
    (tmp_path / ".env").write_text(example.replace("BOOTSTRAP_TOKEN=", f"BOOTSTRAP_TOKEN='{TOKEN}'"))
    async with serving("--data-dir", str(tmp_path / "other"), **ADMIN) as (client, _):
        address = str(client.base_url).rstrip("/")
        pasted = await asyncio.create_subprocess_shell(
            ({"make run": run_token, "compose": compose_token}[where] + lines).replace(
                "http://127.0.0.1:8080", address
            ),
            stdout=asyncio.subprocess.PIPE,
            cwd=tmp_path,
        )
        out, _ = await asyncio.wait_for(pasted.communicate(), 30)
    shown = out.decode().splitlines()[-1]
    assert '"name":"Emma"' in shown
    assert '"pages": 474' in shown or '"pages":474' in shown
    assert b'"error"' not in out
