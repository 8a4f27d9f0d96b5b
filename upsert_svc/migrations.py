"""Brings a database to this version's schema: the whole of it at once, or the forward steps that it lacks.

The functions follow whenever their files have changed. All of it is one transaction, one process at a time.
"""

import hashlib
import re
import secrets
from pathlib import Path

from upsert_svc.accounts import tokens
from upsert_svc.db import roles, statements
from upsert_svc.db.pools import Connection, owner_connection, owner_transaction
from upsert_svc.definitions.field_types import FIELD_TYPES
from upsert_svc.jobs import job_queue
from upsert_svc.mistakes import Mistake, first_line
from upsert_svc.settings import Settings

CURSOR_KEY = "cursors"
LIFE_KEY = "life"  # no secret: see sql/history.sql
_LABEL_KEY = "backup label"
MINIMUM_VERSION = 18
_LOCK = 4_871_263_001

_CREATE_LEDGER = """
create table if not exists schema_migrations (
    name       text primary key,
    digest     text not null,
    applied_at timestamptz not null default now()
)"""

# others call their own ledgers so
_HAS_LEDGER = """
select count(*) = 3 from pg_attribute
 where attrelid = to_regclass('schema_migrations') and attname in ('name', 'digest', 'applied_at')"""
# names that are taken (42P07, 42710, 42723), or are something else
_CLASHES = {"42P07", "42710", "42723", "42703", "42809", "42P13"}

# A dump that was restored into another cluster brings transaction ids that this one has yet to reach. All
# that came along counts as older than whatever is written from now on: '3' is the first of every cluster.
_ARE_CHANGES_AHEAD = """
select exists (
       select from objects o
        where (select c.transaction_id from changes c
                where c.account_id = o.account_id and c.object_id = o.object_id
                order by c.transaction_id desc limit 1) > pg_current_xact_id())"""
_REBASE = """
update changes
   set transaction_id = '3',
       previous_transaction_id = case when previous_transaction_id is not null then '3'::xid8 end;
update records set changed_in = '3';
update tombstones set changed_in = '3';"""

_FIELD_TYPES_CHECK = """
select pg_get_constraintdef(oid) from pg_constraint
 where conrelid = 'fields'::regclass and conname = 'fields_type_check'"""


_MAY_READ_FILES = "select has_function_privilege('pg_read_file(text, boolean)', 'execute')"
_BACKUP_LABEL = "select pg_read_file('backup_label.old', true)"


class MigrationError(Mistake):
    """The database cannot be brought to this version's schema; the message says why."""


def steps() -> list[Path]:
    """The migration files in the order in which they are applied."""
    return sorted((statements.DIRECTORY / "migrations").glob("*.sql"))


def functions() -> list[Path]:
    """The files of the functions, applied whenever their text has changed; first what others need."""
    files = (statements.DIRECTORY / "functions").glob("*.sql")
    return sorted(files, key=lambda file: (file.stem != "values", file.stem))


async def migrate(url: str, *, is_restored: bool = False) -> list[str]:
    """Applies what is missing, in one transaction; answers the names of what was applied.

    Raises MigrationError, RoleError and UnreachableDatabase.

    The queue of the jobs is made by its library, in the same transaction; what another version of the library
    made is upgraded after it, because that takes several transactions.
    """
    async with owner_transaction(url) as connection:
        _require_version(connection)
        await _require_rights(connection)
        await connection.execute("select pg_advisory_xact_lock($1)", _LOCK)
        is_ours = await _is_migrated(connection)
        try:
            applied = await _apply_all(connection)
        except Exception as error:
            if is_ours or getattr(error, "sqlstate", None) not in _CLASHES:
                raise
            raise MigrationError(
                f"The database has something else in it ({first_line(error)}): name one that is empty, or "
                "was made by this service"
            ) from error
        if await connection.fetchval(_ARE_CHANGES_AHEAD):
            await connection.execute(_REBASE)
        await _begin_life(connection, is_restored=is_restored)
        await job_queue.install(connection)
        is_queue_old = await job_queue.is_old(connection)
    if is_queue_old:
        async with owner_connection(url) as connection:
            await connection.execute("select pg_advisory_lock($1)", _LOCK)  # until the connection is closed
            await job_queue.upgrade(connection)
    return applied


async def require_migrated(connection: Connection) -> None:
    """Raises MigrationError where the database never had any version's schema, or is another role's."""
    await _require_rights(connection, "look into the tables")
    if not await _is_migrated(connection):
        raise MigrationError(
            "The database was never migrated: run `upsert-svc migrate`, or `upsert-svc serve`, on it first, "
            "or name the one that is served"
        )


async def _is_migrated(connection: Connection) -> bool:
    if not await connection.fetchval(_HAS_LEDGER):
        return False
    return await connection.fetchval("select exists (select from schema_migrations)") is True


async def bootstrap(url: str, settings: Settings) -> list[str]:
    """Makes the default account, the service's keys and, where settings name one, the first admin.

    Another token than at the last start is in the place of that one, which is revoked. Answers what the
    operator should know.
    """
    async with owner_transaction(url) as connection:
        await tokens.ensure_account(connection, tokens.DEFAULT_ACCOUNT)
        await tokens.ensure_key(connection, CURSOR_KEY)
        if settings.bootstrap_email and settings.bootstrap_token:
            issued = await tokens.issue(
                connection,
                account=tokens.DEFAULT_ACCOUNT,
                email=settings.bootstrap_email,
                role="admin",
                name="bootstrap",
                token=settings.bootstrap_token.get_secret_value(),
            )
            return await _replaced(connection, issued)
    return []


