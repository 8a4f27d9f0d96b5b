"""The consistency audit: each way to be wrong has a name."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from bench import audit, growth
from bench.database import Standing
from bench.figures import Cell, Latencies
from bench.load import Findings


def findings(outcomes: Mapping[str, int], errors: Mapping[str, int] | None = None) -> Findings:
    return Findings(Latencies(0, 0, 0, 0, 0), dict(outcomes), dict(errors or {}), {}, 0, 0)


@pytest.mark.parametrize(
    ("found", "writes", "records", "wrong"),
    [
        pytest.param(findings({"updated": 9, "created": 1}), 10, 1, {}, id="all as acknowledged"),
        pytest.param(findings({"updated": 9, "422": 1}), 9, 0, {}, id="a refusal writes nothing"),
        pytest.param(findings({"updated": 9}), 8, 0, {"lost": 1}, id="one less"),
        pytest.param(findings({"updated": 9}), 11, 0, {"written more than once": 2}, id="two more"),
        pytest.param(
            findings({"created": 5}),
            5,
            4,
            {"creations that left no record": 1},
            id="an update told as created",
        ),
        pytest.param(
            findings({"updated": 5}), 5, 1, {"records too many": 1}, id="a creation told as updated"
        ),
        pytest.param(
            findings({"updated": 9}, {"connection lost": 1}), 10, 0, {}, id="a failed one may be written"
        ),
        pytest.param(findings({"updated": 9}, {"connection lost": 1}), 9, 0, {}, id="or not"),
    ],
)
def test_the_totals_say_what_was_lost_or_written_too_often(
    found: Findings, writes: int, records: int, wrong: Mapping[str, int]
) -> None:
    before, after = Standing(1000, 500), Standing(1000 + writes, 500 + records)
    counted = audit.of_totals(found, before, after)
    assert {kind: count for kind, count in counted.items() if count} == wrong


@pytest.mark.parametrize(
    ("writes", "wrong"),
    [(1007, {}), (1006, {"lost": 1}), (1009, {"written more than once": 2})],
)
def test_growth_audits_its_totals_at_the_end(writes: int, wrong: Mapping[str, int]) -> None:
    cells = [Cell("size", "it", 1, number, Latencies(0, 0, 0, 0, 0), {}, {}, number + 2) for number in (1, 2)]
    stage: Any = SimpleNamespace(owner=SimpleNamespace(standing=lambda table, only: Standing(writes, 1000)))
    assert growth._wrong(stage, "records", None, cells) == wrong
