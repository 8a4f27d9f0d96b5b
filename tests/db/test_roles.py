"""What the login of the service may do, whatever statement runs, and how such a login is made."""

import asyncio
import contextlib
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from tests.support.harness import Cluster
from upsert_svc import migrations
from upsert_svc.accounts import tokens
from upsert_svc.db import embedded_access, roles
from upsert_svc.db.embedded import OWNER, start
from upsert_svc.db.pools import SERVICE_ROLE, UnreachableDatabase, owner_transaction

Denied = asyncpg.InsufficientPrivilegeError


def as_service(url: str) -> str:
    return url.replace(f"//{OWNER}@", f"//{SERVICE_ROLE}@")


@contextlib.asynccontextmanager
async def connected(url: str, **options: Any) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url, **options)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture(scope="module")
async def migrated(cluster: Cluster) -> str:
    """The owner's URL of a database that was migrated as an operator's is, not copied."""
    url = await cluster.new_database(empty=True)
    await migrations.migrate(url)
    async with owner_transaction(url) as connection:
        await tokens.create(connection, account="a", email="a@example.com", role="admin", token="t" * 32)
        await tokens.ensure_key(connection, migrations.CURSOR_KEY)
    return url


@pytest.fixture
async def login(migrated: str) -> AsyncIterator[asyncpg.Connection]:
    """A session as the service opens it."""
    async with connected(as_service(migrated), server_settings={"role": SERVICE_ROLE}) as connection:
        yield connection


async def test_the_login_of_the_service_is_nobody_else_after_reset_role(login: asyncpg.Connection) -> None:
    for statement in ("reset role", "set role none", "reset session authorization"):
        await login.execute(statement)
        assert await login.fetchval("select current_user || session_user") == SERVICE_ROLE * 2
    for statement in (f"set role {OWNER}", f"set session authorization {OWNER}"):
        with pytest.raises(Denied):
            await login.execute(statement)


async def test_the_login_of_the_service_owns_nothing_and_has_no_attribute(login: asyncpg.Connection) -> None:
    row = await login.fetchrow(
        "select rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls from pg_roles"
        " where rolname = current_user"
    )
    assert not any(row)
    assert (
        await login.fetchval("select count(*) from pg_auth_members where member = current_user::regrole") == 0
    )
    assert await login.fetchval("select count(*) from pg_class where relowner = current_user::regrole") == 0


@pytest.mark.parametrize(
    "statement",
    [
        "select token_hash from tokens",
        "select email from users",
        "select name from accounts",
        "select secret from service_keys",
        "insert into users values (1, 1, 'e', 'admin')",
        "update users set role = 'admin'",
        "update accounts set name = 'other'",
        "create table mine (n integer)",
        "create temporary table mine (n integer)",
        "create schema mine",
        "create function mine() returns integer language sql as 'select 1'",
        "select lo_create(0)",
        "select lo_creat(-1)",
        "select lo_from_bytea(0, 'x')",
        "select * from schema_migrations",
        "select rolpassword from pg_authid",
        "select pg_read_file('PG_VERSION')",
        "copy (select 1) to program 'true'",
        "create role mine",
        "create database mine",
        "alter system set fsync = off",
        f"alter role {OWNER} nologin",
        "drop table records",
    ],
)  # fmt: skip
async def test_the_login_of_the_service_may_not(login: asyncpg.Connection, statement: str) -> None:
    with pytest.raises(Denied):
        await login.execute(statement)


async def test_the_login_finds_a_token_by_its_hash_and_a_key_by_its_name(login: asyncpg.Connection) -> None:
    principal = await tokens.find(login, tokens.digest("t" * 32))
    assert principal is not None
    assert principal.email == "a@example.com"
    assert await tokens.find(login, tokens.digest("other")) is None
    assert len(await tokens.find_key(login, migrations.CURSOR_KEY)) == 32


async def test_tables_of_the_caller_do_not_come_between_the_owners_functions_and_its_tables(
    migrated: str,
) -> None:
    async with connected(migrated) as owner:
        await owner.execute(
            f"""create schema forged;
                create table forged.tokens as select * from tokens;
                create table forged.users as select account_id, user_id, 'forged' as email, role from users;
                create function forged.equal(bytea, bytea) returns boolean language sql as 'select true';
                create operator forged.= (function = forged.equal, leftarg = bytea, rightarg = bytea);
                grant usage on schema forged to {SERVICE_ROLE};"""
        )
        try:
            async with connected(as_service(migrated)) as login:
                await login.execute("set search_path = forged, pg_catalog, public")
                principal = await tokens.find(login, tokens.digest("t" * 32))
                assert principal is not None
                assert principal.email == "a@example.com"
                assert await tokens.find(login, tokens.digest("other")) is None
        finally:
            await owner.execute("drop schema forged cascade")


