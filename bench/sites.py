"""The HTTP servers under load, each a process with its workers: the service and its peers."""

import contextlib
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from bench.usage import Family, polled
from bench.wire import Address

HOST = "127.0.0.1"
_START_SECONDS = 60


@dataclass(frozen=True)
class Site:
    """A server that answers, and the table where it keeps its records."""

    what: str
    address: Address
    family: Family
    table: str

    def client(self) -> httpx.Client:
        """A client of its API."""
        return httpx.Client(
            base_url=f"http://{self.address.host}:{self.address.port}/api/v2",
            headers={"Authorization": self.address.authorization},
            timeout=60,
            trust_env=False,
        )


@dataclass(frozen=True)
class Program:
    """How a server is started: `{port}` in its command is the port to listen on."""

    what: str
    command: Sequence[str]
    environment: Mapping[str, str]
    folder: Path
    table: str


@contextlib.contextmanager
def served(program: Program, authorization: str, log_file: Path) -> Iterator[Site]:
    """Starts a server, waits until it is ready, and stops it at the end."""
    address = Address(HOST, _free_port(), authorization)
    with (
        log_file.open("w+b") as log,
        subprocess.Popen(
            [part.replace("{port}", str(address.port)) for part in program.command],
            env=dict(program.environment),
            cwd=program.folder,
            stdout=log,
            stderr=log,
        ) as process,
    ):
        try:
            _wait_until_ready(program.what, address, process, log_file)
            yield Site(program.what, address, Family.of(process.pid), program.table)
        finally:
            process.terminate()
            process.wait(_START_SECONDS)


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as listening:
        port: int = listening.getsockname()[1]
    return port


def _wait_until_ready(what: str, address: Address, process: subprocess.Popen[bytes], log_file: Path) -> None:
    def ready() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"{what} ended: {log_file.read_text()}")
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"http://{address.host}:{address.port}/readyz", trust_env=False).is_success
        return False

    try:
        polled(ready, _START_SECONDS)
    except TimeoutError:
        raise TimeoutError(f"{what} is not ready: {log_file.read_text()}") from None
