"""`upsert-svc serve`, `work` and `migrate`."""

import asyncio
import contextlib
import os
import signal
import sys
from functools import partial
from typing import Annotated

import typer

from upsert_svc import demo, logs, server
from upsert_svc.commands.databases import Urls, chosen, database, prepare, prepare_login
from upsert_svc.commands.options import DatabaseUrl, DataDir, fail, flag
from upsert_svc.db import roles
from upsert_svc.jobs import worker
from upsert_svc.settings import Settings


def serve(
    host: Annotated[str, typer.Option(help="The address to listen at")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen at")] = 8080,
    workers: Annotated[int, typer.Option(min=1, max=1000, help="How many processes answer")] = 1,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    with_demo: Annotated[
        bool, flag("--demo", help="Make a token and an object to try, and show how")
    ] = False,
    show_token: Annotated[bool, flag("--show-token", help="With --demo: print its token, too")] = False,
) -> None:
    """Migrates the database, makes the bootstrap admin, and answers requests until stopped."""
    if show_token and not with_demo:
        fail("--show-token prints the token of the demo: it belongs to --demo")
    logs.configure()
    if not host.strip():
        fail("--host must name an address or a host: 0.0.0.0 and :: are all addresses")
    settings = chosen(data_dir, database_url)
    # Ctrl-C and SIGTERM both unwind to here, so that the embedded server is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with (
        contextlib.suppress(KeyboardInterrupt),
        server.bound(host, port) as sockets,
        database(settings, is_watched=True) as urls,
    ):
        _hand_on(urls.service, settings)
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


def _hand_on(service_url: str, settings: Settings) -> None:
    """To the application, which reads the settings anew: what the command line says wins there too.

    The workers need not know the URL of the owner.
    """
    databases = ("DATABASE_URL", "DATABASE_PASSWORD", "MIGRATION_DATABASE_URL", "MIGRATION_DATABASE_PASSWORD")
    replaced = {f"UPSERT_SVC_{name}" for name in (*databases, "DATA_DIR")}
    for name in [name for name in os.environ if name.upper() in replaced]:  # which are read in any case
        del os.environ[name]
    os.environ["UPSERT_SVC_DATABASE_URL"] = service_url
    os.environ["UPSERT_SVC_DATA_DIR"] = str(settings.data_dir)


def _prepare_to_serve(urls: Urls, settings: Settings) -> None:
    prepare(urls.owner, settings)
    prepare_login(urls)
    if (warning := asyncio.run(roles.excess(urls.service))) is not None:
        typer.echo(warning, err=True)


def work(data_dir: DataDir = None, database_url: DatabaseUrl = None) -> None:
    """Migrates the database and carries out bulk jobs until stopped, without answering requests."""
    logs.configure()
    settings = chosen(data_dir, database_url)

    async def until_stopped(url: str) -> None:
        is_stopped = asyncio.Event()
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(signal_number, is_stopped.set)
        await worker.work(settings, url, is_stopped)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with database(settings, is_watched=True) as urls:
        _prepare_to_serve(urls, settings)
        typer.echo("Working")
        asyncio.run(until_stopped(urls.service))


def migrate(
    restored: Annotated[
        bool, flag("--restored", help="The data are from a backup: refuse the cursors of exports")
    ] = False,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Brings the database to the schema of this version."""
    settings = chosen(data_dir, database_url)
    with database(settings, must_exist=restored) as urls:
        prepare(urls.owner, settings, is_restored=restored)
        prepare_login(urls)
    typer.echo("The schema is up to date")
    if restored:
        typer.echo("Cursors of incremental exports that were given before are refused from now on")
