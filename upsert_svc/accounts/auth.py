"""Who asks: the Authorization header to a Principal. Refuses with 401 and says no more.

A looked-up token is believed for at most a second, so that a revoked one stops working within it.
"""

import asyncio
import base64
import binascii
import contextvars
import hashlib
import time

from upsert_svc.accounts import tokens
from upsert_svc.accounts.tokens import Principal
from upsert_svc.db.pools import Pool
from upsert_svc.errors import Forbidden, NotAuthenticated
from upsert_svc.turns import CALLER

_CACHE_LIMIT = 10_000
_TOKEN_LIMIT = 512


class _Look:
    """One look at the database for a credential, shared by all who ask while what it found is believed."""

    __slots__ = ("begun", "found", "successor", "task")

    def __init__(self, begun: float, task: asyncio.Task[Principal]) -> None:
        self.begun = begun
        self.task = task
        self.found: Principal | None = None
        self.successor: _Look | None = None


class Authenticator:
    """Turns Authorization headers into Principals.

    A credential in use is looked up again ahead of time, so that nobody waits for it, and by one request for
    all: or whenever a second was over, every request under way would look it up at once.
    """

    def __init__(self, lookups: Pool, *, ttl_seconds: float) -> None:
        self._lookups = lookups
        self._ttl_seconds = ttl_seconds
        self._looks: dict[bytes, _Look] = {}

    async def __call__(self, authorization: bytes) -> Principal:
        """The Principal of the header's credential. Raises NotAuthenticated."""
        digest = hashlib.sha256(authorization).digest()  # so that no credential stays in memory
        age = time.monotonic() - look.begun if (look := self._looks.get(digest)) else self._ttl_seconds
        if look is None or age >= self._ttl_seconds:
            look = self._begin(digest, authorization, look)
            if len(self._looks) >= _CACHE_LIMIT:
                self._looks.clear()
            self._looks[digest] = look
        elif look.successor is None and look.found and age >= self._ttl_seconds / 2:
            look.successor = self._begin(digest, authorization, look)
        if look.found:
            return look.found
        principal = await asyncio.shield(look.task)
        if age < self._ttl_seconds <= time.monotonic() - look.begun:
            return await self(authorization)  # that look of another took too long to say anything now
        return principal

    def _begin(self, digest: bytes, authorization: bytes, before: _Look | None) -> _Look:
        context = contextvars.copy_context()
        if before is not None and before.found:  # who was good waits for nobody who makes up credentials
            context.run(CALLER.set, before.found.account_id)
        looking_up = self._look_up(authorization.decode("latin-1"))
        look = _Look(time.monotonic(), asyncio.create_task(looking_up, context=context))
        look.task.add_done_callback(lambda _: self._settle(digest, look))
        return look

    def _settle(self, digest: bytes, look: _Look) -> None:
        """Believes what a look found; a failed one is forgotten, and a refusal at once."""
        error = look.task.exception() if not look.task.cancelled() else asyncio.CancelledError()
        if error is None:
            look.found = look.task.result()
            self._looks[digest] = look
        elif isinstance(error, NotAuthenticated) or self._looks.get(digest) is look:
            self._looks.pop(digest, None)

    async def _look_up(self, authorization: str) -> Principal:
        email, token = _credential(authorization)
        async with self._lookups.connection() as connection:
            principal = await tokens.find(connection, tokens.digest(token))
        if principal is None or (email is not None and email.lower() != principal.email):
            raise NotAuthenticated
        return principal


def _credential(authorization: str) -> tuple[str | None, str]:
    """The e-mail, where the scheme carries one, and the token."""
    said = {text.strip() for text in authorization.split(",")}
    if len(said) == 1:  # client and framework may have set the header both
        (authorization,) = said
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
