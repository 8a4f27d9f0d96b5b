"""The command line: `upsert-svc serve`, `work`, `migrate`, `token …`, `role …`, `import` and `export`."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict
from enum import StrEnum
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, NamedTuple, NoReturn

import typer
from pydantic import SecretStr, ValidationError
from rich.console import Console
from rich.table import Table

from upsert_svc import demo, logs, migrations, server
from upsert_svc import settings as all_settings
from upsert_svc.accounts import tokens
from upsert_svc.db import embedded, roles
from upsert_svc.db.pools import SERVICE_ROLE, UnreachableDatabase, owner_transaction
from upsert_svc.definitions.field_types import FIELD_TYPES
from upsert_svc.jobs import worker
from upsert_svc.settings import Settings
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

_SETTINGS = "Settings, from the environment (see docs/operations.md): " + ", ".join(
    f"UPSERT_SVC_{name.upper()}" for name in Settings.model_fields
)
_OF_COMMANDS = {"UPSERT_SVC_URL", "UPSERT_SVC_TOKEN", embedded.BINDIR_VARIABLE, embedded.HELD_VARIABLE}

DataDir = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="Where the embedded PostgreSQL keeps its data (UPSERT_SVC_DATA_DIR)",
        show_default="data",
    ),
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(help="A PostgreSQL to use instead; wins over a data directory (UPSERT_SVC_DATABASE_URL)"),
]


Token = Annotated[str, typer.Option(envvar="UPSERT_SVC_TOKEN", help="An API token", show_default=False)]
Url = Annotated[str, typer.Option(envvar="UPSERT_SVC_URL", help="Where the service answers")]
_URL = "http://127.0.0.1:8080"
_CELL_KINDS = {name: field_type.cell for name, field_type in FIELD_TYPES.items()}  # of CSV files


def _tell_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"upsert-svc {version('upsert_svc')}")
        raise typer.Exit


@app.callback()
def every_command(
    _version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Tell the version")
    ] = False,
) -> None:
    if "--help" not in sys.argv and (slips := all_settings.unknown(_OF_COMMANDS)):
        _fail("\n".join(slips))


class Role(StrEnum):
    admin = "admin"
    agent = "agent"


def _settings(data_dir: str | None, database_url: str | None) -> Settings:
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
    owner_url = settings.owner_url
    if (url := settings.service_url) is not None:
        yield _Urls(url, owner_url or url)
        return
    with embedded.start(settings.data_dir) as server:
        server.let_workers_hold()
        with server.watched() if is_watched else contextlib.nullcontext():
            yield _Urls(server.service_url, owner_url or server.url)


@app.command(epilog=_SETTINGS)
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
        _hand_on(urls.service)
        _prepare_to_serve(urls, settings)
        token_file = (settings.data_dir / "demo-token").absolute()
        token = asyncio.run(demo.prepare(settings, urls.owner, token_file)) if with_demo else None
        server.listen(sockets)
        address = f"http://{host}:{sockets[0].getsockname()[1]}"
        told = demo.introduction(address, token_file) if token else f"Serving at {address}"
        if token and show_token:
            told += f"\nToken of an admin: {token}"
        server.run(
            sockets,
            workers=workers,
            when_started=partial(typer.echo, told),
            delay_seconds=settings.shutdown_delay_seconds,
            shutdown_timeout_seconds=settings.shutdown_timeout_seconds,
        )


def _hand_on(service_url: str) -> None:
    """To the workers, which read the URL of the service, and need not know that of the owner."""
    os.environ["UPSERT_SVC_DATABASE_URL"] = service_url
    for name in ("DATABASE_PASSWORD", "MIGRATION_DATABASE_URL", "MIGRATION_DATABASE_PASSWORD"):
        os.environ.pop(f"UPSERT_SVC_{name}", None)


def _prepare(
    owner_url: str, settings: Settings, *, is_aside: bool = False, is_restored: bool = False
) -> None:
    """`is_aside`: the standard output is for something else."""
    for step in asyncio.run(migrations.migrate(owner_url, is_restored=is_restored)):
        typer.echo(f"Applied migration {step}", err=is_aside)
    for word in asyncio.run(migrations.bootstrap(owner_url, settings)):
        typer.echo(word, err=True)


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
def migrate(
    restored: Annotated[
        bool, typer.Option("--restored", help="The data are from a backup: refuse the cursors of exports")
    ] = False,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Brings the database to the schema of this version."""
    settings = _settings(data_dir, database_url)
    with _database(settings) as urls:
        _prepare(urls.owner, settings, is_restored=restored)
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
        Path | None,
        typer.Option(help="Where refused rows are written", show_default="FILE.refused.ndjson"),
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
        typer.Option(
            "--format", help="How they are written", show_default="by the suffix of FILE, else ndjson"
        ),
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
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON")] = False,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Makes a token and prints it; it cannot be shown again.

    The token alone is on the standard output; its id, which `token revoke` takes, and the id of the user,
    which events and records name, are on the standard error.
    """
    _require_text("--account", account)
    try:
        all_settings.email_of(email)
    except ValueError as error:
        _fail(f"--email {error}")

    async def create(url: str) -> tokens.Issued:
        async with owner_transaction(url) as connection:
            return await tokens.issue(connection, account=account, email=email, role=role.value, name=name)

    settings = _settings(data_dir, database_url)
    with _database(settings) as urls:
        _prepare(urls.owner, settings, is_aside=True)
        issued = asyncio.run(create(urls.owner))
    if issued.earlier_role not in (None, issued.role):
        typer.echo(
            f"{issued.email} was {issued.earlier_role} and is {issued.role} now, with all tokens", err=True
        )
    if as_json:
        typer.echo(json.dumps({key: value for key, value in asdict(issued).items() if key != "earlier_role"}))
        return
    typer.echo(issued.token)
    typer.echo(f"Token {issued.token_id} of user {issued.user_id} ({issued.email})", err=True)


@token_app.command("list")
def token_list(data_dir: DataDir = None, database_url: DatabaseUrl = None) -> None:
    """Lists the tokens by their last characters; never a token itself."""

    async def listed(url: str) -> list[tokens.TokenListing]:
        async with owner_transaction(url) as connection:
            return await tokens.list_all(connection)

    table = Table("id", "account", "user", "e-mail", "role", "name", "ends in", "created", "revoked")
    with _database(_settings(data_dir, database_url)) as urls:
        for item in asyncio.run(listed(urls.owner)):
            revoked = f"{item.revoked_at:%Y-%m-%d %H:%M}" if item.revoked_at else ""
            created = f"{item.created_at:%Y-%m-%d %H:%M}"
            user = (str(item.user_id), item.email, item.role)
            table.add_row(
                str(item.token_id), item.account, *user, item.name, item.last_four, created, revoked
            )
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
    _require_text("--name", name)
    settings = _settings(None, database_url)
    if settings.database_url is None:
        _fail("The embedded server makes the login by itself; for another one set UPSERT_SVC_DATABASE_URL")
    with _database(settings) as urls:
        _prepare(urls.owner, settings, is_aside=True)
        typer.echo(asyncio.run(roles.create_login(urls.owner, name)))
    typer.echo(
        "Set UPSERT_SVC_DATABASE_URL to this, and UPSERT_SVC_MIGRATION_DATABASE_URL to the URL of the owner",
        err=True,
    )


def _require_text(option: str, value: str) -> None:
    if not value.strip() or "\0" in value:
        _fail(f"{option} must not be empty")


def _fail(message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(1)


def main() -> None:
    """The entry point; a mistake of the operator's is a line, not a traceback."""
    try:
        app()
    except (
        demo.DemoError,
        embedded.EmbeddedError,
        migrations.MigrationError,
        roles.RoleError,
        server.AddressTaken,
        UnreachableDatabase,
    ) as error:
        sys.exit(str(error))
    except ValidationError as error:
        sys.exit("\n".join(map(all_settings.problem, error.errors())))


if __name__ == "__main__":
    main()
