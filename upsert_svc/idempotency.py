"""Idempotency keys: a request that is sent again with its key is answered as it was the first time.

The answer is committed with what the request wrote, or neither is. Refuses a key that belongs to another
request, and one whose request is still under way.
"""

from typing import NamedTuple

import orjson

from upsert_svc.db import statements
from upsert_svc.db.pools import Connection
from upsert_svc.errors import Conflict, IdempotentRequestError

_SQL = statements.load("idempotency")


class IdempotentRequest(NamedTuple):
    """A request by its account's key; `digest` is what tells it from others, 32 bytes."""

    account_id: int
    key: str
    digest: bytes


class Answer(NamedTuple):
    """A whole answer, to be given again to the byte."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


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
    if row["request_hash"] != request.digest:
        raise IdempotentRequestError
    return Answer(row["status"], [(name, value) for name, value in orjson.loads(row["headers"])], row["body"])


async def keep(connection: Connection, request: IdempotentRequest, answer: Answer) -> None:
    """Keeps the answer to a request whose key is taken."""
    await connection.execute(
        *_SQL.keep_answer(
            account_id=request.account_id,
            key=request.key,
            request_hash=request.digest,
            status=answer.status,
            headers=orjson.dumps(answer.headers).decode(),
            body=answer.body,
        )
    )
