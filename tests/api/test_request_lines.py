"""The lines of a body, however it is cut into pieces."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from upsert_svc.api.request_lines import BrokenOff, lines
from upsert_svc.errors import PayloadTooLarge, RequestTimeout, ServiceError

LIMIT = 20


class Body:
    """A body that comes in pieces, and ends, breaks off or falls silent."""

    def __init__(self, pieces: Sequence[bytes], end: str = "end") -> None:
        self._pieces = list(pieces)
        self._end = end

    async def receive(self) -> Message:
        if self._pieces:
            piece = self._pieces.pop(0)
            is_last = not self._pieces and self._end == "end"
            return {"type": "http.request", "body": piece, "more_body": not is_last}
        if self._end == "silence":
            await asyncio.sleep(3600)
        return {"type": "http.disconnect"}


async def read(body: Body, found: list[bytes | ServiceError] | None = None) -> list[bytes | ServiceError]:
    found = [] if found is None else found
    async for some in lines(body.receive, limit_bytes=LIMIT, idle_seconds=0.05):
        found += some
    return found


def told(found: Sequence[bytes | ServiceError]) -> list[bytes | str]:
    """Refused lines by the name of their error."""
    return [type(line).__name__ if isinstance(line, ServiceError) else line for line in found]


@given(st.lists(st.binary(max_size=30), max_size=8), st.lists(st.integers(0, 240), max_size=6), st.booleans())
def test_however_a_body_is_cut_its_lines_are_the_same(
    sent: list[bytes], cuts: list[int], has_last_end: bool
) -> None:
    whole = b"\n".join(sent) + b"\n" * has_last_end
    places = sorted({min(cut, len(whole)) for cut in cuts})
    pieces = [whole[a:b] for a, b in zip([0, *places], [*places, len(whole)], strict=True)]
    first, *others = whole.removeprefix(b"\xef\xbb\xbf").split(b"\n") if len(whole) else [b""]
    is_marked = whole.startswith(b"\xef\xbb\xbf")
    expected = [
        "PayloadTooLarge" if len(line) + 3 * (is_marked and number == 0) > LIMIT else line
        for number, line in enumerate([first, *others])
        if line and not line.isspace()
    ]
    assert told(asyncio.run(read(Body(pieces)))) == expected


async def test_a_line_that_is_too_long_is_refused_and_the_next_ones_are_read() -> None:
    pieces = [b"a" * 15, b"a" * 15, b"a" * 15 + b"\nnext\n", b"b" * 21 + b"\nlast"]
    found = await read(Body(pieces))
    assert told(found) == ["PayloadTooLarge", b"next", "PayloadTooLarge", b"last"]
    assert str(found[0]) == str(PayloadTooLarge(LIMIT, "The line"))


async def test_the_beginning_of_a_line_is_no_line_when_the_rest_does_not_come() -> None:
    found: list[bytes | ServiceError] = []
    with pytest.raises(BrokenOff):
        await read(Body([b"whole\n", b"half"], "break"), found)
    assert found == [b"whole"]


async def test_whoever_falls_silent_is_waited_for_no_longer_than_may_be() -> None:
    found: list[bytes | ServiceError] = []
    with pytest.raises(RequestTimeout):
        await read(Body([b"whole\n", b"half"], "silence"), found)
    assert found == [b"whole"]
