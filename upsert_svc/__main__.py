"""The command line: `upsert-svc serve`, `work`, `migrate`, `token …`, `role …`, `import` and `export`."""

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from upsert_svc import settings as all_settings
from upsert_svc.commands import roles as role_commands
from upsert_svc.commands import serving, transfers
from upsert_svc.commands import tokens as token_commands
from upsert_svc.commands.options import fail, flag
from upsert_svc.db import embedded
from upsert_svc.mistakes import line_of
from upsert_svc.settings import Settings

_SETTINGS = "Settings, from the environment (see docs/operations.md): " + ", ".join(
    f"UPSERT_SVC_{name.upper()}" for name in Settings.model_fields
)
_OF_COMMANDS = {"UPSERT_SVC_URL", "UPSERT_SVC_TOKEN", embedded.BINDIR_VARIABLE, embedded.HELD_VARIABLE}

app = typer.Typer(
    help="A custom-object upsert service on PostgreSQL.", no_args_is_help=True, pretty_exceptions_enable=False
)
app.command(epilog=_SETTINGS)(serving.serve)
app.command()(serving.work)
app.command()(serving.migrate)
app.command("import")(transfers.import_file)
app.command("export")(transfers.export_records)
app.add_typer(token_commands.app, name="token")
app.add_typer(role_commands.app, name="role")


def _tell_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"upsert-svc {version('upsert_svc')}")
        raise typer.Exit


@app.callback()
def every_command(
    _version: Annotated[
        bool, flag("--version", "-V", callback=_tell_version, is_eager=True, help="Tell the version")
    ] = False,
) -> None:
    if "--help" not in sys.argv and (slips := all_settings.unknown(_OF_COMMANDS)):
        fail("\n".join(slips))


def main() -> None:
    """The entry point; a mistake of the operator's is a line, not a traceback."""
    try:
        app()
    except Exception as error:
        if (line := line_of(error)) is None:
            raise
        sys.exit(line)


if __name__ == "__main__":
    main()
