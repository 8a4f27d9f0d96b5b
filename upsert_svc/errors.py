"""The errors a caller can cause or meet, and the one table from PostgreSQL's errors to them.

Every error answers in one shape (docs/api.md, "Errors"). No text of PostgreSQL's own leaves here.

    ServiceError
    ├── BadRequest 400                 ├── RequestTimeout 408
    │   ├── TooManyValues              ├── Conflict 409
    │   └── IdempotentRequestError     ├── PreconditionFailed 412
    ├── NotAuthenticated 401           ├── PayloadTooLarge 413
    ├── Forbidden 403                  ├── UnsupportedMediaType 415
    ├── RecordNotFound 404             ├── RecordInvalid 422
    ├── InvalidEndpoint 404            ├── TooManyRequests, TooManyJobs 429
    └── MethodNotAllowed 405           ├── InternalServerError 500
                                       └── ServiceUnavailable 503
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import asyncpg


class Problem(NamedTuple):
    """One thing wrong with a value: a sentence for people, a word for programs."""

    description: str
    error: str = "InvalidValue"


Details = Mapping[str, Sequence[Problem]]

PROBLEM_LIMIT = 20  # of one refusal; the others are counted
_NAME_LIMIT = 200  # characters of a key that is told
_TEXT_LIMIT = 1000  # characters of a sentence


def shortened(text: str, limit: int = _NAME_LIMIT) -> str:
    """A text of a caller's as it is told again: its beginning, where it is long."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


