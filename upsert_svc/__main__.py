"""The command line: `upsert-svc serve`, `work`, `migrate`, `token …`, `role …`, `import` and `export`."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NamedTuple, NoReturn

import typer
from pydantic import SecretStr, ValidationError
from pydantic_core import ErrorDetails
from rich.console import Console
from rich.table import Table

from upsert_svc import demo, logs, migrations, server
from upsert_svc.accounts import tokens
from upsert_svc.db import embedded, roles
from upsert_svc.db.pools import SERVICE_ROLE, UnreachableDatabase, owner_transaction
from upsert_svc.definitions.field_types import FIELD_TYPES
from upsert_svc.jobs import worker
from upsert_svc.settings import Settings, variable_of
from upsert_svc.transfer import exporting, importing
from upsert_svc.transfer.client import Target, TransferFailed, escaped
from upsert_svc.transfer.export_rows import Format

app = typer.Typer(
    help="A custom-object upsert service on PostgreSQL.", no_args_is_help=True, pretty_exceptions_enable=False
)
token_app = typer.Typer(help="API tokens.", no_args_is_help=True)
app.add_typer(token_app, name="token")
role_app = typer.Typer(help="The service's login to the database.", no_args_is_help=True)
app.add_typer(role_app, name="role")

DataDir = Annotated[
    Path | None, typer.Option(help="Where the embedded PostgreSQL keeps its data (UPSERT_SVC_DATA_DIR)")
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(help="A PostgreSQL to use instead; wins over a data directory (UPSERT_SVC_DATABASE_URL)"),
]


Token = Annotated[str, typer.Option(envvar="UPSERT_SVC_TOKEN", help="An API token", show_default=False)]
Url = Annotated[str, typer.Option(envvar="UPSERT_SVC_URL", help="Where the service answers")]
_URL = "http://127.0.0.1:8080"
_CELL_KINDS = {name: field_type.cell for name, field_type in FIELD_TYPES.items()}  # of CSV files


class Role(StrEnum):
    admin = "admin"
    agent = "agent"


def _settings(data_dir: Path | None, database_url: str | None) -> Settings:
    given: dict[str, object] = {}
    if data_dir is not None:
        given["data_dir"] = data_dir
    if database_url is not None:
        given["database_url"] = SecretStr(database_url)
    return Settings(**given)  # type: ignore[arg-type]


class _Urls(NamedTuple):
    """Of one database: by the login that serves, and by the role that owns the schema."""

    service: str
    owner: str


@contextlib.contextmanager
def _database(settings: Settings, *, is_watched: bool = False) -> Iterator[_Urls]:
    """The database that is set, else that of the embedded server, which runs meanwhile."""
    owner_url = settings.migration_database_url and settings.migration_database_url.get_secret_value()
    if settings.database_url is not None:
        url = settings.database_url.get_secret_value()
        yield _Urls(url, owner_url or url)
        return
    with embedded.start(settings.data_dir) as server:
        server.let_workers_hold()
        with server.watched() if is_watched else contextlib.nullcontext():
            yield _Urls(server.service_url, owner_url or server.url)


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="The address to listen at")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen at")] = 8080,
    workers: Annotated[int, typer.Option(min=1, help="How many processes answer")] = 1,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    with_demo: Annotated[
        bool, typer.Option("--demo", help="Make a token and an object to try, and show how")
    ] = False,
    show_token: Annotated[
        bool, typer.Option("--show-token", help="Print the token of the demo, too")
    ] = False,
) -> None:
    """Migrates the database, makes the bootstrap admin, and answers requests until stopped."""
    logs.configure()
    settings = _settings(data_dir, database_url)
    # Ctrl-C and SIGTERM both unwind to here, so that the embedded server is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with (
        contextlib.suppress(KeyboardInterrupt),
        server.bound(host, port) as sockets,
        _database(settings, is_watched=True) as urls,
    ):
        os.environ["UPSERT_SVC_DATABASE_URL"] = urls.service  # the workers read it
        os.environ.pop("UPSERT_SVC_MIGRATION_DATABASE_URL", None)  # and need not know this one
        _prepare_to_serve(urls, settings)
        token_file = (settings.data_dir / "demo-token").absolute()
        token = asyncio.run(demo.prepare(settings, urls.owner, token_file)) if with_demo else None
        server.listen(sockets)
        address = f"http://{host}:{sockets[0].getsockname()[1]}"
        typer.echo(demo.introduction(address, token_file) if token else f"Serving at {address}")
        if token and show_token:
            typer.echo(f"Token of an admin: {token}")
        server.run(
            sockets,
            workers=workers,
            delay_seconds=settings.shutdown_delay_seconds,
            shutdown_timeout_seconds=settings.shutdown_timeout_seconds,
        )


def _prepare(owner_url: str, settings: Settings) -> None:
    for step in asyncio.run(migrations.migrate(owner_url)):
        typer.echo(f"Applied migration {step}")
    asyncio.run(migrations.bootstrap(owner_url, settings))


def _prepare_login(urls: _Urls) -> None:
    """Where the owner has a URL of its own, the login of the other one is made when it cannot log in."""
    if urls.owner != urls.service and asyncio.run(roles.ensure_login(urls.owner, urls.service)):
        typer.echo("Made the login of the service")


def _prepare_to_serve(urls: _Urls, settings: Settings) -> None:
    _prepare(urls.owner, settings)
    _prepare_login(urls)
    if (warning := asyncio.run(roles.excess(urls.service))) is not None:
        typer.echo(warning, err=True)


@app.command()
def work(data_dir: DataDir = None, database_url: DatabaseUrl = None) -> None:
    """Migrates the database and carries out bulk jobs until stopped, without answering requests."""
    logs.configure()
    settings = _settings(data_dir, database_url)

    async def until_stopped(url: str) -> None:
        is_stopped = asyncio.Event()
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(signal_number, is_stopped.set)
        await worker.work(settings, url, is_stopped)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with _database(settings, is_watched=True) as urls:
        _prepare_to_serve(urls, settings)
        typer.echo("Working")
        asyncio.run(until_stopped(urls.service))


@app.command()
def migrate(data_dir: DataDir = None, database_url: DatabaseUrl = None) -> None:
    """Brings the database to the schema of this version."""
    settings = _settings(data_dir, database_url)
    with _database(settings) as urls:
        _prepare(urls.owner, settings)
        _prepare_login(urls)
    typer.echo("The schema is up to date")


@app.command("import")
def import_file(
    object_key: Annotated[str, typer.Argument(metavar="OBJECT", help="The object's key")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .csv with a header, or .ndjson or .jsonl")],
    key: Annotated[
        str,
        typer.Option(
            metavar="COLUMN", help="What identifies a record: name, or a column sent as external_id"
        ),
    ],
    token: Token = "",
    url: Url = _URL,
    concurrency: Annotated[int, typer.Option(min=1, max=1000, help="How many rows are sent at a time")] = 32,
    refused: Annotated[
        Path | None, typer.Option(help="Where refused rows are written; to FILE.refused.ndjson if left out")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="A row is the whole record: what it leaves out becomes empty")
    ] = False,
) -> None:
    """Sends each row of a file as an upsert; may be run again at any time.

    Exits with 0 when every row was taken, 3 when some were refused, 1 when the import could not be done.
    """
    options = importing.Options(
        Target(object_key, url, token), _CELL_KINDS, file, key, concurrency, refused, replace
    )
    try:
        summary = importing.run(options)
    except TransferFailed as error:
        _fail(str(error))
    typer.echo(summary)
    if summary.counts["refused"]:
        typer.echo(escaped(f"The refused rows and why: {options.files.refused}"), err=True)
        raise typer.Exit(3)


@app.command("export")
def export_records(
    object_key: Annotated[str, typer.Argument(metavar="OBJECT", help="The object's key")],
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to; the standard output if left out")
    ] = None,
    format_: Annotated[
        Format | None,
        typer.Option("--format", help="csv or ndjson; by the suffix of FILE if left out, else ndjson"),
    ] = None,
    filter_: Annotated[
        str | None,
        typer.Option("--filter", metavar="JSON", help="Only the records that a search finds by it"),
    ] = None,
    token: Token = "",
    url: Url = _URL,
) -> None:
    """Writes the records of an object as CSV or NDJSON that `import` takes back.

    Exits with 0 when all were written, 1 when the export could not be done, and FILE is then as it was.
    """
    options = exporting.Options(Target(object_key, url, token), _CELL_KINDS, output, format_, filter_)
    try:
        summary = exporting.run(options)
    except TransferFailed as error:
        _fail(str(error))
    typer.echo(summary, err=output is None)
    for warning in summary.warnings:
        typer.echo(warning, err=True)


@token_app.command("create")
def token_create(
    email: Annotated[str, typer.Option(help="The user's e-mail address; the user is made if missing")],
    role: Annotated[Role, typer.Option(help="The user's role from now on")],
    name: Annotated[str, typer.Option(help="What the token is for")] = "",
    account: Annotated[str, typer.Option(help="The account, made if missing")] = tokens.DEFAULT_ACCOUNT,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Makes a token and prints it; it cannot be shown again."""

    async def create(url: str) -> str:
        async with owner_transaction(url) as connection:
            return await tokens.create(connection, account=account, email=email, role=role.value, name=name)

    settings = _settings(data_dir, database_url)
    with _database(settings) as urls:
        _prepare(urls.owner, settings)
        typer.echo(asyncio.run(create(urls.owner)))


