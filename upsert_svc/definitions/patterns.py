"""The patterns of regexp fields: compiled, kept, and matched within bounds of time and memory.

RE2 is linear in the text, but each of its characters may take a step in every state of the pattern, while
nobody else is served. So the states of a pattern and the steps of a match are bounded. What RE2 learns of the
texts it keeps, so that is bounded too, over all patterns of the process.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import re2

SIZE_LIMIT = 65_536  # instructions of all patterns of an object; so many are compiled in 50 ms
STEP_LIMIT = 4_000_000  # of all matches of a record: about 50 ms at most, whatever the patterns and texts
_CACHE_LIMIT_BYTES = 32 * 1024 * 1024  # of compiled patterns
_SMALL_MATCH_STEPS = 10_000
_SMALL_SIZE = 200
# what RE2 may take of a pattern, by its size: with less it were slow with common texts
_MEMORY_BYTES = ((_SMALL_SIZE, 64 * 1024), (1000, 256 * 1024), (SIZE_LIMIT, 1024 * 1024))
_MOST_MEMORY_BYTES = 8 * 1024 * 1024  # RE2's own limit, for patterns of before there were others


class Pattern:
    """A compiled pattern, to be found in texts in UTF-8."""

    def __init__(self, pattern: bytes) -> None:
        """Raises ValueError for what is no pattern of RE2's, or too large even for its own limit."""
        compiled, memory = _compiled(pattern)
        self._search = compiled.search
        self._find = _set_of(pattern, memory) if compiled.programsize <= _SMALL_SIZE else None
        self.size: int = compiled.programsize
        self.steps = _steps(pattern, self.size)
        self.memory_bytes = memory if self._find is None else 2 * memory

    def is_found_in(self, text: bytes) -> bool:
        """Whether the pattern matches anywhere in the text."""
        if self._find is not None and len(text) * self.steps <= _SMALL_MATCH_STEPS and self._find(text):
            return True  # where it is out of memory, a set finds too little
        return self._search(text) is not None


def _compiled(pattern: bytes) -> tuple[Any, int]:
    """The pattern, and what memory it may take."""
    for size, memory in _MEMORY_BYTES:
        try:
            compiled = re2.compile(pattern, options=_options(memory))
        except re2.error as error:
            if b"too large" not in _reason(error):
                raise ValueError(_reason(error).decode("utf-8", "replace")) from None
        else:
            if compiled.programsize <= size:
                return compiled, memory
    try:
        return re2.compile(pattern, options=_options(_MOST_MEMORY_BYTES)), _MOST_MEMORY_BYTES
    except re2.error as error:
        raise ValueError(_reason(error).decode("utf-8", "replace")) from None


def _reason(error: re2.error) -> bytes:
    reason = error.args[0]
    return reason if isinstance(reason, bytes) else str(reason).encode()


def _options(memory: int, **others: Any) -> Any:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = memory
    for name, value in others.items():
        setattr(options, name, value)
    return options


def _set_of(pattern: bytes, memory: int) -> Any:
    """Finds as a search does, in a quarter of its time: it makes no match. Some patterns are too large."""
    alone = re2.Set.SearchSet(_options(memory))
    alone.Add(pattern)
    try:
        alone.Compile()
    except re2.error:
        return None
    return alone.Match


def _steps(pattern: bytes, size: int) -> int:
    """How many states may be looked at for each byte of a text.

    A character class beyond ASCII is many instructions, of which few are looked at for a byte. In Latin-1 it
    is one or two, which says how many there are, unless the class is empty there: then it is a third of all.
    """
    if size <= _SMALL_SIZE:
        return size
    try:
        in_latin_1 = re2.compile(
            pattern, options=_options(_MOST_MEMORY_BYTES, encoding=re2.Options.Encoding.LATIN1)
        )
    except re2.error:
        return size
    return max(int(in_latin_1.programsize), size // 3)


class _Cache:
    """The compiled patterns that were used last, for all definitions that have them."""

    def __init__(self) -> None:
        self._patterns: OrderedDict[str, Pattern] = OrderedDict()
        self._memory_bytes = 0

    def get(self, pattern: str) -> Pattern:
        found = self._patterns.get(pattern)
        if found is None:
            return self._add(pattern)
        self._patterns.move_to_end(pattern)
        return found

    def _add(self, pattern: str) -> Pattern:
        made = self._patterns[pattern] = Pattern(pattern.encode())
        self._memory_bytes += made.memory_bytes
        while self._memory_bytes > _CACHE_LIMIT_BYTES:
            self._memory_bytes -= self._patterns.popitem(last=False)[1].memory_bytes
        return made


compiled = _Cache().get  # raises ValueError for what is no pattern


def require_bounded(pattern: str, others: Iterable[str] = ()) -> None:
    """Raises ValueError for what is no pattern, or too large for an object that has the others."""
    if (size := compiled(pattern).size) > SIZE_LIMIT:
        raise ValueError("pattern too large: it repeats too much")
    if size + sum(_size(other) for other in others) > SIZE_LIMIT:
        raise ValueError("the patterns of the object's fields are too large together")


def _size(pattern: str) -> int:
    try:
        return compiled(pattern).size
    except ValueError:  # one of before, that no text matches
        return 0
