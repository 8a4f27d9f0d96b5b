"""`upsert-svc import` and `export`."""

from pathlib import Path
from typing import Annotated

import typer

from upsert_svc.commands.options import DEFAULT_URL, Token, Url, fail, flag
from upsert_svc.definitions.field_types import FIELD_TYPES
from upsert_svc.transfer import exporting, importing
from upsert_svc.transfer.client import Target, TransferFailed, escaped
from upsert_svc.transfer.export_rows import Format

_CELL_KINDS = {name: field_type.cell for name, field_type in FIELD_TYPES.items()}  # of CSV files


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
    url: Url = DEFAULT_URL,
    concurrency: Annotated[int, typer.Option(min=1, max=1000, help="How many rows are sent at a time")] = 32,
    refused: Annotated[
        Path | None,
        typer.Option(help="Where refused rows are written", show_default="FILE.refused.ndjson"),
    ] = None,
    replace: Annotated[
        bool, flag("--replace", help="A row is the whole record: what it leaves out becomes empty")
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
        fail(str(error))
    typer.echo(summary)
    if summary.counts["refused"]:
        typer.echo(escaped(f"The refused rows and why: {options.files.refused}"), err=True)
        raise typer.Exit(3)


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
    url: Url = DEFAULT_URL,
) -> None:
    """Writes the records of an object as CSV or NDJSON that `import` takes back.

    Exits with 0 when all were written, 1 when the export could not be done, and FILE is then as it was.
    """
    if output is not None and output.is_dir():
        fail(escaped(f"{output} is a directory; --output names a file"))
    options = exporting.Options(Target(object_key, url, token), _CELL_KINDS, output, format_, filter_)
    try:
        summary = exporting.run(options)
    except TransferFailed as error:
        fail(str(error))
    typer.echo(summary, err=output is None)
    for warning in summary.warnings:
        typer.echo(warning, err=True)
