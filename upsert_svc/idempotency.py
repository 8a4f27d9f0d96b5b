"""Idempotency keys: a request that is sent again with its key is answered as it was the first time.

The answer is committed with what the request wrote, or neither is. Refuses a key that belongs to another
request, and one whose request is still under way.
"""

import hashlib
from collections.abc import Callable
from typing import NamedTuple

import orjson

from upsert_svc.db import statements
from upsert_svc.db.pools import Connection
from upsert_svc.errors import Conflict, IdempotentRequestError

_SQL = statements.load("idempotency")


PARTS = ("method", "path", "query", "body")  # of a request, which must be the same
_HASH_BYTES = hashlib.sha256().digest_size


class IdempotentRequest(NamedTuple):
    """A request by its account's key, and what tells it from others: a hash of each of its parts, in order.

    `hash_of_all` makes the one of all parts together that a version before kept.
    """

    account_id: int
    key: str
    hashes: bytes
    hash_of_all: Callable[[], bytes]


class Answer(NamedTuple):
    """A whole answer, to be given again to the byte."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


def hashes_of(method: bytes, path: bytes, query: bytes, body: bytes) -> bytes:
    """What tells a request from others, part by part."""
    return b"".join(hashlib.sha256(part).digest() for part in (method, path, query, body))


async def claim(connection: Connection, request: IdempotentRequest) -> Answer | None:
    """Takes the request's key until the transaction ends; answers what it was answered within a day.

    Raises Conflict while another transaction has the key, IdempotentRequestError for another request's.
    """
    name = {"account_id": request.account_id, "key": request.key}
    if not await connection.fetchval(*_SQL.lock_key(**name)):
        raise Conflict("A request of this Idempotency-Key is still under way")
    row = await connection.fetchrow(*_SQL.find_answer(**name))
    if row is None:
        return None
    if row["request_hash"] != request.hashes:
        _require_same(row["request_hash"], request)
    return Answer(row["status"], [(name, value) for name, value in orjson.loads(row["headers"])], row["body"])


def _require_same(kept: bytes, request: IdempotentRequest) -> None:
    """Raises IdempotentRequestError, which names the parts that differ, where the kept hashes can tell."""
    if len(kept) == _HASH_BYTES:  # by a version before
        if kept != request.hash_of_all():
            raise IdempotentRequestError(f"{', '.join(PARTS[:-1])} or {PARTS[-1]}")
        return
    starts = range(0, len(request.hashes), _HASH_BYTES)
    hashes = [[of[start : start + _HASH_BYTES] for of in (kept, request.hashes)] for start in starts]
    differing = [part for part, (before, now) in zip(PARTS, hashes, strict=True) if before != now]
    raise IdempotentRequestError(" and ".join(differing))


async def keep(connection: Connection, request: IdempotentRequest, answer: Answer) -> None:
    """Keeps the answer to a request whose key is taken."""
    await connection.execute(
        *_SQL.keep_answer(
            account_id=request.account_id,
            key=request.key,
            request_hash=request.hashes,
            status=answer.status,
            headers=orjson.dumps(answer.headers).decode(),
            body=answer.body,
        )
    )
