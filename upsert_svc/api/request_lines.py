"""The lines of a body that is read as it comes, each within its bound; one that is too long is refused."""

import asyncio
from codecs import BOM_UTF8
from collections.abc import AsyncIterator

from starlette.types import Receive

from upsert_svc.errors import PayloadTooLarge, RequestTimeout, ServiceError

Line = bytes | ServiceError


class BrokenOff(Exception):
    """The caller went away before the end."""


async def lines(receive: Receive, *, limit_bytes: int, idle_seconds: float) -> AsyncIterator[list[Line]]:
    """The lines, as many at a time as have come; those of white space alone are left out.

    In the place of a line that is longer than the limit there is PayloadTooLarge. Raises RequestTimeout when
    nothing comes for so long, and BrokenOff.
    """
    splitter = _Splitter(limit_bytes)
    while True:
        piece, has_more = await _piece(receive, idle_seconds)
        found = splitter.lines(piece)
        if not has_more:
            found += splitter.rest()
        if found:
            yield found
        if not has_more:
            return


async def _piece(receive: Receive, idle_seconds: float) -> tuple[bytes, bool]:
    """What comes next of the body, and whether there may be more."""
    try:
        async with asyncio.timeout(idle_seconds):
            message = await receive()
    except TimeoutError:
        raise RequestTimeout(idle_seconds) from None
    if message["type"] != "http.request":
        raise BrokenOff
    return message.get("body", b""), message.get("more_body", False)


class _Splitter:
    """Makes lines of pieces. Of a line that is too long nothing is kept."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._begun = bytearray()
        self._is_too_long = False
        self._is_first = True

    def lines(self, piece: bytes) -> list[Line]:
        """The lines that end in a piece."""
        first, *ended = piece.split(b"\n")
        self._add(first)
        if not ended:
            return []
        *whole, last = ended
        found = [*self.rest(), *(self._line(line) for line in whole if not line.isspace() and line)]
        self._add(last)
        return found

    def rest(self) -> list[Line]:
        """The line that has begun, if there is one: it has come to its end."""
        begun, is_too_long = bytes(self._begun), self._is_too_long
        self._begun.clear()
        self._is_too_long = False
        if is_too_long:
            return [PayloadTooLarge(self._limit_bytes, "The line")]
        if self._is_first:
            begun = begun.removeprefix(BOM_UTF8)
        self._is_first = False
        return [self._line(begun)] if begun and not begun.isspace() else []

    def _line(self, line: bytes) -> Line:
        return line if len(line) <= self._limit_bytes else PayloadTooLarge(self._limit_bytes, "The line")

    def _add(self, part: bytes) -> None:
        if self._is_too_long or len(self._begun) + len(part) > self._limit_bytes:
            self._is_too_long = True
            self._begun.clear()
        else:
            self._begun += part
