"""The body of a bulk job, which may be of megabytes, taken apart into the texts of its items piece by piece.

Nothing holds all of its values. Refuses with BadRequest what is not strict JSON or not the body of a job, and
with TooManyValues too many items. An item that is larger than a body of its own might be is left out, to fail
when it is carried out.
"""

import re
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from upsert_svc import json_body
from upsert_svc.errors import BadRequest, Details, RecordInvalid, TooManyValues
from upsert_svc.jobs.job_items import ACTIONS, TOO_LARGE
from upsert_svc.json_body import VALUE_LIMIT
from upsert_svc.payloads import unwrap

ITEM_LIMIT = 100
_SLICE_BYTES = 16 * 1024
_PIECE_SECONDS = 0.005  # of work between two pauses, but for the last step of it
_LEVELS = 3  # around an item: the body, the job, the list
_BLANKS = b" \t\n\r"
_SQUARED = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(code for code in range(256) if code not in b"[]{}")
_TOKENS = re.compile(rb"[\[\]{},]")

Span = tuple[int, int]
Pause = Callable[[], Awaitable[None]]


class JobRequest(NamedTuple):
    """What a job is to do: an action, and the items to do it to.

    Each is JSON in UTF-8, a view of the body so that it is there once, or TOO_LARGE where it is.
    """

    action: str
    items: Sequence[bytes | memoryview]


class _Found(NamedTuple):
    """A list two objects deep: where it stands, and where its items do, up to one too many."""

    span: Span
    items: list[Span]


async def parse(raw: bytes, pause: Pause, *, item_limit_bytes: int) -> tuple[JobRequest, list[str]]:
    """Reads `{"job": {"action", "items"}}`, and the names of what is ignored; it pauses between pieces.

    Raises BadRequest for what is not strict JSON or of another shape, TooManyValues, and RecordInvalid for
    text that cannot be stored. What is wrong with an item as a record is found out by the job.
    """
    json_body.require_utf8(raw)  # or brackets would not fit that are none
    pause = _paced(pause)
    scanner = _Scanner(item_limit_bytes)
    for begin, end in _slices(raw):
        await pause()
        scanner.scan(raw[begin:end], begin)
    frame, job, ignored = _framed(raw, scanner.lists, item_limit_bytes)
    action, items = job.get("action"), job.get("items")
    if not isinstance(action, str) or action not in ACTIONS:
        raise BadRequest(f"action must be one of {', '.join(ACTIONS)}")
    if not isinstance(items, list) or not (spans := _spans(raw, scanner.lists[items[0]])):
        raise BadRequest("items must be a list of at least one item")
    if len(spans) > ITEM_LIMIT:
        raise TooManyValues("items", ITEM_LIMIT)
    if len(scanner.lists) > 1:  # lists beside the items are ignored, but must be JSON too
        lists = [raw[slice(*found.span)] for found in scanner.lists]
        lists[items[0]] = b"[]"
        _require_json(frame, lists, item_limit_bytes)
    texts = []
    for number, span in enumerate(spans):
        await pause()
        texts.append(_item(raw, span, number, item_limit_bytes))
    return JobRequest(action, texts), [*ignored, *(name for name in job if name not in ("action", "items"))]


def _paced(pause: Pause) -> Pause:
    """Pauses at first, and then only where there was work enough since the last time."""
    paused_at = 0.0

    async def pace() -> None:
        nonlocal paused_at
        if time.monotonic() - paused_at > _PIECE_SECONDS:
            await pause()
            paused_at = time.monotonic()

    return pace


def _slices(raw: bytes) -> list[Span]:
    """The body in pieces, none of which ends between a backslash and what it escapes."""
    slices = []
    begin = 0
    while begin < len(raw):
        end = min(begin + _SLICE_BYTES, len(raw))
        backslashes = end - begin - len(raw[begin:end].rstrip(b"\\"))
        end += backslashes % 2
        slices.append((begin, end))
        begin = end
    return slices


