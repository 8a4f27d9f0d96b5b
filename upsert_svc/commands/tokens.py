"""`upsert-svc token`: API tokens are made, listed and revoked."""

import asyncio
import json
import sys
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from upsert_svc import migrations
from upsert_svc import settings as all_settings
from upsert_svc.accounts import tokens
from upsert_svc.commands.databases import chosen, database, prepare
from upsert_svc.commands.options import DatabaseUrl, DataDir, fail, flag, require_text
from upsert_svc.db.pools import owner_transaction

app = typer.Typer(help="API tokens.", no_args_is_help=True)


class Role(StrEnum):
    admin = "admin"
    agent = "agent"


_ACCOUNT_LIMIT = 255  # characters, which an index can hold
_LARGEST_ID = 2**31 - 1  # of an integer of PostgreSQL


def _require_account(name: str) -> None:
    require_text("--account", name)
    if len(name) > _ACCOUNT_LIMIT:
        fail(f"--account must have at most {_ACCOUNT_LIMIT} characters")


@app.command("create")
def create_token(
    email: Annotated[str, typer.Option(help="The user's e-mail address; the user is made if missing")],
    role: Annotated[Role, typer.Option(help="The user's role from now on")],
    name: Annotated[str, typer.Option(help="What the token is for")] = "",
    account: Annotated[str, typer.Option(help="The account, made if missing")] = tokens.DEFAULT_ACCOUNT,
    as_json: Annotated[bool, flag("--json", help="Print all of it as JSON")] = False,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Makes a token and prints it; it cannot be shown again.

    The token alone is on the standard output; its id, which `token revoke` takes, and the id of the user,
    which events and records name, are on the standard error.
    """
    _require_account(account)
    require_text("--name", name, is_needed=False)
    try:
        all_settings.email_of(email)
    except ValueError as error:
        fail(f"--email {error}")

    async def create(url: str) -> tokens.Issued:
        async with owner_transaction(url) as connection:
            return await tokens.issue(connection, account=account, email=email, role=role.value, name=name)

    settings = chosen(data_dir, database_url)
    with database(settings, must_exist=True) as urls:
        prepare(urls.owner, settings, is_aside=True)
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


@app.command("list")
def list_tokens(data_dir: DataDir = None, database_url: DatabaseUrl = None) -> None:
    """Lists the tokens by their last characters; never a token itself."""

    async def listed(url: str) -> list[tokens.TokenListing]:
        async with owner_transaction(url) as connection:
            await migrations.require_migrated(connection)
            return await tokens.list_all(connection)

    table = Table("id", "account", "user", "e-mail", "role", "name", "ends in", "created", "revoked")
    with database(chosen(data_dir, database_url), must_exist=True) as urls:
        for item in asyncio.run(listed(urls.owner)):
            revoked = f"{item.revoked_at:%Y-%m-%d %H:%M}" if item.revoked_at else ""
            created = f"{item.created_at:%Y-%m-%d %H:%M}"
            user = (str(item.user_id), item.email, item.role)
            row = (str(item.token_id), item.account, *user, item.name, item.last_four, created, revoked)
            table.add_row(*map(Text, row))  # as it is: no markup
    # in a pipe there is no width to keep to
    Console(width=None if sys.stdout.isatty() else 200).print(table)


@app.command("revoke")
def revoke_token(
    token_id: Annotated[int, typer.Argument(help="The id that `token list` shows")],
    account: Annotated[str, typer.Option(help="The account of the token")] = tokens.DEFAULT_ACCOUNT,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Revokes a token; it stops working within a second."""
    _require_account(account)

    async def revoke(url: str) -> bool:
        if not 0 < token_id <= _LARGEST_ID:
            return False
        async with owner_transaction(url) as connection:
            await migrations.require_migrated(connection)
            return await tokens.revoke(connection, account=account, token_id=token_id)

    with database(chosen(data_dir, database_url), must_exist=True) as urls:
        if not asyncio.run(revoke(urls.owner)):
            fail(f"Account {account} has no token {token_id} that is not revoked")
    typer.echo(f"Token {token_id} is revoked")