@token_app.command("list")
def token_list(data_dir: DataDir = None, database_url: DatabaseUrl = None) -> None:
    """Lists the tokens by their last characters; never a token itself."""

    async def listed(url: str) -> list[tokens.TokenListing]:
        async with owner_transaction(url) as connection:
            return await tokens.list_all(connection)

    table = Table("id", "account", "e-mail", "role", "name", "ends in", "created", "revoked")
    with _database(_settings(data_dir, database_url)) as urls:
        for item in asyncio.run(listed(urls.owner)):
            revoked = f"{item.revoked_at:%Y-%m-%d %H:%M}" if item.revoked_at else ""
            created = f"{item.created_at:%Y-%m-%d %H:%M}"
            identity = (str(item.token_id), item.account, item.email, item.role, item.name)
            table.add_row(*identity, item.last_four, created, revoked)
    # in a pipe there is no width to keep to
    Console(width=None if sys.stdout.isatty() else 200).print(table)


@token_app.command("revoke")
def token_revoke(
    token_id: Annotated[int, typer.Argument(help="The id that `token list` shows")],
    account: Annotated[str, typer.Option(help="The account of the token")] = tokens.DEFAULT_ACCOUNT,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Revokes a token; it stops working within a second."""

    async def revoke(url: str) -> bool:
        async with owner_transaction(url) as connection:
            return await tokens.revoke(connection, account=account, token_id=token_id)

    with _database(_settings(data_dir, database_url)) as urls:
        if not asyncio.run(revoke(urls.owner)):
            _fail(f"Account {account} has no token {token_id} that is not revoked")
    typer.echo(f"Token {token_id} is revoked")


@role_app.command("create")
def role_create(
    name: Annotated[str, typer.Option(help="The login's name")] = SERVICE_ROLE,
    database_url: DatabaseUrl = None,
) -> None:
    """Makes a login that can only serve, or gives it a new password; prints its URL, once.

    It is made by the owner, whose URL is UPSERT_SVC_MIGRATION_DATABASE_URL, else UPSERT_SVC_DATABASE_URL.
    """
    settings = _settings(None, database_url)
    if settings.database_url is None:
        _fail("The embedded server makes the login by itself; for another one set UPSERT_SVC_DATABASE_URL")
    with _database(settings) as urls:
        _prepare(urls.owner, settings)
        typer.echo(asyncio.run(roles.create_login(urls.owner, name)))
    typer.echo(
        "Set UPSERT_SVC_DATABASE_URL to this, and UPSERT_SVC_MIGRATION_DATABASE_URL to the URL of the owner",
        err=True,
    )


def _fail(message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(1)


def main() -> None:
    """The entry point; a mistake of the operator's is a line, not a traceback."""
    try:
        app()
    except (
        embedded.EmbeddedError,
        migrations.MigrationError,
        roles.RoleError,
        server.AddressTaken,
        UnreachableDatabase,
    ) as error:
        sys.exit(str(error))
    except ValidationError as error:
        sys.exit("\n".join(_setting_problem(item) for item in error.errors()))


def _setting_problem(item: ErrorDetails) -> str:
    """A wrong setting by name, without its value, which may be a secret."""
    names = [variable_of(str(part).lower().removeprefix("upsert_svc_")) for part in item["loc"]]
    return ": ".join([*names, item["msg"]])


if __name__ == "__main__":
    main()
