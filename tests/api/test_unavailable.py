"""What the log says of requests that were told 503."""

import asyncio

import pytest

from upsert_svc.api import unavailable
from upsert_svc.api.unavailable import Unavailable
from upsert_svc.errors import ServiceUnavailable


def said(log: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in log.records if record.name == unavailable.__name__]


async def test_the_first_of_a_reason_is_told_at_once_and_the_rest_after_a_pause(
    caplog: pytest.LogCaptureFixture,
) -> None:
    counts = Unavailable(quiet_seconds=0.05)
    for _ in range(3):
        counts.add(ServiceUnavailable("100 % full"))
    counts.add(ServiceUnavailable("Other"))
    first = "Requests were told 503 (100 % full): 1 (since the last such line)"
    other = "Requests were told 503 (Other): 1 (since the last such line)"
    assert said(caplog) == [first, other]
    await asyncio.sleep(0.1)
    assert said(caplog)[2:] == [first.replace(": 1", ": 2")]
    await asyncio.sleep(0.1)
    assert len(said(caplog)) == 3


async def test_what_was_counted_last_is_told_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    counts = Unavailable()
    for _ in range(5):
        counts.add(ServiceUnavailable())
    counts.end()
    assert [line.split(": ")[1].split()[0] for line in said(caplog)] == ["1", "4"]


async def test_reasons_are_told_apart_up_to_a_number(caplog: pytest.LogCaptureFixture) -> None:
    counts = Unavailable()
    for number in range(60):
        counts.add(ServiceUnavailable(f"Reason {number}"))
    counts.add(ServiceUnavailable("Reason 0"))
    counts.end()
    lines = said(caplog)
    assert len(lines) == 50 + 2 + 1
    assert lines[-1].startswith("Requests were told 503 (for other reasons): 9 ")