async def _replaced(connection: Connection, issued: tokens.Issued) -> list[str]:
    if issued.is_new:
        revoked = await tokens.revoke_earlier(connection, issued)
        return [f"Revoked token {token_id}, the bootstrap token before this one" for token_id in revoked]
    if await tokens.find(connection, tokens.digest(issued.token)) is None:
        return ["UPSERT_SVC_BOOTSTRAP_TOKEN was revoked, and lets nobody in: set another one, or none"]
    return []


async def _begin_life(connection: Connection, *, is_restored: bool) -> None:
    """Gives a restored database a new mark, by which the cursors of the one before it are refused.

    PostgreSQL keeps the label of the base backup that it was restored from, which the backup itself did not
    have. Only a superuser may read it; and the snapshot of a disk has none, so that it must be told.
    """
    may_read = await connection.fetchval(_MAY_READ_FILES)
    label = await connection.fetchval(_BACKUP_LABEL) if may_read else None
    digest = hashlib.sha256((label or "").encode()).digest()
    noted = await tokens.noted_key(connection, _LABEL_KEY)
    if is_restored or (label is not None and noted != digest):
        await tokens.renew_key(connection, LIFE_KEY, secrets.token_bytes(16))
        await tokens.renew_key(connection, _LABEL_KEY, digest)


def _require_version(connection: Connection) -> None:
    major = connection.get_server_version().major
    if major < MINIMUM_VERSION:
        raise MigrationError(
            f"PostgreSQL {MINIMUM_VERSION} or later is needed; the server is version {major}"
        )


async def _require_known_steps(connection: Connection) -> None:
    """Raises MigrationError where a later version has migrated the database."""
    noted = await connection.fetch(r"select name from schema_migrations where name ~ '^\d{4}_' order by name")
    if unknown := [row["name"] for row in noted if row["name"] not in {step.stem for step in steps()}]:
        raise MigrationError(
            f"The database is of a later version, whose steps are unknown here: {', '.join(unknown)}. "
            "Start that version, or restore a backup from before its first start"
        )


async def _require_rights(connection: Connection, to_what: str = "migrate the database") -> None:
    if not await connection.fetchval("select has_schema_privilege(current_schema(), 'create')"):
        raise MigrationError(
            f"{await connection.fetchval('select session_user::text')} may not {to_what}: "
            "set UPSERT_SVC_MIGRATION_DATABASE_URL to the URL of the role that owns it"
        )


async def _require_known_types(connection: Connection) -> None:
    """Raises MigrationError where the database and the registry of field types differ."""
    check = await connection.fetchval(_FIELD_TYPES_CHECK)
    allowed = set(re.findall(r"'(\w+)'", check))
    if allowed != FIELD_TYPES.keys():
        differing = ", ".join(sorted(allowed ^ FIELD_TYPES.keys()))
        raise MigrationError(f"The database and this version have different field types: {differing}")


async def _apply_all(connection: Connection) -> list[str]:
    await connection.execute(_CREATE_LEDGER)
    await _require_known_steps(connection)
    await roles.ensure_role(connection)
    await roles.require_grants(connection)
    applied = await _apply_schema(connection)
    applied += [_name_of(file) for file in functions() if await _apply_functions(connection, file)]
    await _require_known_types(connection)
    return applied


async def _apply_schema(connection: Connection) -> list[str]:
    """Makes the tables of a new database at once, and brings those of another one there step by step."""
    if not await connection.fetchval("select exists (select from schema_migrations)"):
        needed, *_ = functions()  # by the tables
        await _apply_functions(connection, needed)
        await connection.execute(_text(statements.DIRECTORY / "schema.sql"))
        for step in steps():
            await _note(connection, step.stem, _digest(_text(step)))
        return [_name_of(needed), "schema"]
    return [step.stem for step in steps() if await _apply_step(connection, step)]


async def _apply_step(connection: Connection, step: Path) -> bool:
    text = _text(step)
    applied = await _noted(connection, step.stem)
    if applied is None:
        await connection.execute(text)
        await _note(connection, step.stem, _digest(text))
    elif applied != _digest(text):
        raise MigrationError(
            f"{step.stem} was applied in another form than the file has now: the database is of a version "
            "before the first release. Export with that version, and import into a new database"
        )
    return applied is None


async def _apply_functions(connection: Connection, file: Path) -> bool:
    """Whether the file is another one than was applied last."""
    text = _text(file)
    if await _noted(connection, _name_of(file)) == _digest(text):
        return False
    await connection.execute(text)
    await _note(connection, _name_of(file), _digest(text))
    return True


def _name_of(functions_file: Path) -> str:
    return f"functions/{functions_file.stem}"


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


async def _noted(connection: Connection, name: str) -> str | None:
    """The digest of what was applied under a name."""
    digest: str | None = await connection.fetchval(
        "select digest from schema_migrations where name = $1", name
    )
    return digest


async def _note(connection: Connection, name: str, digest: str) -> None:
    await connection.execute(
        """insert into schema_migrations (name, digest) values ($1, $2)
               on conflict (name) do update set digest = excluded.digest, applied_at = excluded.applied_at""",
        name,
        digest,
    )
