"""Takes a safeguard out of the running service, so that a test can show what the safeguard is there for."""

import inspect
import textwrap
from typing import Any

import pytest

from tests.support.harness import Api


def mutate(monkeypatch: pytest.MonkeyPatch, owner: Any, function: str, safeguard: str, instead: str) -> None:
    """Replaces a piece of a function or method until the test is over."""
    original = getattr(owner, function)
    text = textwrap.dedent(inspect.getsource(original))
    assert safeguard in text, f"{function} has no {safeguard!r}"
    defined: dict[str, Any] = {}
    exec(text.replace(safeguard, instead), original.__globals__, defined)
    monkeypatch.setattr(owner, function, defined[function])


async def mutate_sql(api: Api, function: str, safeguard: str, instead: str) -> None:
    """Replaces a piece of a writing function, on a database of the test's own."""
    async with api.running.sql() as connection:
        text = await connection.fetchval(
            "select pg_get_functiondef(oid) from pg_proc where proname = $1", function
        )
        assert safeguard in text, f"{function} has no {safeguard!r}"
        await connection.execute(text.replace(safeguard, instead))
