"""Dates and times as callers write them: RFC 3339, and the shorter forms that were always taken.

Refuses the basic forms (`20260203`, `T091011`), those of weeks, and 24:00. Nothing here is left to the
version of Python, whose own reader takes other forms in each (docs/api.md, "Dates and times").
"""

import re
from datetime import UTC, date, datetime, time, timedelta
from fractions import Fraction

_CLOCK = r"(?:[01]\d|2[0-3])(?::[0-5]\d(?::(?:[0-5]\d|60))?)?(?:[.,]\d+)?"
_OFFSET = r"[+-](?:[01]\d|2[0-3])(?::[0-5]\d(?::[0-5]\d)?|[0-5]\d(?:[0-5]\d)?)?(?:[.,]\d+)?"
_TIME = re.compile(
    rf"(?P<day>\d{{4}}-\d\d-\d\d)(?:[Tt ](?P<clock>{_CLOCK})(?: ?(?:[Zz]|(?P<offset>{_OFFSET})))?)?", re.ASCII
)
_DAY_SECONDS = 24 * 3600
_MICROSECOND = Fraction(1, 1_000_000)
_FRACTION_DIGITS = 12  # that are counted; the others only tell whether there is anything beyond


def read_date(text: str) -> str:
    """The date of a date or a date-time, as it is written there. Raises ValueError."""
    if len(text) == 10 and text[4] == text[7] == "-":  # which every Python reads alike
        date.fromisoformat(text)
        return text
    match = _matched(text)
    return date.fromisoformat(match["day"]).isoformat()


def read_moment(text: str) -> datetime:
    """The moment of a date-time, or of the midnight that a date begins with; in UTC where no offset is given.

    What is less than a microsecond is only told from nothing. Raises ValueError.
    """
    match = _matched(text)
    midnight = datetime.combine(date.fromisoformat(match["day"]), time(), UTC)
    seconds, beyond = divmod(_seconds(match["clock"] or "00") - _ahead(match), 1)
    microseconds = max(beyond // _MICROSECOND, 1) if beyond else 0
    try:
        return midnight + timedelta(seconds=seconds, microseconds=microseconds)
    except OverflowError:
        raise ValueError("before the first year, or after the last one") from None


def _matched(text: str) -> re.Match[str]:
    """The parts of a date or a date-time: a day that there may not be, a clock and an offset."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError("no date or date-time")
    clock = match["clock"]
    if clock and clock[6:8] == "60" and (_seconds(clock) // 1 - _ahead(match)) % _DAY_SECONDS:
        raise ValueError("a leap second is the last one of a day in UTC")
    return match


def _ahead(match: re.Match[str]) -> Fraction:
    """By how many seconds the clock is ahead of UTC."""
    offset = match["offset"] or "+00"
    return _seconds(offset[1:]) * (-1 if offset[0] == "-" else 1)


def _seconds(clock: str) -> Fraction:
    """Of hours, or with minutes, or with seconds too; a fraction is one of the last of these."""
    whole, _, fraction = clock.replace(",", ".").partition(".")
    digits = whole.replace(":", "")
    units = [3600, 60, 1][: len(digits) // 2]
    seconds = sum(int(digits[2 * place :][:2]) * unit for place, unit in enumerate(units))
    counted = fraction[:_FRACTION_DIGITS] + ("1" if fraction[_FRACTION_DIGITS:].strip("0") else "")
    return seconds + (Fraction(int(counted), 10 ** len(counted)) * units[-1] if counted else Fraction(0))
