"""Who asks: the Authorization header to a Principal. Refuses with 401 and says no more.

A looked-up token is believed for at most a second, so that a revoked one stops working within it.
"""

import base64
import binascii
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

    async def __call__(self, authorization: str) -> Principal:
        """The Principal of the header's credential. Raises NotAuthenticated."""
        email, token = _credential(authorization)
        principal = await self._principal(tokens.digest(token))
        if principal is None or (email is not None and email.lower() != principal.email):
            raise NotAuthenticated
        return principal

    async def _principal(self, token_digest: bytes) -> Principal | None:
        now = time.monotonic()
        until, principal = self._believed.get(token_digest, (0.0, None))
        if now < until:
            return principal
        async with self._lookups.connection() as connection:
            found = await tokens.find(connection, token_digest)
        self._believed.pop(token_digest, None)
        if found is not None:
            if len(self._believed) >= _CACHE_LIMIT:
                self._believed.clear()
            self._believed[token_digest] = (now + self._ttl_seconds, found)
        return found


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
