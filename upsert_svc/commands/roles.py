"""`upsert-svc role`: the login of the service to the database."""

import asyncio
from typing import Annotated

import typer

from upsert_svc.commands.databases import chosen, database, prepare
from upsert_svc.commands.options import DatabaseUrl, fail, require_text
from upsert_svc.db import roles
from upsert_svc.db.pools import SERVICE_ROLE

_NAME_LIMIT = 63  # of PostgreSQL, which cuts a longer one

app = typer.Typer(help="The service's login to the database.", no_args_is_help=True)


@app.command("create")
def create_role(
    name: Annotated[str, typer.Option(help="The login's name")] = SERVICE_ROLE,
    database_url: DatabaseUrl = None,
) -> None:
    """Makes a login that can only serve, or gives it a new password; prints its URL, once.

    It is made by the owner, whose URL is UPSERT_SVC_MIGRATION_DATABASE_URL, else UPSERT_SVC_DATABASE_URL.
    """
    require_text("--name", name)
    if len(name.encode()) > _NAME_LIMIT:
        fail(f"--name must have at most {_NAME_LIMIT} bytes")
    settings = chosen(None, database_url)
    if settings.database_url is None:
        fail("The embedded server makes the login by itself; for another one set UPSERT_SVC_DATABASE_URL")
    with database(settings) as urls:
        prepare(urls.owner, settings, is_aside=True)
        typer.echo(asyncio.run(roles.create_login(urls.owner, name)))
    typer.echo(
        "Set UPSERT_SVC_DATABASE_URL to this, and UPSERT_SVC_MIGRATION_DATABASE_URL to the URL of the owner",
        err=True,
    )
