"""The statement of one page of records: conditions, position, order and limit put into a named statement.

With `filters` the only place that builds SQL text, from closed sets of fragments.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from upsert_svc.errors import BadRequest
from upsert_svc.paging import Window
from upsert_svc.search.filters import Arguments, Condition


@dataclass(frozen=True)
class Order:
    """A sort of the records by a closed set of columns, each with the cast of its value in a cursor."""

    name: str
    columns: tuple[tuple[str, str], ...]
    descending: bool

    @property
    def is_by_id(self) -> bool:
        """Whether records stand in this order in their table's key."""
        return self.columns == _BY_ID


_AROUND_FIELDS = 1000  # bytes of a record beside its fields, about
_BY_ID = (("r.record_id", "text"),)  # settles ties
_BY_UPDATE = (("r.updated_at", "text::timestamptz"), *_BY_ID)
_BY_CREATION = (("r.created_at", "text::timestamptz"), *_BY_ID)
_BY_NAME = (("r.name", "text"), *_BY_ID)


def _both_ways(columns_by_name: Mapping[str, tuple[tuple[str, str], ...]]) -> dict[str, Order]:
    """Each order by its name, and the opposite under the name with a minus."""
    orders: dict[str, Order] = {}
    for name, columns in columns_by_name.items():
        orders[name] = Order(name, columns, descending=False)
        orders[f"-{name}"] = Order(f"-{name}", columns, descending=True)
    return orders


ORDERS = _both_ways({"id": _BY_ID, "updated_at": _BY_UPDATE})
SEARCH_ORDERS = ORDERS | _both_ways({"created_at": _BY_CREATION, "name": _BY_NAME})
BY_ID = ORDERS["id"]
RELEVANCE = Order("relevance", (("r.rank", "integer"), *_BY_ID), descending=False)
WORD_ORDERS = _both_ways({"name": _BY_NAME, "created_at": _BY_CREATION, "updated_at": _BY_UPDATE})


def order_named(name: str, orders: Mapping[str, Order] = ORDERS, default: Order = BY_ID) -> Order:
    """The order that `sort` names, the default when it is empty. Raises BadRequest for any other."""
    try:
        return orders[name] if name else default
    except KeyError:
        raise BadRequest(f"sort must be one of {', '.join(orders)}") from None


def records_query(
    statement: Sequence[object],
    order: Order,
    window: Window,
    *,
    ids: Sequence[str] | None = None,
    external_ids: Sequence[str] | None = None,
    condition: Condition | None = None,
    version: int | None = None,
    byte_limit: int | None = None,
) -> tuple[object, ...]:
    """The statement for one page of records and its arguments, one row more than the window holds.

    It begins as a statement of sql/records.sql or sql/searches.sql with its arguments. With a `version` it
    finds nothing when the object's definition is another one by now. With a `byte_limit` it ends with the
    first row that exceeds it, and answers with each how large the page is by then. Raises BadRequest.
    """
    text, *values = statement
    arguments = Arguments(*values)
    conditions = _naming(arguments, ids, external_ids)
    if condition is not None:
        conditions.append(condition(arguments))
    descending = order.descending != window.is_backwards
    beyond = ""
    if window.position is not None:
        beyond = f"and {_beyond(window.position, order, arguments, descending=descending)}"
    direction = "desc" if descending else "asc"
    parts = {
        "/*conditions*/": _all(conditions),
        "/*position*/": beyond,
        "/*order*/": f"order by {', '.join(f'{column} {direction}' for column, _ in order.columns)}",
        "/*limit*/": f"limit {arguments.add(window.size + 1, 'integer')}",
        "/*object*/": "" if version is None else f"and o.version = {arguments.add(version, 'integer')}",
    }
    select = str(text) if byte_limit is None else _bounded(str(text), arguments.add(byte_limit, "integer"))
    for comment, part in parts.items():
        select = select.replace(comment, part)
    return (select, *arguments.values)


def chosen(
    statement: Sequence[object], ids: Sequence[str] | None, external_ids: Sequence[str] | None
) -> tuple[object, ...]:
    """The statement, of the named records alone, and its arguments."""
    text, *values = statement
    arguments = Arguments(*values)
    conditions = _all(_naming(arguments, ids, external_ids))
    return (str(text).replace("/*conditions*/", conditions), *arguments.values)


def _naming(arguments: Arguments, ids: Sequence[str] | None, external_ids: Sequence[str] | None) -> list[str]:
    """The conditions that hold for the named records."""
    conditions: list[str] = []
    if ids is not None:
        conditions.append(f"r.record_id = any ({arguments.add(list(ids), 'text[]')})")
    if external_ids is not None:
        conditions.append(f"r.external_id = any ({arguments.add(list(external_ids), 'text[]')})")
    return conditions


def _all(conditions: Sequence[str]) -> str:
    return "".join(f"\n          and {condition}" for condition in conditions)


def _bounded(select: str, byte_limit: str) -> str:
    """A statement of records as far as they fit into a page, and one more.

    Not by the fragments of other lists: this one is asked for often, and a record never fills a page.
    """
    row_bytes = f"octet_length(fields) + {_AROUND_FIELDS}"
    return f"""
select *
  from (select *, sum({row_bytes}) over page as page_bytes from ({select}) as r
        window page as (/*order*/ rows unbounded preceding)) as r
 where page_bytes - ({row_bytes}) <= {byte_limit}
 /*order*/"""  # noqa: S608 - of statements alone


def _beyond(position: Sequence[Any], order: Order, arguments: Arguments, *, descending: bool) -> str:
    """The condition that holds for the rows beyond a position."""
    values = ", ".join(
        arguments.add(value, cast) for value, (_, cast) in zip(position, order.columns, strict=True)
    )
    columns = ", ".join(column for column, _ in order.columns)
    return f"({columns}) {'<' if descending else '>'} ({values})"


def position_of(order: Order, row: Mapping[str, Any]) -> tuple[Any, ...]:
    """The values of a row in the columns of its order, for a cursor."""
    values = (row[column.removeprefix("r.")] for column, _ in order.columns)
    return tuple(
        value.astimezone(UTC).isoformat() if isinstance(value, datetime) else value for value in values
    )
