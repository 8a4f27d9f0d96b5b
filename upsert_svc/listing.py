"""Pages of a listing and their cursors.

A cursor is signed, and bound to the account, object and order that it came from.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

import orjson

from upsert_svc.errors import BadRequest, TooManyValues
from upsert_svc.filters import Arguments, Condition

Item = TypeVar("Item")
PAGE_SIZE_LIMIT = 100
_SIGNATURE_BYTES = 16
_CURSOR_LIMIT = 5000  # a name of 255 characters may be of as many more before it is normalized


@dataclass(frozen=True)
class Page:
    """Which part of a listing is asked for. `position` is the last row seen: its sort values."""

    size: int = PAGE_SIZE_LIMIT
    position: tuple[Any, ...] | None = None
    backwards: bool = False


@dataclass(frozen=True)
class Listed(Generic[Item]):
    """One page, and the cursors to its neighbours; None where there is none."""

    items: Sequence[Item]
    after_cursor: str | None
    before_cursor: str | None


class Cursors:
    """Signs positions into cursors and reads them back."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def sign(self, scope: str, position: Sequence[Any]) -> str:
        """The cursor of a position; `scope` names the account, object and order."""
        payload = orjson.dumps(list(position))
        return base64.urlsafe_b64encode(self._signature(scope, payload) + payload).decode().rstrip("=")

    def position(
        self, scope: str, cursor: str, parameter: str = "page[after] or page[before]"
    ) -> tuple[Any, ...]:
        """The position of a cursor. Raises BadRequest unless it was signed for this scope."""
        try:
            padded = cursor[:_CURSOR_LIMIT].encode("ascii") + b"=" * (-len(cursor) % 4)
            signed = base64.b64decode(padded, altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise _bad_cursor(parameter) from None
        signature, payload = signed[:_SIGNATURE_BYTES], signed[_SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, self._signature(scope, payload)):
            raise _bad_cursor(parameter)
        return tuple(orjson.loads(payload))

    def _signature(self, scope: str, payload: bytes) -> bytes:
        message = scope.encode() + b"\0" + payload
        return hmac.digest(self._secret, message, hashlib.sha256)[:_SIGNATURE_BYTES]


def _bad_cursor(parameter: str) -> BadRequest:
    return BadRequest(f"{parameter} is not a cursor of this listing")


def requested(query: Mapping[str, str], cursors: Cursors, scope: str) -> Page:
    """The page that a query asks for. Raises BadRequest for a bad size or cursor, or for two cursors."""
    after, before = query.get("page[after]", ""), query.get("page[before]", "")
    if after and before:
        raise BadRequest("page[after] and page[before] cannot be used together")
    cursor = after or before
    return Page(
        size=_size(query.get("page[size]", "")),
        position=cursors.position(scope, cursor) if cursor else None,
        backwards=bool(before),
    )


def _size(text: str) -> int:
    if not text:
        return PAGE_SIZE_LIMIT
    size = int(text) if text.isdecimal() and text.isascii() and len(text) <= 3 else 0
    if not 1 <= size <= PAGE_SIZE_LIMIT:
        raise BadRequest(f"page[size] must be a number from 1 to {PAGE_SIZE_LIMIT}")
    return size


def cut(
    rows: Sequence[Item],
    page: Page,
    cursors: Cursors,
    scope: str,
    position_of: Callable[[Item], Sequence[Any]],
) -> Listed[Item]:
    """A page of rows fetched in the page's direction, one more than its size where there are more."""
    has_more = len(rows) > page.size
    items = list(rows[: page.size])
    if page.backwards:
        items.reverse()
    has_next = bool(items) and (page.backwards or has_more)
    has_previous = bool(items) and (has_more if page.backwards else page.position is not None)
    return Listed(
        items,
        after_cursor=cursors.sign(scope, position_of(items[-1])) if has_next else None,
        before_cursor=cursors.sign(scope, position_of(items[0])) if has_previous else None,
    )


def chosen(query: Mapping[str, str], name: str, limit: int = PAGE_SIZE_LIMIT) -> list[str] | None:
    """The comma-separated values of a filter; None when it is not given. Raises TooManyValues."""
    if name not in query:
        return None
    values = [value for value in query[name].split(",") if value]
    if len(values) > limit:
        raise TooManyValues(name, limit)
    return values


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
    page: Page,
    *,
    ids: Sequence[str] | None = None,
    external_ids: Sequence[str] | None = None,
    condition: Condition | None = None,
    version: int | None = None,
) -> tuple[object, ...]:
    """The statement for one page of records and its arguments, one row more than the page holds.

    It begins as a statement of sql/records.sql or sql/searches.sql with its arguments. With a `version` it
    finds nothing when the object's definition is another one by now. Raises BadRequest.
    """
    text, *values = statement
    arguments = Arguments(*values)
    conditions: list[str] = []
    if ids is not None:
        conditions.append(f"r.record_id = any ({arguments.add(list(ids), 'text[]')})")
    if external_ids is not None:
        conditions.append(f"r.external_id = any ({arguments.add(list(external_ids), 'text[]')})")
    if condition is not None:
        conditions.append(condition(arguments))
    descending = order.descending != page.backwards
    beyond = ""
    if page.position is not None:
        beyond = f"and {_beyond(page.position, order, arguments, descending=descending)}"
    direction = "desc" if descending else "asc"
    fragments = {
        "/*conditions*/": "".join(f"\n          and {condition}" for condition in conditions),
        "/*position*/": beyond,
        "/*order*/": f"order by {', '.join(f'{column} {direction}' for column, _ in order.columns)}",
        "/*limit*/": f"limit {arguments.add(page.size + 1, 'integer')}",
        "/*object*/": "" if version is None else f"and o.version = {arguments.add(version, 'integer')}",
    }
    select = str(text)
    for comment, fragment in fragments.items():
        select = select.replace(comment, fragment)
    return (select, *arguments.values)


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
