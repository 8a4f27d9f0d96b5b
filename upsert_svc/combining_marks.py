"""Long runs of combining marks, which no text needs and PostgreSQL cannot bear.

It sorts the marks of a letter in quadratic time when it normalizes a text, and nothing stops it meanwhile:
20,000 of them take 2.3 s.
"""

import unicodedata
from functools import lru_cache
from itertools import takewhile

RUN_LIMIT = 100  # Unicode's own format for streams has 30


def has_long_run(text: str) -> bool:
    """Whether a text has more than RUN_LIMIT combining marks in a row."""
    run = RUN_LIMIT + 1
    # every such run lies across one of these places
    return any(
        _may_be_a_mark(text[place]) and _marks_around(text, place) >= run
        for place in range(RUN_LIMIT, len(text), run)
    )


def _marks_around(text: str, place: int) -> int:
    before = text[max(0, place - RUN_LIMIT) : place]
    after = text[place : place + RUN_LIMIT + 1]
    return sum(1 for part in (reversed(before), after) for _ in takewhile(_may_be_a_mark, part))


@lru_cache(maxsize=4096)
def _may_be_a_mark(character: str) -> bool:
    """Whether PostgreSQL may sort a character: a mark, what is made of marks, or what only it may know."""
    parts = unicodedata.normalize("NFD", character)
    return unicodedata.combining(parts[0]) > 0 or (
        character < "\U0001f000" and unicodedata.category(character) == "Cn"
    )