class _Scanner:
    """Finds the lists that stand two objects deep. It looks at brackets and strings and at nothing else."""

    def __init__(self, list_limit_bytes: int) -> None:
        """Where a list has more items than a job may have, it may have so many bytes."""
        self._list_limit_bytes = list_limit_bytes
        self.lists: list[_Found] = []
        self._open: list[bytes] = []  # the brackets around, as far as a list of items
        self._depth = 0  # how many there are in all
        self._is_in_text = False
        self._begin = 0  # of the list
        self._item = 0  # where its item begins
        self._items: list[Span] = []

    def scan(self, piece: bytes, offset: int) -> None:
        """The next piece of the body, which begins at the offset."""
        plain = self._blanked(piece)
        if self._depth > _LEVELS:
            left = _unmatched(plain)
            closing = left.count(b"]")
            if closing < self._depth - _LEVELS:  # no item ends here
                self._depth += len(left) - 2 * closing
                return
        for token in _TOKENS.finditer(plain):
            match bracket := token[0]:
                case b"," if self._depth == _LEVELS:
                    self._end_item(offset + token.start())
                case b"[" | b"{":
                    self._enter(bracket, offset + token.start())
                case b"]" | b"}":
                    self._leave(bracket, offset + token.start())

    def _blanked(self, piece: bytes) -> bytes:
        """The piece without what its strings hold, everything else in its place."""
        parts = piece.replace(rb"\\", b"  ").replace(rb"\"", b"  ").split(b'"')
        for number in range(0 if self._is_in_text else 1, len(parts), 2):
            parts[number] = b" " * len(parts[number])
        self._is_in_text ^= len(parts) % 2 == 0
        return b" ".join(parts)

    def _enter(self, bracket: bytes, place: int) -> None:
        self._depth += 1
        if self._depth <= _LEVELS:
            self._open.append(bracket)
            if self._open == [b"{", b"{", b"["]:
                self._begin, self._item, self._items = place, place + 1, []

    def _leave(self, bracket: bytes, place: int) -> None:
        if self._depth <= _LEVELS:
            opening = self._open.pop() if self._open else b""
            if opening + bracket not in (b"[]", b"{}"):
                raise BadRequest(f"The body is not valid JSON: a bracket does not fit at byte {place}")
            if [*self._open, opening] == [b"{", b"{", b"["]:
                self._end_item(place)
                self.lists.append(_Found((self._begin, place + 1), self._items))
                self._items = []
                if len(self.lists) > VALUE_LIMIT:
                    raise TooManyValues("The body", VALUE_LIMIT)
        self._depth -= 1

    def _end_item(self, place: int) -> None:
        if len(self._items) <= ITEM_LIMIT:
            self._items.append((self._item, place))
        elif place - self._begin > self._list_limit_bytes:  # as items too many, as anything else too large
            raise TooManyValues("items", ITEM_LIMIT)
        self._item = place + 1


def _unmatched(plain: bytes) -> bytes:
    """The brackets of a piece, all as `[` and `]`, without those that close each other in it.

    Raises BadRequest where so many are inside each other that nobody would read them.
    """
    brackets = plain.translate(_SQUARED, _NO_BRACKETS)
    for _ in range(json_body.DEPTH_LIMIT + 1):
        left = brackets.replace(b"[]", b"")
        if len(left) == len(brackets):
            return left
        brackets = left
    raise json_body.too_deep()


def _framed(raw: bytes, lists: Sequence[_Found], limit: int) -> tuple[list[bytes], dict[str, Any], list[str]]:
    """What stands around the lists, and the job it makes with the number of each list in its place."""
    bounds = [0, *(place for found in lists for place in found.span), len(raw)]
    frame = [raw[begin:end] for begin, end in zip(bounds[::2], bounds[1::2], strict=True)]
    numbers = [b"[%d]" % number for number in range(len(lists))]
    job, ignored = unwrap(_require_json(frame, numbers, limit), "job")
    return frame, job, ignored


def _require_json(frame: Sequence[bytes], lists: Sequence[bytes], limit: int) -> Any:
    """The value of the frame with these lists in it. Raises BadRequest."""
    if sum(map(len, frame)) + sum(map(len, lists)) > limit:
        raise BadRequest(f"The body has more than {limit} bytes beside the items")
    pieces = [*(piece for pair in zip(frame, lists, strict=False) for piece in pair), *frame[len(lists) :]]
    return json_body.parse(b"".join(pieces))


def _spans(raw: bytes, found: _Found) -> list[Span]:
    """Where the items of a list stand, none for `[]`."""
    if len(found.items) == 1 and not raw[slice(*found.items[0])].strip(_BLANKS):
        return []
    return found.items


def _item(raw: bytes, span: Span, number: int, limit: int) -> bytes | memoryview:
    """The item as it is kept. Raises BadRequest for what is not strict JSON."""
    text = raw[slice(*span)].strip(_BLANKS)
    if len(text) > limit:
        return TOO_LARGE
    try:
        json_body.parse(text, around=_LEVELS)
    except TooManyValues:
        return TOO_LARGE
    except BadRequest as error:
        raise BadRequest(f"items[{number}]: {error.description}") from None
    except RecordInvalid as error:
        raise RecordInvalid(_placed(error.details or {}, f"items[{number}]")) from None
    begin = raw.index(text, *span)
    return memoryview(raw)[begin : begin + len(text)]


def _placed(details: Details, item: str) -> Details:
    """The problems of an item, which say what item it is."""
    return {
        key: [problem._replace(description=f"{item}: {problem.description}") for problem in problems]
        for key, problems in details.items()
    }