async def test_the_embedded_server_has_no_other_database_for_the_service(cluster: Cluster) -> None:
    for database in ("postgres", "template1"):
        url = as_service(cluster.url_of(database))
        with pytest.raises(Denied):
            await asyncpg.connect(url)
    async with connected(as_service(cluster.url)) as login:
        with pytest.raises(Denied):
            await login.execute("create temporary table mine (n integer)")


CONNECT = """
import asyncio, sys, asyncpg
async def main():
    try:
        connection = await asyncpg.connect(sys.argv[1])
    except asyncpg.PostgresError as error:
        sys.exit(error.sqlstate)
    print(await connection.fetchval("select session_user::text"))
asyncio.run(main())
"""


def connects(url: str, uid: int) -> tuple[int, str]:
    """The end of a process of another user of the machine that connects."""
    done = subprocess.run(
        [sys.executable, "-c", CONNECT, url],
        capture_output=True, text=True, user=uid, group=uid, extra_groups=[], cwd="/", check=False,
    )  # fmt: skip
    return done.returncode, (done.stdout + done.stderr).strip()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
@pytest.mark.parametrize("role", [OWNER, SERVICE_ROLE])
async def test_not_even_the_user_that_the_server_runs_as_may_log_in(cluster: Cluster, role: str) -> None:
    async with connected(cluster.url) as owner:
        uid = psutil.Process(await owner.fetchval("select pg_backend_pid()")).uids().real
    assert uid != 0
    code, said = await asyncio.to_thread(connects, cluster.url.replace(OWNER, role), uid)
    assert code != 0
    assert re.search(r"28000|PermissionError|ModuleNotFound", said)


def test_a_cluster_of_an_earlier_version_trusts_nobody_after_the_next_start(tmp_path: Path) -> None:
    server = start(tmp_path / "pg", durable=False)
    pgdata = tmp_path / "pg/cluster/data"
    hba, ident = pgdata / "pg_hba.conf", pgdata / "pg_ident.conf"
    made, owner = hba.read_text(), hba.stat()
    earlier = "\n".join(line for line in made.splitlines() if line not in embedded_access._RULES) + "\n"
    earlier = earlier.replace(" peer\n", " trust\n") + "host all report 10.0.0.0/8 scram-sha-256\n"
    assert earlier.count(" trust\n") == 2
    hba.write_text(earlier)
    ident.write_text("mine root report\n")
    with start(tmp_path / "pg", durable=False):  # while it runs, as another process of this version would
        text = hba.read_text()
        assert " trust\n" not in text
        assert "host all report 10.0.0.0/8 scram-sha-256\n" in text
        assert "mine root report\n" in ident.read_text()
        assert (hba.stat().st_uid, hba.stat().st_mode) == (owner.st_uid, owner.st_mode)
        assert query_rules(server.url) == query_rules(server.service_url) == ["peer", "peer"]
        changed = hba.stat().st_mtime_ns
    with start(tmp_path / "pg", durable=False):
        assert hba.stat().st_mtime_ns == changed
    server.stop()


def query_rules(url: str) -> list[str]:
    """The ways to log in that the running server has for the roles over the socket; by its owner."""

    async def rules() -> list[str]:
        async with connected(url.replace(f"//{SERVICE_ROLE}@", f"//{OWNER}@")) as connection:
            rows = await connection.fetch(
                "select auth_method from pg_hba_file_rules where $1 = any (user_name) and type = 'local'",
                OWNER,
            )
            return [row[0] for row in rows]

    return asyncio.run(rules())


# Logins of other servers


def login_url(owner_url: str, name: str, password: str) -> str:
    return re.sub(r"//[^@]*@", f"//{name}:{password}@", owner_url)


async def test_the_first_start_makes_the_login_that_the_services_url_names(elsewhere: str) -> None:
    await migrations.migrate(elsewhere)
    url = login_url(elsewhere, SERVICE_ROLE, "p%20w%2F%25")
    assert await roles.ensure_login(elsewhere, url)
    assert not await roles.ensure_login(elsewhere, url)
    async with connected(url) as connection:
        assert await connection.fetchval("select session_user::text") == SERVICE_ROLE
    assert await roles.excess(url) is None
    changed = login_url(elsewhere, SERVICE_ROLE, "changed")
    assert await roles.ensure_login(elsewhere, changed)
    with pytest.raises(UnreachableDatabase):
        await roles.ensure_login(login_url(elsewhere, OWNER, "wrong"), url)


