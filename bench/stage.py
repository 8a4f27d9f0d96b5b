"""The stage: an embedded PostgreSQL with fsync on, the service as a process, an object with 8 fields."""

import base64
import contextlib
import os
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx

from bench import cars
from bench.database import Owner
from bench.plan import Plan
from bench.usage import Family, polled
from upsert_svc import embedded

HOST = "127.0.0.1"
_EMAIL = "bench@example.com"
_START_SECONDS = 60


@dataclass(frozen=True)
class Stage:
    """All that the contestants need."""

    owner: Owner
    socket_dir: str
    socket_port: str
    port: int
    authorization: str
    service: Family
    postgresql: Family
    scratch: Path

    def client(self) -> httpx.Client:
        """A client of the service's API."""
        return httpx.Client(
            base_url=f"http://{HOST}:{self.port}/api/v2",
            headers={"Authorization": self.authorization},
            timeout=60,
            trust_env=False,
        )


@contextlib.contextmanager
def prepared(plan: Plan) -> Iterator[Stage]:
    """Sets the stage, preloaded, and clears it away."""
    with tempfile.TemporaryDirectory(prefix="upsert-svc-bench-") as folder:
        os.chmod(folder, 0o711)  # for the server's own user, where the bench is run by root
        scratch = Path(folder)
        with (
            embedded.start(scratch / "data", durable=True) as server,
            _serving(plan, server, scratch) as stage,
        ):
            with stage.client() as client:
                _make_object(client)
            stage.owner.preload(plan.keys)
            yield stage


@contextlib.contextmanager
def _serving(plan: Plan, server: embedded.Server, scratch: Path) -> Iterator[Stage]:
    token = secrets.token_urlsafe(32)
    port = _free_port()
    program = str(Path(sys.executable).with_name("upsert-svc"))
    environment = {name: value for name, value in os.environ.items() if "DATABASE_URL" not in name} | {
        "UPSERT_SVC_BOOTSTRAP_EMAIL": _EMAIL,
        "UPSERT_SVC_BOOTSTRAP_TOKEN": token,
    }
    command = [program, "serve", "--database-url", server.url, "--host", HOST, "--port", str(port)]
    with (
        (scratch / "service.log").open("w+b") as log,
        subprocess.Popen(
            [*command, "--workers", str(plan.workers)], env=environment, stdout=log, stderr=log, cwd=scratch
        ) as service,
    ):
        try:
            stage = _stage(server, port, token, service.pid, scratch)
            _wait_until_ready(stage, service, scratch)
            yield stage
        finally:
            service.terminate()
            service.wait(_START_SECONDS)


def _stage(server: embedded.Server, port: int, token: str, service_pid: int, scratch: Path) -> Stage:
    address = {name: values[0] for name, values in parse_qs(urlsplit(server.url).query).items()}
    postmaster = (server.data_dir / "cluster/data/postmaster.pid").read_text().splitlines()[0]
    credential = base64.b64encode(f"{_EMAIL}/token:{token}".encode()).decode()
    return Stage(
        owner=Owner(server.url),
        socket_dir=address["host"],
        socket_port=address["port"],
        port=port,
        authorization=f"Basic {credential}",
        service=Family.of(service_pid),
        postgresql=Family.of(int(postmaster)),
        scratch=scratch,
    )


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as listening:
        port: int = listening.getsockname()[1]
    return port


def _wait_until_ready(stage: Stage, service: subprocess.Popen[bytes], scratch: Path) -> None:
    def ready() -> bool:
        if service.poll() is not None:
            raise RuntimeError(f"The service ended: {(scratch / 'service.log').read_text()}")
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"http://{HOST}:{stage.port}/readyz", trust_env=False).is_success
        return False

    polled(ready, _START_SECONDS, "the service is not ready")


def _make_object(client: httpx.Client) -> None:
    key = cars.OBJECT_KEY
    definition = {"key": key, "title": "Car", "title_pluralized": "Cars"}
    client.post("/custom_objects", json={"custom_object": definition}).raise_for_status()
    for field in cars.FIELDS:
        described = {"custom_object_field": {"title": field["key"].title(), **field}}
        client.post(f"/custom_objects/{key}/fields", json=described).raise_for_status()
