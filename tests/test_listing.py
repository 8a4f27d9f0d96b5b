"""Pages and cursors: what a query may ask for, what a cursor is good for."""

import base64
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upsert_svc.errors import BadRequest
from upsert_svc.listing import ORDERS, Cursors, Listed, Page, chosen, cut, order_named, requested

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


@pytest.mark.parametrize("size", ["0", "-1", "101", "1000000000", "abc", "1.5", "1e2", " 5", "٥", "+5", "²"])
def test_a_page_has_1_to_100_items(size: str) -> None:
    with pytest.raises(BadRequest, match=r"page\[size\] must be a number from 1 to 100"):
        requested({"page[size]": size}, cursors, SCOPE)


@pytest.mark.parametrize(("size", "items"), [("", 100), ("1", 1), ("100", 100), ("007", 7)])
def test_a_page_size_in_its_bounds_is_taken(size: str, items: int) -> None:
    assert requested({"page[size]": size}, cursors, SCOPE) == Page(size=items)


def test_a_page_lies_after_or_before_but_not_both() -> None:
    with pytest.raises(BadRequest, match="cannot be used together"):
        requested({"page[after]": A_CURSOR, "page[before]": A_CURSOR}, cursors, SCOPE)
    assert requested({"page[after]": "", "page[before]": A_CURSOR}, cursors, SCOPE).backwards


def test_the_sorts_are_a_closed_set() -> None:
    assert list(ORDERS) == ["id", "-id", "updated_at", "-updated_at"]
    assert order_named("").name == "id"
    for name in ("name", "ID", "id;drop table records", "-", "--id", "updated_at desc"):
        with pytest.raises(BadRequest, match="sort must be one of id, -id, updated_at, -updated_at"):
            order_named(name)


def test_a_filter_takes_a_hundred_values() -> None:
    assert chosen({}, "filter[ids]") is None
    assert chosen({"filter[ids]": "a,,b"}, "filter[ids]") == ["a", "b"]
    assert len(chosen({"filter[ids]": ",".join("x" * 100)}, "filter[ids]") or []) == 100
    with pytest.raises(BadRequest, match=r"filter\[ids\] takes at most 100 values"):
        chosen({"filter[ids]": ",".join("x" * 101)}, "filter[ids]")


def fetched(rows: Sequence[int], page: Page) -> Listed[int]:
    """The page of a table of numbers, fetched as the statements fetch it."""
    if page.position is None:
        beyond = list(rows)
    elif page.backwards:
        beyond = [row for row in reversed(rows) if row < page.position[0]]
    else:
        beyond = [row for row in rows if row > page.position[0]]
    return cut(beyond[: page.size + 1], page, cursors, SCOPE, lambda row: (row,))


@given(st.integers(0, 25), st.integers(1, 7))
def test_paging_meets_every_row_once_both_ways(count: int, size: int) -> None:
    rows = list(range(count))
    page, seen = fetched(rows, Page(size)), []
    assert page.before_cursor is None
    while True:
        seen += page.items
        if page.after_cursor is None:
            break
        page = fetched(
            rows, requested({"page[size]": str(size), "page[after]": page.after_cursor}, cursors, SCOPE)
        )
    assert seen == rows
    back = list(page.items)
    while page.before_cursor is not None:
        page = fetched(
            rows, requested({"page[size]": str(size), "page[before]": page.before_cursor}, cursors, SCOPE)
        )
        assert page.after_cursor is not None
        back = [*page.items, *back]
    assert back == rows
