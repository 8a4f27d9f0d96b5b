"""Answers as bytes: the head of one, and whole ones for what never becomes a request."""

from collections.abc import Sequence
from http import HTTPStatus

import orjson

from upsert_svc.asgi import JSON_TYPE
from upsert_svc.errors import ServiceError

_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}

Header = tuple[bytes, bytes]


def head(status: int, headers: Sequence[Header]) -> bytes:
    """The head of an answer. Raises RuntimeError where a header would be more than one line."""
    lines = b"".join([b"%b: %b\r\n" % header for header in headers])
    if lines.count(b"\n") != len(headers) or lines.count(b"\r") != len(headers) or b"\0" in lines:
        raise RuntimeError("A header of the answer has a line break")
    return _STATUS_LINES[status] + lines + b"\r\n"


def ready_answer(status: int, error: ServiceError, *, is_last: bool) -> bytes:
    """A whole answer, in the shape of every other error."""
    body = orjson.dumps(error.body())
    headers = {"content-type": JSON_TYPE.decode(), "content-length": str(len(body))}
    headers |= {name.lower(): value for name, value in error.headers.items()}
    if is_last:
        headers["connection"] = "close"
    return head(status, [(name.encode(), value.encode()) for name, value in headers.items()]) + body
