import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.clients.environments import Client
from tests.support.processes import TOKEN, serving

EMAIL = "admin@example.com"


@dataclass(frozen=True)
class Story:
    """What a client reported, step by step."""

    steps: dict[str, dict[str, Any]]

    def saw(self, step: str) -> Any:
        """What the client gave back in a step that went well."""
        assert "raised" not in self.steps[step], self.steps[step]
        return self.steps[step]["saw"]

    def raised(self, step: str) -> tuple[str, str]:
        """The kind and the text of the error that the client raised in a step."""
        reported = self.steps[step]
        assert "raised" in reported, reported
        return reported["raised"], reported["text"]


@pytest.fixture(scope="session")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, str]]:
    """What a story needs to know of the service: `upsert-svc serve` twice on one embedded server.

    The second takes three requests in two seconds.
    """
    data: Path = tmp_path_factory.mktemp("clients") / "data"
    settings = {"BOOTSTRAP_EMAIL": EMAIL, "BOOTSTRAP_TOKEN": TOKEN}
    limits = {"RATE_LIMIT_TOKEN": "3/2 seconds"}
    async with (
        serving("--data-dir", str(data), **settings) as (client, _),
        serving("--data-dir", str(data), **settings, **limits) as (limited, _),
    ):
        yield {
            "SERVICE_URL": str(client.base_url).rstrip("/"),
            "SERVICE_LIMITED_URL": str(limited.base_url).rstrip("/"),
            "SERVICE_EMAIL": EMAIL,
            "SERVICE_TOKEN": TOKEN,
        }


Run = Callable[[str], Awaitable[Story]]


@pytest.fixture(scope="session")
def story(served: dict[str, str]) -> Run:
    """Has a client run its story to the end, once."""
    stories: dict[str, Story] = {}

    async def run(name: str) -> Story:
        if name in stories:
            return stories[name]
        client = Client(name)
        command = await asyncio.to_thread(client.command)
        process = await asyncio.create_subprocess_exec(
            *command,
            env=client.environment() | served,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 180)
        assert process.returncode == 0, f"{out.decode()}{err.decode()}"
        steps = [json.loads(line) for line in out.decode().splitlines()]
        assert len({reported["step"] for reported in steps}) == len(steps), "a step was reported twice"
        stories[name] = Story({reported["step"]: reported for reported in steps})
        return stories[name]

    return run