class ServiceError(Exception):
    """An answer that is not a success. `details` is keyed by field, or by "base"."""

    status = 500
    error = "InternalServerError"
    description: str | None = None

    def __init__(
        self,
        description: str | None = None,
        *,
        details: Details | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.description = shortened(description, _TEXT_LIMIT) if description else self.description
        super().__init__(self.description or self.error)
        self.details = details
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The JSON body of the answer."""
        body: dict[str, Any] = {"error": self.error}
        if self.description is not None:
            body["description"] = self.description
        if self.details:
            body["details"] = {
                key: [problem._asdict() for problem in problems] for key, problems in self.details.items()
            }
        return body


class BadRequest(ServiceError):
    status = 400
    error = "BadRequest"


class TooManyValues(BadRequest):
    """More items than one request may name; the answer says how many that is."""

    error = "TooManyValues"

    def __init__(self, name: str, max_count: int) -> None:
        super().__init__(f"{name} takes at most {max_count} values")
        self.max_count = max_count

    def body(self) -> dict[str, Any]:
        return super().body() | {"max_count": self.max_count}


class IdempotentRequestError(BadRequest):
    """An Idempotency-Key comes with another request than the one answered; `differing` says in what."""

    error = "IdempotentRequestError"

    def __init__(self, differing: str) -> None:
        super().__init__(
            f"The Idempotency-Key belongs to another request, which differs in its {differing}"
            " (compared byte for byte)"
        )


class NotAuthenticated(ServiceError):
    """Comes with a challenge (RFC 9110, 11.6.1): many clients send no credential before they saw one."""

    status = 401
    error = "Couldn't authenticate you"

    def __init__(self) -> None:
        super().__init__(headers={"WWW-Authenticate": 'Basic realm="upsert_svc", charset="UTF-8"'})


class Forbidden(ServiceError):
    status = 403
    error = "Forbidden"
    description = "You do not have access to this page. Please contact the account owner for help."


class RecordNotFound(ServiceError):
    status = 404
    error = "RecordNotFound"
    description = "Not found"


class InvalidEndpoint(ServiceError):
    status = 404
    error = "InvalidEndpoint"
    description = "Not found"


class MethodNotAllowed(ServiceError):
    status = 405
    error = "MethodNotAllowed"

    def __init__(self, allowed: Sequence[str]) -> None:
        allow = ", ".join(allowed)
        super().__init__(f"This endpoint answers to {allow}", headers={"Allow": allow})


class Conflict(ServiceError):
    status = 409
    error = "Conflict"

    def __init__(self, description: str, retry_after_seconds: int = 1) -> None:
        super().__init__(description, headers={"Retry-After": str(retry_after_seconds)})


class RequestTimeout(ServiceError):
    status = 408
    error = "RequestTimeout"

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"The body did not arrive within {seconds:g} seconds", headers={"Connection": "close"}
        )


class PreconditionFailed(ServiceError):
    status = 412
    error = "PreconditionFailed"
    description = "The record is not in the state that If-Match or If-None-Match asks for"


class PayloadTooLarge(ServiceError):
    status = 413
    error = "PayloadTooLarge"

    def __init__(self, limit_bytes: int, what: str = "The body") -> None:
        super().__init__(
            f"{what} is larger than {limit_bytes} bytes",
            headers={"Connection": "close"},
        )


class UnsupportedMediaType(ServiceError):
    status = 415
    error = "UnsupportedMediaType"


class RecordInvalid(ServiceError):
    """Rules on values were broken; `details` says which, for each field.

    It has the first problems. The others are counted, with those that whoever raises it did not even make
    (`uncounted`), in one more problem at "base".
    """

    status = 422
    error = "RecordInvalid"
    description = "Record validation errors"

    def __init__(self, details: Details, *, uncounted: int = 0) -> None:
        self._first, left_out = _first_problems(details)
        self._left_out = left_out + uncounted
        super().__init__(details=_with_count(self._first, self._left_out))

    def after(self, details: Details) -> "RecordInvalid":
        """The same refusal, with other problems before its own."""
        return RecordInvalid(dict(details) | dict(self._first), uncounted=self._left_out)


def _first_problems(details: Details) -> tuple[Details, int]:
    """As many problems as are told, their texts cut, and how many there are besides."""
    first: dict[str, list[Problem]] = {}
    told = 0
    for key, problems in details.items():
        if room := PROBLEM_LIMIT - told:
            kept = [
                problem._replace(description=shortened(problem.description, _TEXT_LIMIT))
                for problem in problems[:room]
            ]
            first.setdefault(shortened(key), []).extend(kept)
            told += len(kept)
    return first, sum(map(len, details.values())) - told


def _with_count(first: Details, left_out: int) -> Details:
    if not left_out:
        return first
    count = Problem(f"There are {left_out:,} more problems", "MoreProblems")
    return {**first, "base": [*first.get("base", ()), count]}


class TooManyRequests(ServiceError):
    status = 429
    error = "TooManyRequests"

    def __init__(self, of: str, limit: int, retry_after_seconds: int) -> None:
        super().__init__(
            f"The {of}'s limit of {limit} requests is reached; it starts anew in {retry_after_seconds} s",
            headers={"Retry-After": str(retry_after_seconds)},
        )


class TooManyJobs(ServiceError):
    """The account has as many unfinished jobs as it may have; they are finished within seconds."""

    status = 429
    error = "TooManyJobs"

    def __init__(self, retry_after_seconds: int = 2) -> None:
        super().__init__(
            "Too many jobs are currently queued or running. Try again later.",
            headers={"Retry-After": str(retry_after_seconds)},
        )


class InternalServerError(ServiceError):
    status = 500
    error = "InternalServerError"
    description = "The request could not be handled; the log tells why"


class ServiceUnavailable(ServiceError):
    status = 503
    error = "ServiceUnavailable"

    def __init__(
        self, description: str = "The database cannot be reached just now", retry_after_seconds: int = 1
    ):
        super().__init__(description, headers={"Retry-After": str(retry_after_seconds)})


NAME_TAKEN = Problem("Name already exists. Try another one.", "DuplicateValue")
EXTERNAL_ID_TAKEN = Problem("External id is already in use by another record", "DuplicateValue")
KEY_TAKEN = Problem("Key has already been taken", "DuplicateValue")
SETTINGS_FROZEN = Problem("Naming settings cannot be changed once the object has a record", "FrozenSetting")

# What a caller can break. Every other constraint guards against other writers, and is a bug when it speaks.
CONSTRAINTS: Mapping[str, Details] = {
    "records_name_key_key": {"base": [NAME_TAKEN]},
    "records_external_id_key": {"external_id": [EXTERNAL_ID_TAKEN]},
    "records_naming_fkey": {"properties": [SETTINGS_FROZEN]},
    "objects_account_id_key_key": {"key": [KEY_TAKEN]},
    "fields_key_key": {"key": [KEY_TAKEN]},
}

# Worth a second try in a fresh statement: another's row or lock was in the way, or a plan was out of date.
_RETRYABLE_SQLSTATES = frozenset({"23505", "40001", "40P01", "0A000"})
_TAKEN_FOR_GOOD = frozenset({"objects_account_id_key_key", "fields_key_key"})

_BUSY = "The database is too busy just now"
_LOST_CLASSES = ("08", "57P")
_READ_ONLY = "25006"  # a standby that takes over soon
_UNAVAILABLE_CLASSES = ("08", "53", "57", _READ_ONLY)
_BUSY_SQLSTATES = frozenset({"40001", "40P01", "55P03", "57014"})


def is_retryable(error: asyncpg.PostgresError) -> bool:
    """Whether a second try may fare better."""
    constraint = getattr(error, "constraint_name", None)
    return error.sqlstate in _RETRYABLE_SQLSTATES and constraint not in _TAKEN_FOR_GOOD


def is_unavailable(error: Exception) -> bool:
    """Whether the database is out of reach, full or read-only just now, whatever was asked of it."""
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "").startswith((*_LOST_CLASSES, "53", _READ_ONLY))
    return isinstance(error if isinstance(error, ServiceError) else translated(error), ServiceUnavailable)


def is_lock_timeout(error: Exception) -> bool:
    """Whether somebody kept a lock for longer than the statement might wait."""
    return isinstance(error, asyncpg.PostgresError) and error.sqlstate == "55P03"


def is_definite(error: Exception) -> bool:
    """Whether a failed statement certainly wrote nothing; after a lost connection nobody knows."""
    if not isinstance(error, asyncpg.PostgresError):
        return False
    return not (error.sqlstate or "").startswith(_LOST_CLASSES)


def translated(error: Exception) -> ServiceError | None:
    """The service's error for one of asyncpg's or the network's; None for what is a bug of ours."""
    if isinstance(error, asyncpg.PostgresError):
        sqlstate = error.sqlstate or ""
        constraint = str(getattr(error, "constraint_name", None))
        if constraint in CONSTRAINTS:
            return RecordInvalid(CONSTRAINTS[constraint])
        if sqlstate in _BUSY_SQLSTATES:
            return ServiceUnavailable(_BUSY)
        if sqlstate.startswith(_UNAVAILABLE_CLASSES):
            return ServiceUnavailable()
        return None
    # The last: the database has said that it ends the connection, and asyncpg has not seen its end yet.
    if isinstance(error, OSError | TimeoutError | asyncpg.InterfaceError | asyncpg.InternalClientError):
        return ServiceUnavailable()
    return None
