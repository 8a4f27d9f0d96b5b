"""The arithmetic on latencies, and the tables that it ends in."""

import pytest

from bench import report
from bench.figures import Cell, Latencies, percentile, slope, summed_up
from bench.targets import BASELINE


def cell(what: str, round_number: int, per_second: float, section: str = "update", **more: int) -> Cell:
    latencies = Latencies(per_second, 1, 2, 3, 4)
    return Cell(section, what, 8, round_number, latencies, {}, dict(more))


def test_a_percentile_is_a_latency_that_was_measured() -> None:
    ordered = [float(number) for number in range(1, 1001)]
    assert [percentile(ordered, per_mille) for per_mille in (500, 990, 999, 1000)] == [500, 990, 999, 1000]
    assert percentile([7.0], 1) == 7


def test_the_rate_counts_rows_and_the_latencies_count_statements() -> None:
    found = summed_up([3.0, 1.0, 2.0], seconds=2, rows=32)
    assert (found.per_second, found.p50_ms, found.max_ms) == (48, 2, 3)


def test_nothing_measured_is_no_rate() -> None:
    assert summed_up([], seconds=2) == Latencies(0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        pytest.param([(0, 60), (10, 61), (20, 62)], 0.1, id="steady growth"),
        pytest.param([(0, 60), (10, 60)], 0, id="none"),
        pytest.param([(0, 60)], 0, id="one look"),
    ],
)
def test_a_slope_is_that_of_the_line_that_fits_best(
    points: list[tuple[float, float]], expected: float
) -> None:
    assert slope(points) == pytest.approx(expected)


def test_a_ratio_is_taken_round_by_round() -> None:
    # The machine was slower in the second round, for both sides.
    cells = [cell(BASELINE, 1, 8000), cell("it", 1, 4000), cell(BASELINE, 2, 2000), cell("it", 2, 1000)]
    assert [line.ratio for line in report.lines(cells)] == [1, 0.5]


def test_a_ratio_is_never_taken_across_sections() -> None:
    lines = report.lines([cell(BASELINE, 1, 8000), cell("it", 1, 4000, section="mixed")])
    assert [line.ratio for line in lines] == [1, None]


def test_errors_add_up_over_the_rounds_and_stand_in_the_table() -> None:
    found = report.lines([cell("it", 1, 1, lost=1), cell("it", 2, 1, lost=2, gaps=1)])
    rows = list(report.table(report.SPEED, found))
    assert len(rows) == 3
    assert rows[2].endswith("|  | 1 gaps, 3 lost |")
