"""What the load makes of its answers: latencies of both loops, and the values that may stand."""

import random
from collections.abc import Sequence
from itertools import islice

import pytest

from bench.journal import Journal
from bench.load import Load, arrivals
from bench.wire import Address, Errand


def noted(*entries: tuple[int, int, float, float, float]) -> Journal:
    """A journal of (key, value, due, sent, ended)."""
    journal = Journal()
    for entry in entries:
        journal.note(*entry)
    return journal


def load(rate: float, kind: str = "poisson") -> Load:
    return Load(Address("here", 1, ""), Errand("update", "car", 10), 1, 0, 1, 1, rate, kind)


def test_a_closed_loop_counts_what_ended_inside_the_measured_time() -> None:
    journal = noted((1, 1, 0, 0.9, 1.1), (1, 2, 0, 1.5, 1.9), (1, 3, 0, 1.9, 2.1))
    assert journal.ended_within(1, 2) == pytest.approx([200, 400])


def test_an_open_loop_counts_from_when_a_request_was_due() -> None:
    # The server stood still from 1.0 to 2.0, and the second request had to wait for the first.
    journal = noted((1, 1, 1.0, 1.0, 2.0), (1, 2, 1.1, 2.0, 2.1))
    assert journal.due_within(1, 2) == pytest.approx([1000, 1000])
    assert journal.lateness(1, 2) == pytest.approx([0, 900])


def test_an_open_loop_counts_what_was_due_in_time_and_answered_later() -> None:
    journal = noted((1, 1, 0.9, 0.9, 1.5), (1, 2, 1.9, 1.9, 9.9))
    assert journal.due_within(1, 2) == pytest.approx([8000])


def test_requests_fall_due_at_the_rate() -> None:
    assert list(islice(arrivals(load(4, "uniform"), 10), 4)) == [10, 10.25, 10.5, 10.75]
    random.seed(1)
    due = list(islice(arrivals(load(1000), 0), 10_001))
    assert due == sorted(due)
    assert due[-1] == pytest.approx(10, rel=0.05)


def test_in_a_closed_loop_nothing_is_ever_due() -> None:
    assert next(arrivals(load(0), 10)) == float("inf")


@pytest.mark.parametrize(
    ("entries", "standing"),
    [
        pytest.param([(1, 7, 0, 0, 1)], {1: [7]}, id="the only one"),
        pytest.param([(1, 7, 0, 0, 1), (1, 8, 0, 2, 3)], {1: [8]}, id="the later one"),
        pytest.param([(1, 7, 0, 0, 2), (1, 8, 0, 1, 3)], {1: [7, 8]}, id="either of two at once"),
        pytest.param(
            [(1, 7, 0, 0, 2), (1, 8, 0, 1, 4), (1, 9, 0, 3, 5)], {1: [8, 9]}, id="the last two of a chain"
        ),
        pytest.param([(0, 0, 0, 0, 1)], {}, id="none: no write"),
    ],
)
def test_what_may_stand_is_what_no_later_upsert_replaced(
    entries: Sequence[tuple[int, int, float, float, float]], standing: dict[int, list[int]]
) -> None:
    assert noted(*entries).standing(10) == standing


def test_a_key_whose_upsert_failed_is_not_judged() -> None:
    journal = noted((1, 7, 0, 0, 1), (2, 8, 0, 0, 1))
    journal.fail(1, "connection lost")
    assert journal.standing(10) == {2: [8]}
    assert journal.errors == {"connection lost": 1}
