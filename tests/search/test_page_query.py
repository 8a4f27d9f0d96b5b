"""The orders of a page of records."""

import pytest

from upsert_svc.errors import BadRequest
from upsert_svc.search.page_query import ORDERS, order_named


def test_the_sorts_are_a_closed_set() -> None:
    assert list(ORDERS) == ["id", "-id", "updated_at", "-updated_at"]
    assert order_named("").name == "id"
    for name in ("name", "ID", "id;drop table records", "-", "--id", "updated_at desc"):
        with pytest.raises(BadRequest, match="sort must be one of id, -id, updated_at, -updated_at"):
            order_named(name)
