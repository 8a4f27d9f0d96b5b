"""Long runs of combining marks, wherever they stand and however they are written."""

import unicodedata

import pytest

from upsert_svc.combining_marks import RUN_LIMIT, has_long_run


@pytest.mark.parametrize("before", [0, 1, 99, 100, 101, 250])
@pytest.mark.parametrize(
    "mark",
    ["\u0301", "\u0323", "\u0f73", "\u0344", "\U0001e94a", "\U00010d69"],
    ids=["acute", "dot below", "made of marks", "two in one", "Adlam", "of Unicode 16"],
)
def test_a_run_over_the_limit_is_seen_wherever_it_begins(before: int, mark: str) -> None:
    assert has_long_run("a" * before + mark * (RUN_LIMIT + 1) + "b" * 50)
    assert not has_long_run("a" * before + mark * RUN_LIMIT + "b" * 250)


@pytest.mark.parametrize(
    "text", ["ที่" * 1000, "שָׁ" * 1000, "Zoë" * 1000, "한글" * 1000, "👩‍👩‍👧" * 1000, "x" * 1000]
)
def test_writing_of_people_has_no_such_run(text: str) -> None:
    assert not has_long_run(text)
    assert not has_long_run(unicodedata.normalize("NFD", text))
