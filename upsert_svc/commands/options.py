"""Options that several commands take, and how a command ends that cannot be carried out."""

from typing import Annotated, Any, NoReturn

import typer

from upsert_svc.settings import is_utf8

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
DEFAULT_URL = "http://127.0.0.1:8080"


def flag(*names: str, help: str, **others: Any) -> Any:  # noqa: A002
    """An option that is there or not, whose help names no type that one could write behind it."""
    return typer.Option(*names, metavar="", help=help, **others)


def fail(message: str) -> NoReturn:
    """Says what was wrong, and ends the command with 1."""
    typer.echo(message, err=True)
    raise typer.Exit(1)


def require_text(option: str, value: str, *, is_needed: bool = True) -> None:
    """Ends the command for a text that nothing can be called by."""
    if is_needed and not value.strip():
        fail(f"{option} must not be empty")
    if not is_utf8(value):
        fail(f"{option} must be UTF-8")
    if not value.isprintable():
        fail(f"{option} must have no control characters")
