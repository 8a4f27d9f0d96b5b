"""The class of the connections that serve requests and jobs."""

import functools
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

_Method = Callable[..., Awaitable[Any]]


def _ending_what_hangs(method: _Method) -> _Method:
    """The method, which ends the connection when its statement is not answered in time."""

    @functools.wraps(method)
    async def call(self: "ServiceConnection", *statement: Any, **options: Any) -> Any:
        try:
            return await method(self, *statement, **options)
        except TimeoutError:
            self.terminate()
            raise

    return call


class ServiceConnection(asyncpg.Connection):  # type: ignore[misc]
    """Skips the reset round trip on release, and is given up at once when the database hangs.

    The first is safe while nothing here sets session state: no SET but SET LOCAL, no LISTEN, no session
    locks. The second because asyncpg would ask a database that does not answer to cancel the statement, then
    for a rollback, and wait as long again for each.
    """

    fetch = _ending_what_hangs(asyncpg.Connection.fetch)
    fetchrow = _ending_what_hangs(asyncpg.Connection.fetchrow)
    fetchval = _ending_what_hangs(asyncpg.Connection.fetchval)
    execute = _ending_what_hangs(asyncpg.Connection.execute)

    def get_reset_query(self) -> str:
        return ""
