"""The database that a command works on: which it is, and what is made in it before the work begins."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import typer
from pydantic import SecretStr

from upsert_svc import migrations
from upsert_svc.db import embedded, roles
from upsert_svc.settings import Settings


def chosen(data_dir: str | None, database_url: str | None) -> Settings:
    """The settings of the environment, but for what the command line says."""
    given: dict[str, object] = {}
    if data_dir is not None:
        given["data_dir"] = data_dir
    if database_url is not None:
        given["database_url"] = SecretStr(database_url)
    return Settings(**given)  # type: ignore[arg-type]


class Urls(NamedTuple):
    """Of one database: by the login that serves, and by the role that owns the schema."""

    service: str
    owner: str


@contextlib.contextmanager
def database(settings: Settings, *, is_watched: bool = False, must_exist: bool = False) -> Iterator[Urls]:
    """The database that is set, else that of the embedded server, which runs meanwhile.

    `must_exist`: a data directory that has none yet is a slip, and none is made in it (EmbeddedError).
    """
    owner_url = settings.owner_url
    if (url := settings.service_url) is not None:
        yield Urls(url, owner_url or url)
        return
    if must_exist:
        embedded.require_cluster(settings.data_dir)
    with embedded.start(settings.data_dir) as server:
        server.let_workers_hold()
        with server.watched() if is_watched else contextlib.nullcontext():
            yield Urls(server.service_url, owner_url or server.url)


def prepare(owner_url: str, settings: Settings, *, is_aside: bool = False, is_restored: bool = False) -> None:
    """Migrates, and makes the bootstrap admin. `is_aside`: the standard output is for something else."""
    for step in asyncio.run(migrations.migrate(owner_url, is_restored=is_restored)):
        typer.echo(f"Applied migration {step}", err=is_aside)
    for word in asyncio.run(migrations.bootstrap(owner_url, settings)):
        typer.echo(word, err=True)


def prepare_login(urls: Urls) -> None:
    """Where the owner has a URL of its own, the login of the other one is made when it cannot log in."""
    if urls.owner != urls.service and asyncio.run(roles.ensure_login(urls.owner, urls.service)):
        typer.echo("Made the login of the service")
