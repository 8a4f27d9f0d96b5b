"""What the operator is told in one line, where a traceback would say nothing to them."""

from pydantic import ValidationError

from upsert_svc import settings


class Mistake(Exception):
    """A command cannot be carried out; the message says why, and where it can what to do."""


def first_line(error: BaseException) -> str:
    """What an error says, without the hints and details that PostgreSQL adds; empty where it says nothing."""
    return next(iter(str(error).splitlines()), "")


def line_of(error: BaseException) -> str | None:
    """What to say of an error; None for one that is no mistake of the operator's."""
    if isinstance(error, Mistake):
        return str(error)
    if isinstance(error, ValidationError):
        return "\n".join(map(settings.problem, error.errors()))
    return None
