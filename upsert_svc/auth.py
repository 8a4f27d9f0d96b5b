"""Who asks: the Authorization header to a Principal. Refuses with 401 and says no more.

A looked-up token is believed for at most a second, so that a revoked one stops working within it.
"""

import base64
import binascii
import hashlib
import time

from upsert_svc import tokens
from upsert_svc.database import Pool
from upsert_svc.errors import Forbidden, NotAuthenticated
from upsert_svc.tokens import Principal

_CACHE_LIMIT = 10_000
_TOKEN_LIMIT = 512


class Authenticator:
    """Turns Authorization headers into Principals."""

    def __init__(self, lookups: Pool, *, ttl_seconds: float) -> None:
        self._lookups = lookups
        self._ttl_seconds = ttl_seconds
        self._believed: dict[bytes, tuple[float, Principal]] = {}

    async def __call__(self, authorization: bytes) -> Principal:
        """The Principal of the header's credential. Raises NotAuthenticated."""
        digest = hashlib.sha256(authorization).digest()  # so that no credential stays in memory
        now = time.monotonic()
        if (believed := self._believed.get(digest)) is not None and now < believed[0]:
            return believed[1]
        self._believed.pop(digest, None)
        principal = await self._looked_up(authorization.decode("latin-1"))
        if len(self._believed) >= _CACHE_LIMIT:
            self._believed.clear()
        self._believed[digest] = (now + self._ttl_seconds, principal)
        return principal

    async def _looked_up(self, authorization: str) -> Principal:
        email, token = _credential(authorization)
        async with self._lookups.connection() as connection:
            principal = await tokens.find(connection, tokens.digest(token))
        if principal is None or (email is not None and email.lower() != principal.email):
            raise NotAuthenticated
        return principal


def _credential(authorization: str) -> tuple[str | None, str]:
    """The e-mail, where the scheme carries one, and the token."""
    scheme, _, credential = authorization.strip().partition(" ")
    credential = credential.strip()
    if scheme.lower() == "basic":
        email, token = _basic(credential)
    elif scheme.lower() == "bearer":
        email, token = None, credential
    else:
        raise NotAuthenticated
    if not token or len(token) > _TOKEN_LIMIT:
        raise NotAuthenticated
    return email, token


def _basic(credential: str) -> tuple[str, str]:
    try:
        user, _, token = base64.b64decode(credential, validate=True).decode("utf-8").partition(":")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise NotAuthenticated from None
    email, slash, suffix = user.rpartition("/")
    if not slash or suffix != "token":
        raise NotAuthenticated
    return email, token


def require_admin(principal: Principal) -> None:
    """Raises Forbidden for an agent."""
    if principal.role != "admin":
        raise Forbidden
