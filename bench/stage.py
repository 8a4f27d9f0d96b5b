"""The stage: an embedded PostgreSQL with fsync on, the service on it, the objects and tables of a run."""

import base64
import contextlib
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from bench import cars, peers, sites
from bench.database import RECORDS, Owner
from bench.sites import Program, Site
from bench.usage import Family
from upsert_svc.db import embedded

_EMAIL = "bench@example.com"


@dataclass(frozen=True)
class Stage:
    """All that the targets need. What is started on it ends with it."""

    owner: Owner
    url: str
    socket_dir: str
    socket_port: str
    postgresql: Family
    scratch: Path
    token: str
    _running: contextlib.ExitStack = field(repr=False)
    _sites: dict[str, Site] = field(default_factory=dict)
    # Of each cell: more apart than one can send, so that no two cells send the same value.
    first_values: Iterator[int] = field(default_factory=lambda: count(cars.FIRST_VALUE, 10**8))

    @property
    def authorization(self) -> str:
        """The credential of all requests."""
        return f"Basic {base64.b64encode(f'{_EMAIL}/token:{self.token}'.encode()).decode()}"

    def service(self, workers: int) -> Site:
        """The service with so many workers; started when first asked for."""
        what = f"upsert_svc, {workers} worker{'s' if workers > 1 else ''}"
        command = (str(Path(sys.executable).with_name("upsert-svc")), "serve", "--database-url", self.url,
                   "--host", sites.HOST, "--port", "{port}", "--workers", str(workers))  # fmt: skip
        environment = _without_urls(os.environ) | {
            "UPSERT_SVC_BOOTSTRAP_EMAIL": _EMAIL,
            "UPSERT_SVC_BOOTSTRAP_TOKEN": self.token,
        }
        return self._site(Program(what, command, environment, self.scratch, RECORDS))

    def peer(self, name: str) -> Site:
        """A peer; installed if it is not yet, and started when first asked for."""
        environment = _without_urls(os.environ) | {
            "PEER_USER": f"{_EMAIL}/token",
            "PEER_TOKEN": self.token,
            "PGHOST": self.socket_dir,
            "PGPORT": self.socket_port,
            "PGUSER": embedded.OWNER,
            "PGDATABASE": embedded.DATABASE,
        }
        return self._site(peers.program(name, environment))

    def _site(self, program: Program) -> Site:
        if program.what not in self._sites:
            log_file = self.scratch / f"site-{len(self._sites)}.log"
            serving = sites.served(program, self.authorization, log_file)
            self._sites[program.what] = self._running.enter_context(serving)
        return self._sites[program.what]

    def make_object(self, key: str, properties: Mapping[str, Any]) -> None:
        """An object with the fields of a car, and how its records are named."""
        with self.service(1).client() as client:
            definition = {"key": key, "title": "Car", "title_pluralized": "Cars"}
            client.post("/custom_objects", json={"custom_object": definition}).raise_for_status()
            fields = f"/custom_objects/{key}/fields"
            if properties:
                naming = {"custom_object_field": {"properties": dict(properties)}}
                client.patch(f"{fields}/standard::name", json=naming).raise_for_status()
            for one in cars.FIELDS:
                described = {"custom_object_field": {"title": one["key"].title(), **one}}
                client.post(fields, json=described).raise_for_status()


@contextlib.contextmanager
def prepared() -> Iterator[Stage]:
    """Sets the stage, and clears it away. The first service on it migrates the database."""
    with tempfile.TemporaryDirectory(prefix="upsert-svc-bench-") as folder:
        os.chmod(folder, 0o711)  # for the server's own user, where the bench is run by root
        scratch = Path(folder)
        with embedded.start(scratch / "data", durable=True) as server, contextlib.ExitStack() as running:
            stage = _on(server, scratch, running)
            stage.service(1)
            yield stage


def _on(server: embedded.Server, scratch: Path, running: contextlib.ExitStack) -> Stage:
    address = {name: values[0] for name, values in parse_qs(urlsplit(server.url).query).items()}
    postmaster = (server.data_dir / "cluster/data/postmaster.pid").read_text().splitlines()[0]
    return Stage(
        owner=Owner(server.url),
        url=server.url,
        socket_dir=address["host"],
        socket_port=address["port"],
        postgresql=Family.of(int(postmaster)),
        scratch=scratch,
        token=secrets.token_urlsafe(32),
        _running=running,
    )


def _without_urls(environment: Mapping[str, str]) -> dict[str, str]:
    """The service takes its other settings from the environment, but never another database."""
    return {name: value for name, value in environment.items() if "DATABASE_URL" not in name}
