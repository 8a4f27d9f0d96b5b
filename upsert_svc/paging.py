"""Pages of a listing and their cursors.

A cursor is signed, and bound to the account, object and order that it came from.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import orjson

from upsert_svc.errors import BadRequest

Item = TypeVar("Item")
PAGE_SIZE_LIMIT = 100
PAGE_BYTES = 2_000_000  # about: a page ends before the item that would exceed them, unless it is the first
_SIGNATURE_BYTES = 16
_CURSOR_LIMIT = 5000  # a name of 255 characters may be of as many more before it is normalized


@dataclass(frozen=True)
class PageRequest:
    """Which page a caller asks for: of what size, and behind or before which cursor, as it was sent."""

    size: int = PAGE_SIZE_LIMIT
    cursor: str | None = None
    is_backwards: bool = False


@dataclass(frozen=True)
class Window:
    """The rows of a listing that a page shows. `position` is the last row seen: its sort values."""

    size: int = PAGE_SIZE_LIMIT
    position: tuple[Any, ...] | None = None
    is_backwards: bool = False


@dataclass(frozen=True)
class Page(Generic[Item]):
    """One page, and the cursors to its neighbours; None where there is none."""

    items: Sequence[Item]
    after_cursor: str | None
    before_cursor: str | None


class Cursors:
    """Signs positions into cursors and reads them back.

    A `scope` names the kind of list, the account, the object and the order.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def window(self, scope: str, request: PageRequest) -> Window:
        """The rows that a page is of. Raises BadRequest unless its cursor was signed for this scope."""
        position = self.position(scope, request.cursor) if request.cursor else None
        return Window(request.size, position, request.is_backwards)

    def page(
        self,
        scope: str,
        window: Window,
        rows: Sequence[Item],
        position_of: Callable[[Item], Sequence[Any]],
        bytes_of: Callable[[Item], int] = lambda _: 0,
    ) -> Page[Item]:
        """The page of rows fetched in the window's direction, one more than it holds where there are more.

        `bytes_of` answers how large the page is with that row and those before it.
        """
        count = count_fitting(rows, window.size, bytes_of)
        has_more = len(rows) > count
        items = list(rows[:count])
        if window.is_backwards:
            items.reverse()
        has_next = bool(items) and (window.is_backwards or has_more)
        has_previous = bool(items) and (has_more if window.is_backwards else window.position is not None)
        return Page(
            items,
            after_cursor=self.sign(scope, position_of(items[-1])) if has_next else None,
            before_cursor=self.sign(scope, position_of(items[0])) if has_previous else None,
        )

    def sign(self, scope: str, position: Sequence[Any]) -> str:
        """The cursor of a position."""
        payload = orjson.dumps(list(position))
        return base64.urlsafe_b64encode(self._signature(scope, payload) + payload).decode().rstrip("=")

    def position(
        self, scope: str, cursor: str, parameter: str = "page[after] or page[before]", advice: str = ""
    ) -> tuple[Any, ...]:
        """The position of a cursor. Raises BadRequest, with advice, unless it was signed for this scope."""
        try:
            padded = cursor[:_CURSOR_LIMIT].encode("ascii") + b"=" * (-len(cursor) % 4)
            signed = base64.b64decode(padded, altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise _bad_cursor(parameter, advice) from None
        signature, payload = signed[:_SIGNATURE_BYTES], signed[_SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, self._signature(scope, payload)):
            raise _bad_cursor(parameter, advice)
        return tuple(orjson.loads(payload))

    def _signature(self, scope: str, payload: bytes) -> bytes:
        message = scope.encode() + b"\0" + payload
        return hmac.digest(self._secret, message, hashlib.sha256)[:_SIGNATURE_BYTES]


def bytes_of(row: Mapping[str, Any]) -> int:
    """How large a page is with this row and those before it, in bytes, as its statement has measured."""
    size: int = row["page_bytes"]
    return size


def count_fitting(rows: Sequence[Item], size: int, bytes_of: Callable[[Item], int]) -> int:
    """How many of the rows a page of a size holds: as many as fit into PAGE_BYTES, and one at least."""
    count = min(len(rows), size)
    while count > 1 and bytes_of(rows[count - 1]) > PAGE_BYTES:
        count -= 1
    return count


def _bad_cursor(parameter: str, advice: str) -> BadRequest:
    return BadRequest(f"{parameter} is not a cursor of this listing{advice}")