async def test_a_login_of_another_name_is_made_once_and_its_password_is_its_own(elsewhere: str) -> None:
    await migrations.migrate(elsewhere)
    url = login_url(elsewhere, "ser\"vice'", "one")
    assert await roles.ensure_login(elsewhere, url)
    async with connected(url, server_settings={"role": SERVICE_ROLE}) as connection:
        assert await tokens.find(connection, tokens.digest("none")) is None
        await connection.execute("reset role")
        with pytest.raises(Denied):
            await connection.fetch("select * from tokens")
    with pytest.raises(roles.RoleError, match="role create --name"):
        await roles.ensure_login(elsewhere, login_url(elsewhere, "ser\"vice'", "two"))


async def test_the_command_makes_a_login_and_later_gives_it_a_new_password(elsewhere: str) -> None:
    await migrations.migrate(elsewhere)
    first, second = [await roles.create_login(elsewhere, "serving") for _ in range(2)]
    assert first != second
    assert await roles.excess(second) is None
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(first)


async def test_a_login_that_may_do_more_is_told(elsewhere: str) -> None:
    await migrations.migrate(elsewhere)
    told = await roles.excess(elsewhere)
    assert told is not None
    assert OWNER in told
    assert "upsert-svc role create" in told
    with pytest.raises(roles.RoleError, match="connect as"):
        await roles.create_login(elsewhere, OWNER)
    async with connected(elsewhere) as owner:
        await owner.execute("create role powerful createdb")
    with pytest.raises(roles.RoleError, match="create roles or databases"):
        await roles.create_login(elsewhere, "powerful")


async def test_no_password_reaches_the_servers_log(elsewhere: str, elsewhere_log: Path) -> None:
    await migrations.migrate(elsewhere)
    async with connected(elsewhere) as owner:
        await owner.execute("alter system set log_statement = 'all'")
        await owner.execute("select pg_reload_conf()")
        url = await roles.create_login(elsewhere, "logged")
        password = re.findall(r"logged:([^@]+)@", url)[0]
        await owner.execute("alter system reset log_statement")
    with open(elsewhere_log) as log:  # noqa: ASYNC230
        text = log.read()
    assert "SCRAM-SHA-256" in text
    assert password not in text


# Owners with fewer rights


@pytest.fixture
async def narrow(elsewhere: str) -> AsyncIterator[str]:
    """The URL of an owner who may not make roles, on a server that has no role of the service."""
    async with connected(elsewhere) as owner:
        await owner.execute("create role narrow login password 'narrow'")
        await owner.execute("create database narrow owner narrow")
        await owner.execute(f"alter role {SERVICE_ROLE} rename to put_aside")
    try:
        yield login_url(elsewhere, "narrow", "narrow").replace("/upsert_svc?", "/narrow?")
    finally:
        async with connected(elsewhere) as owner:
            await owner.execute("drop database narrow with (force)")
            await owner.execute(f"drop role if exists {SERVICE_ROLE}")
            await owner.execute(f"alter role put_aside rename to {SERVICE_ROLE}")
            await owner.execute("drop role narrow")


async def test_an_owner_who_may_not_make_roles_is_told_what_to_have_done_and_then_migrates(
    narrow: str, elsewhere: str
) -> None:
    with pytest.raises(roles.RoleError) as told:
        await migrations.migrate(narrow)
    advice = re.search(r"`(.*)`", str(told.value))
    assert advice is not None
    async with connected(elsewhere) as superuser:
        await superuser.execute(advice[1])
    assert await migrations.migrate(narrow)
    async with connected(narrow, server_settings={"role": SERVICE_ROLE}) as connection:
        assert await tokens.find(connection, tokens.digest("none")) is None


async def test_an_owner_is_told_the_grant_where_another_made_the_role(narrow: str, elsewhere: str) -> None:
    async with connected(elsewhere) as superuser:
        await superuser.execute(f"alter role narrow createrole; create role {SERVICE_ROLE}")
        with pytest.raises(roles.RoleError, match=f"`grant {SERVICE_ROLE} to narrow;`"):
            await migrations.migrate(narrow)
        await superuser.execute(f"grant {SERVICE_ROLE} to narrow")
    assert await migrations.migrate(narrow)


async def test_an_owner_who_may_make_roles_needs_nobody(narrow: str, elsewhere: str) -> None:
    async with connected(elsewhere) as superuser:
        await superuser.execute("alter role narrow createrole")
    assert await migrations.migrate(narrow)
    async with connected(narrow, server_settings={"role": SERVICE_ROLE}):
        pass


async def test_tables_without_the_grants_to_the_role_are_told_as_a_dump_without_it(cluster: Cluster) -> None:
    url = await cluster.new_database()
    async with connected(url) as owner:
        await owner.execute(f"revoke all on records from {SERVICE_ROLE}")
    with pytest.raises(roles.RoleError, match="before it was there"):
        await migrations.migrate(url)
