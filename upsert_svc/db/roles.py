"""The login of the service: how an operator gets one that owns nothing, and whether the one in use is so.

`set role` alone is no wall: whoever may run a statement may `reset role`, and is then who logged in.
"""

import base64
import hashlib
import hmac
import re
import secrets
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import asyncpg

from upsert_svc.db.pools import SERVICE_ROLE, Connection, UnreachableDatabase, owner_connection
from upsert_svc.mistakes import Mistake, first_line

CREATE_COMMAND = "upsert-svc role create"
_ITERATIONS = 4096  # PostgreSQL's own
_REFUSED_LOGIN = "28"  # the class of SQLSTATEs: no such role, no login, another password

_EXCESS = """
select case when r.rolsuper then 'is a superuser'
            when r.rolcreaterole or r.rolcreatedb or r.rolreplication or r.rolbypassrls
                 then 'may create roles or databases, replicate, or pass by row security'
            when pg_has_role(r.oid, c.relowner, 'member') then 'owns the tables' end
  from pg_roles r, pg_class c
 where r.rolname = session_user and c.oid = to_regclass('records')"""


_MAY_WRITE = "select has_table_privilege($1, to_regclass('records'), 'insert')"  # null: no such table yet


class RoleError(Mistake):
    """The service's role or its login cannot be made; the message says why."""


async def ensure_role(connection: Connection) -> None:
    """Makes the role of the service, of which the owner must be a member, where it is missing.

    Inside the caller's transaction. Raises RoleError, which says what somebody with more rights is to do.
    """
    owner = await connection.fetchval("select current_user::text")
    if not await _exists(connection, SERVICE_ROLE):
        advice = f"create role {SERVICE_ROLE}; grant {SERVICE_ROLE} to {_quoted(owner)};"
        await _by_right(
            connection, f"create role {SERVICE_ROLE} nologin", f"{owner} may not make roles", advice
        )
    # of the newer kinds of membership this is the one that a session needs
    if not await connection.fetchval("select pg_has_role($1, 'set')", SERVICE_ROLE):
        grant = f"grant {SERVICE_ROLE} to {_quoted(owner)}"
        await _by_right(connection, grant, f"{owner} is no member of the role {SERVICE_ROLE}", f"{grant};")


async def _by_right(connection: Connection, statement: str, what: str, advice: str) -> None:
    try:
        async with connection.transaction():
            await connection.execute(statement)
    except (asyncpg.DuplicateObjectError, asyncpg.UniqueViolationError):
        pass  # roles belong to the whole server: a migration of another database made it just now
    except asyncpg.InsufficientPrivilegeError:
        raise RoleError(f"{what}: have a superuser of the server run `{advice}` once") from None


async def require_grants(connection: Connection) -> None:
    """Raises RoleError where a dump was restored before the role of its grants was there."""
    if await connection.fetchval(_MAY_WRITE, SERVICE_ROLE) is False:
        raise RoleError(
            f"The role {SERVICE_ROLE} may not use the tables: the dump was restored before it was there. "
            f"Run `create role {SERVICE_ROLE};`, then restore the dump into a new database"
        )


def _quoted(name: str) -> str:
    return name if re.fullmatch("[a-z_][a-z0-9_]*", name) else '"' + name.replace('"', '""') + '"'


async def excess(url: str) -> str | None:
    """A sentence for the operator where the login of a URL may do more than the service needs.

    Raises UnreachableDatabase.
    """
    async with owner_connection(url) as connection:
        row = await connection.fetchrow(f"select session_user::text as name, ({_EXCESS}) as excess")
    if row["excess"] is None:
        return None
    return (
        f"The service logs in as {row['name']}, which {row['excess']}: "
        f"`{CREATE_COMMAND}` makes a login that can only serve"
    )


async def ensure_login(owner_url: str, service_url: str) -> bool:
    """Makes the login of the service's URL, with its password, where it cannot log in; whether it did.

    Of roles that are there only `upsert_svc` is changed. Raises RoleError, and UnreachableDatabase.
    """
    try:
        async with owner_connection(service_url):
            return False
    except UnreachableDatabase as error:
        if not str(getattr(error.__cause__, "sqlstate", "")).startswith(_REFUSED_LOGIN):
            raise
    name, password = _login_of(service_url)
    if name is None or password is None:
        raise RoleError("UPSERT_SVC_DATABASE_URL names no user with a password, and its login is refused")
    async with owner_connection(owner_url) as connection:
        if name != SERVICE_ROLE and await _exists(connection, name):
            raise RoleError(
                f"The role {name} cannot log in by UPSERT_SVC_DATABASE_URL; "
                f"`{CREATE_COMMAND} --name {name}` gives it a new password"
            )
        await _make(connection, name, password)
    return True


async def create_login(owner_url: str, name: str) -> str:
    """Makes a login of the service or gives it a new password; the URL of it, like that of the owner.

    Raises RoleError where the role may do more than the service needs, and UnreachableDatabase.
    """
    password = secrets.token_urlsafe(32)
    async with owner_connection(owner_url) as connection:
        if name == await connection.fetchval("select session_user::text"):
            raise RoleError(f"{name} is the role that you connect as: choose another name")
        await _make(connection, name, password)
    parts = urlsplit(owner_url)
    address = parts.netloc.rpartition("@")[2]
    url = urlunsplit(parts._replace(netloc=f"{quote(name, safe='')}:{password}@{address}"))
    if (more := await excess(url)) is not None:
        raise RoleError(more)
    return url


async def _make(connection: Connection, name: str, password: str) -> None:
    """The server makes the statement, since it can quote names. The password does not reach its log."""
    verb = "alter" if await _exists(connection, name) else "create"
    statement = "select format($1, $2::text, $3::text)"
    role = (f"{verb} role %I login password %L", name, _verifier(password))
    try:
        await connection.execute(await connection.fetchval(statement, *role))
        if name != SERVICE_ROLE:
            grant = await connection.fetchval(statement, "grant %I to %I", SERVICE_ROLE, name)
            await connection.execute(grant)
    except (asyncpg.InsufficientPrivilegeError, asyncpg.ReservedNameError) as error:
        raise RoleError(
            f"The login {name} cannot be made by the role that you connect as: {first_line(error)}"
        ) from error


async def _exists(connection: Connection, name: str) -> bool:
    return bool(await connection.fetchval("select exists (select from pg_roles where rolname = $1)", name))


def _login_of(url: str) -> tuple[str | None, str | None]:
    parts = urlsplit(url)
    return parts.username and unquote(parts.username), parts.password and unquote(parts.password)


def _verifier(password: str) -> str:
    """What PostgreSQL keeps of a password (SCRAM-SHA-256, RFC 5803). Raises RoleError."""
    if not password.isascii() or not password.isprintable():
        raise RoleError("The password of the service's login must be printable ASCII")
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    salt_text, stored_text, server_text = (base64.b64encode(part).decode() for part in (salt, stored, server))
    return f"SCRAM-SHA-256${_ITERATIONS}:{salt_text}${stored_text}:{server_text}"
