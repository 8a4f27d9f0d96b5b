"""Accounts, users and API tokens: made and revoked by the operator, looked up by every request.

Only the SHA-256 of a token is kept; the token itself is shown once.
"""

import hashlib
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from upsert_svc.db import statements
from upsert_svc.db.pools import Connection

Role = Literal["admin", "agent"]
DEFAULT_ACCOUNT = "default"
_SQL = statements.load("tokens")  # by the owner
_ACCESS_SQL = statements.load("access")  # by the service


@dataclass(frozen=True)
class Principal:
    """Who a request speaks for."""

    account_id: int
    user_id: int
    email: str
    role: Role
    token_id: int


@dataclass(frozen=True)
class Issued:
    """A token that was just made, and whose it is; the one time that it is told."""

    token: str = field(repr=False)
    token_id: int
    account: str
    user_id: int
    email: str
    role: Role
    name: str
    earlier_role: str | None  # of a user who was there
    is_new: bool  # else the token was there already, and is as it was


@dataclass(frozen=True)
class TokenListing:
    """A token as the operator sees it; never the token itself."""

    token_id: int
    account: str
    user_id: int
    email: str
    role: str
    name: str
    last_four: str
    created_at: datetime
    revoked_at: datetime | None


def digest(token: str) -> bytes:
    """What is stored of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


async def find(connection: Connection, token_digest: bytes) -> Principal | None:
    """Whose token it is; None when it is unknown or revoked."""
    row = await connection.fetchrow(*_ACCESS_SQL.find_principal(token_hash=token_digest))
    return Principal(**row) if row else None


async def user_created_at(connection: Connection, principal: Principal) -> datetime:
    """When the user was made that a request speaks for."""
    created_at: datetime = await connection.fetchval(
        *_ACCESS_SQL.user_created_at(account_id=principal.account_id, user_id=principal.user_id)
    )
    return created_at


async def ensure_account(connection: Connection, name: str) -> int:
    """The id of the account of that name, made if missing."""
    account_id: int = await connection.fetchval(*_SQL.ensure_account(name=name))
    return account_id


async def next_id(connection: Connection, account_id: int, count: int = 1) -> int:
    """Takes ids for users, tokens, objects, fields or options of an account; answers the first."""
    last: int = await connection.fetchval(*_SQL.take_ids(account_id=account_id, count=count))
    return last - count + 1


async def create(
    connection: Connection, *, account: str, email: str, role: Role, name: str = "", token: str | None = None
) -> str:
    """The token of `issue`."""
    issued = await issue(connection, account=account, email=email, role=role, name=name, token=token)
    return issued.token


async def issue(
    connection: Connection, *, account: str, email: str, role: Role, name: str = "", token: str | None = None
) -> Issued:
    """Gives a user, made if missing, one more token; runs inside the caller's transaction.

    The user's role becomes the one named. A given token that exists already is left as it is.
    """
    token, email = token or f"upsert_{secrets.token_urlsafe(32)}", email.lower()
    account_id = await ensure_account(connection, account)
    user = await connection.fetchrow(
        *_SQL.ensure_user(
            account_id=account_id, email=email, role=role, user_id=await next_id(connection, account_id)
        )
    )
    token_id = await next_id(connection, account_id)
    made = await connection.fetchval(
        *_SQL.insert_token(
            account_id=account_id,
            token_id=token_id,
            user_id=user["user_id"],
            name=name,
            token_hash=digest(token),
            last_four=token[-4:],
        )
    )
    return Issued(
        token, token_id, account, user["user_id"], email, role, name, user["earlier_role"], made is not None
    )


async def list_all(connection: Connection) -> list[TokenListing]:
    """All tokens, the oldest first."""
    return [TokenListing(**row) for row in await connection.fetch(*_SQL.list_tokens())]


async def revoke(connection: Connection, *, account: str, token_id: int) -> bool:
    """Revokes a token for good; False when the account has no such token, or it was revoked before."""
    return await connection.fetchval(*_SQL.revoke_token(account=account, token_id=token_id)) is not None


async def ensure_key(connection: Connection, name: str) -> None:
    """Makes one of the service's own keys, unless it is there already."""
    await connection.execute(*_SQL.ensure_key(name=name, secret=secrets.token_bytes(32)))


async def noted_key(connection: Connection, name: str) -> bytes | None:
    """One of the service's own keys as its owner sees it; None where there is none."""
    secret: bytes | None = await connection.fetchval(*_SQL.noted_key(name=name))
    return secret


async def renew_key(connection: Connection, name: str, secret: bytes) -> None:
    """Puts a key in the place of the one that there was."""
    await connection.execute(*_SQL.renew_key(name=name, secret=secret))


async def find_key(connection: Connection, name: str) -> bytes:
    """One of the service's own keys."""
    secret: bytes = await connection.fetchval(*_ACCESS_SQL.find_key(name=name))
    return secret


async def revoke_earlier(connection: Connection, issued: Issued) -> list[int]:
    """Revokes the other tokens of the same account and name, which an operator has replaced by this one."""
    rows = await connection.fetch(
        *_SQL.revoke_earlier(account=issued.account, name=issued.name, token_id=issued.token_id)
    )
    return sorted(row["token_id"] for row in rows)
