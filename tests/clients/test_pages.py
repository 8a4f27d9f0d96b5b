"""The programs of docs/clients.md, each run as it stands beside the demo."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.clients.environments import Client
from tests.support.processes import serving
from tests.test_docs import ROOT

pytestmark = pytest.mark.clients
PROGRAMS = {
    re.sub(r"\W", "_", name): program
    for name, program in re.findall(
        r"^## (\S+) [\d.]+\n\n```\w+\n(.*?)^```",
        (ROOT / "docs/clients.md").read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
}
SAID = {
    "node_zendesk": "[ [ 'Ada', 'Grace' ] ]",
    "zenpy": "completed ['Ada', 'Grace']",
    "mercury_orm": "[('Ford', 2027), ('Opel', None)]",
    "dlt": "['Ada']\n['Ada']",
}


@pytest.fixture
async def demo(tmp_path: Path) -> AsyncIterator[str]:
    """The address of a demo whose data are in `data` of the test's folder."""
    async with serving("--demo", "--data-dir", str(tmp_path / "data")) as (client, _):
        yield client.base_url.netloc.decode()


def test_every_client_that_is_driven_has_a_program() -> None:
    folders = {path.parent.name for path in (ROOT / "tests/clients").glob("*/story.*")}
    assert PROGRAMS.keys() == SAID.keys() == folders


@pytest.mark.parametrize("name", SAID)
async def test_a_program_of_the_page_does_what_it_says(name: str, demo: str, tmp_path: Path) -> None:
    client = Client(name)
    interpreter, _ = await asyncio.to_thread(client.command)
    program = tmp_path / ("program.cjs" if "require(" in PROGRAMS[name] else "program.py")
    program.write_text(PROGRAMS[name].replace("127.0.0.1:8080", demo), encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        interpreter, str(program), cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=client.environment() | {"RUNTIME__DLTHUB_TELEMETRY": "false", "NO_PROXY": "*"},
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0, err.decode()
    assert out.decode().strip() == SAID[name]
