"""The watchdog over the event loop."""

import asyncio
import contextlib
import logging
import random
import re
import sys
import time
from pathlib import Path

import pytest

from tests.support.harness import Running
from upsert_svc.definitions.patterns import Pattern
from upsert_svc.watchdog import INTERVAL_SECONDS, Watchdog, places_of

# on a loop of their own: there is another watchdog over that of the other tests
on_a_loop_of_its_own = pytest.mark.asyncio(loop_scope="function")


@pytest.fixture(autouse=True)
def _heard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "upsert_svc.watchdog")


def hold(seconds: float) -> None:
    time.sleep(seconds)


async def watched(watchdog: Watchdog, *holds: float) -> None:
    """Has the loop held so long, one hold after another, each seen by the watchdog."""
    task = asyncio.create_task(watchdog.run())
    await asyncio.sleep(2 * INTERVAL_SECONDS)
    for seconds in holds:
        hold(seconds)
        await asyncio.sleep(3 * INTERVAL_SECONDS)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@on_a_loop_of_its_own
async def test_a_hold_is_told_with_its_time_and_the_longest_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    watchdog = Watchdog(limit_seconds=0.3)
    await watched(watchdog, 0.5)
    assert 0.4 < watchdog.longest_hold_seconds < 5
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.name == "upsert_svc.watchdog"
    assert record.getMessage().startswith("the event loop was held for ")


@on_a_loop_of_its_own
async def test_of_many_holds_within_a_while_there_is_one_line_and_the_longest_is_told_next(
    caplog: pytest.LogCaptureFixture,
) -> None:
    await watched(Watchdog(limit_seconds=0.1, quiet_seconds=60), 0.2, 0.2, 0.2)
    assert len(caplog.records) == 1
    caplog.clear()
    await watched(Watchdog(limit_seconds=0.1, quiet_seconds=1.0), 0.2, 0.7, 0.2, 0.2, 0.2)
    assert len(caplog.records) == 2
    assert int(caplog.records[1].getMessage().split()[6]) > 600


@on_a_loop_of_its_own
async def test_a_loop_that_turns_is_not_told_of(caplog: pytest.LogCaptureFixture) -> None:
    watchdog = Watchdog(limit_seconds=5)
    await watched(watchdog)
    assert watchdog.longest_hold_seconds < 5
    assert not caplog.records


@on_a_loop_of_its_own
async def test_what_held_the_loop_is_told_by_file_and_line(caplog: pytest.LogCaptureFixture) -> None:
    task = asyncio.create_task(Watchdog(limit_seconds=0.1).run())
    await asyncio.sleep(2 * INTERVAL_SECONDS)
    text = "".join(random.Random(1).choices("ab", k=64_000)).encode()
    Pattern(rb"(?:[ab]{0,300}a[ab]{300}){0,3}c").is_found_in(text)  # as no record could have it matched
    await asyncio.sleep(2 * INTERVAL_SECONDS)
    task.cancel()
    (record,) = caplog.records
    assert re.search(
        r" ms, computing \d+, in definitions/patterns\.py:\d+ \(is_found_in\)$", record.getMessage()
    )


def test_places_are_of_the_package_alone() -> None:
    frame = sys._getframe()
    said = places_of(frame, Path(__file__).parent)
    assert re.match(r"test_watchdog\.py:\d+ \(test_places_are_of_the_package_alone\)", said)
    assert places_of(frame) == ""
    assert places_of(None) == ""


async def test_the_service_watches_its_loop(service: Running) -> None:
    await asyncio.sleep(3 * INTERVAL_SECONDS)
    assert service.watchdog.longest_hold_seconds > 0
