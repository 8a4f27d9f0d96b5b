"""Pages and cursors: what a cursor is good for, and which rows are on a page."""

import base64
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upsert_svc.errors import BadRequest
from upsert_svc.paging import Cursors, Page, PageRequest, Window

SCOPE = "records 1 1001 id"
cursors = Cursors(b"k" * 32)
A_CURSOR = cursors.sign(SCOPE, ("01HZXW3V5K8Y7QF2N4R6T8B0CD",))


def test_a_cursor_gives_back_its_position() -> None:
    assert cursors.position(SCOPE, cursors.sign(SCOPE, ("2026-01-01", 7))) == ("2026-01-01", 7)


def test_a_cursor_is_signed_alike_by_every_worker_that_has_the_key() -> None:
    assert Cursors(b"k" * 32).sign(SCOPE, ["a"]) == cursors.sign(SCOPE, ["a"])


@pytest.mark.parametrize(
    ("scope", "cursor"),
    [
        pytest.param("records 2 1001 id", A_CURSOR, id="another account"),
        pytest.param("records 1 1002 id", A_CURSOR, id="another object"),
        pytest.param("records 1 1001 -id", A_CURSOR, id="another order"),
        pytest.param(SCOPE, Cursors(b"x" * 32).sign(SCOPE, ("a",)), id="another key"),
        pytest.param(SCOPE, A_CURSOR[:-1], id="one character less"),
        pytest.param(SCOPE, A_CURSOR[:10], id="truncated"),
        pytest.param(SCOPE, A_CURSOR + "A", id="one character more"),
        pytest.param(SCOPE, A_CURSOR + "!", id="a character of no alphabet"),
        pytest.param(SCOPE, A_CURSOR + "====", id="padding"),
        pytest.param(SCOPE, A_CURSOR[:20] + "\n" + A_CURSOR[20:], id="a line break"),
        pytest.param(SCOPE, "é" * 40, id="no ASCII"),
        pytest.param(SCOPE, "A" * 100_000, id="huge"),
        pytest.param(SCOPE, "a", id="no base64"),
        pytest.param(
            SCOPE, base64.urlsafe_b64encode(b"\0" * 16 + b'["a"]').decode().rstrip("="), id="unsigned"
        ),
    ],
)
def test_a_cursor_of_anything_else_is_refused(scope: str, cursor: str) -> None:
    with pytest.raises(BadRequest, match="not a cursor of this listing"):
        cursors.position(scope, cursor)


@given(st.text(max_size=80))
def test_no_text_is_a_cursor_by_chance(text: str) -> None:
    with pytest.raises(BadRequest):
        cursors.position(SCOPE, text)


def fetched(rows: Sequence[int], request: PageRequest) -> Page[int]:
    """The page of a table of numbers, fetched as the statements fetch it."""
    window = cursors.window(SCOPE, request)
    if window.position is None:
        beyond = list(rows)
    elif window.is_backwards:
        beyond = [row for row in reversed(rows) if row < window.position[0]]
    else:
        beyond = [row for row in rows if row > window.position[0]]
    return cursors.page(SCOPE, window, beyond[: window.size + 1], lambda row: (row,))


def test_a_request_without_a_cursor_begins_at_the_first_row() -> None:
    assert cursors.window(SCOPE, PageRequest(7)) == Window(7)


@given(st.integers(0, 25), st.integers(1, 7))
def test_paging_meets_every_row_once_both_ways(count: int, size: int) -> None:
    rows = list(range(count))
    seen: list[int] = []
    page = fetched(rows, PageRequest(size))
    assert page.before_cursor is None
    while True:
        seen += page.items
        if page.after_cursor is None:
            break
        page = fetched(rows, PageRequest(size, page.after_cursor))
    assert seen == rows
    back = list(page.items)
    while page.before_cursor is not None:
        page = fetched(rows, PageRequest(size, page.before_cursor, is_backwards=True))
        assert page.after_cursor is not None
        back = [*page.items, *back]
    assert back == rows
