"""The connections to PostgreSQL: bounded waiting, transactions, and the retry of what may be retried.

`databases` keeps the pools; statements and transactions run on the raw asyncpg connection, because
`databases` loses a pool slot for good when a COMMIT of its own fails or is cancelled.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import asyncpg
import databases

from upsert_svc import errors
from upsert_svc.settings import Settings

Result = TypeVar("Result")
Row = Any  # of the driver: a mapping of its columns, and a sequence of their values

SERVICE_ROLE = "upsert_svc"
_ATTEMPTS = 4


class UnreachableDatabase(Exception):
    """No connection could be made; the message says why, for the operator."""


class Connection(Protocol):
    """What the core does with a connection: a statement and its arguments at a time (see `Statement`)."""

    async def fetch(self, *statement: object) -> list[Any]: ...
    async def fetchrow(self, *statement: object) -> Any: ...
    async def fetchval(self, *statement: object) -> Any: ...
    async def execute(self, *statement: object) -> str: ...
    def transaction(self) -> Any: ...
    def is_closed(self) -> bool: ...
    def get_server_version(self) -> Any: ...


class _UnresetConnection(asyncpg.Connection):  # type: ignore[misc]
    """Skips the reset round trip on release.

    That is safe while nothing here sets session state: no SET but SET LOCAL, no LISTEN, no session locks.
    """

    def get_reset_query(self) -> str:
        return ""


def _session(settings: Settings, lock_timeout_seconds: float) -> dict[str, str]:
    """The settings of every session that serves requests or jobs."""
    return {
        "application_name": "upsert-svc",
        "role": SERVICE_ROLE,
        "timezone": "UTC",
        "jit": "off",
        # the writing functions look again at what was committed meanwhile
        "default_transaction_isolation": "read committed",
        # Array parameters would have every call planned anew, at more than the cost of running it.
        "plan_cache_mode": "force_generic_plan",
        # A generic plan outlives the empty table that it was made for; what is asked for here is few
        # rows by their keys, in tables that grow.
        "enable_seqscan": "off",
        "enable_hashjoin": "off",
        "enable_mergejoin": "off",
        "statement_timeout": f"{settings.statement_timeout_seconds * 1000:.0f}",
        "lock_timeout": f"{lock_timeout_seconds * 1000:.0f}",
        "idle_in_transaction_session_timeout": f"{settings.statement_timeout_seconds * 2000:.0f}",
    }


class Connections(Protocol):
    """Where the core takes connections from."""

    def acquired(self) -> AbstractAsyncContextManager[Connection]: ...
    def connection(self) -> AbstractAsyncContextManager[Connection]: ...
    def transaction(self) -> AbstractAsyncContextManager[Connection]: ...
    async def retrying(self, operation: Callable[[Connection], Awaitable[Result]]) -> Result: ...


class Pinned:
    """One connection inside a transaction, in the place of a pool: whoever takes it takes part in that.

    PostgreSQL's errors leave as they are. They are for whoever opened the transaction, and may try it again.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        yield self._connection

    def acquired(self) -> AbstractAsyncContextManager[Connection]:
        return self.connection()

    def transaction(self) -> AbstractAsyncContextManager[Connection]:
        return self.connection()

    async def retrying(self, operation: Callable[[Connection], Awaitable[Result]]) -> Result:
        return await operation(self._connection)


class Pool:
    """Connections of one kind. Whoever finds none free in time is refused, and may come back: 503."""

    def __init__(
        self, url: str, settings: Settings, *, size: int, lock_timeout_seconds: float | None = None
    ) -> None:
        self._database = databases.Database(
            url,
            min_size=1,
            max_size=size,
            connection_class=_UnresetConnection,
            server_settings=_session(settings, lock_timeout_seconds or settings.lock_timeout_seconds),
            command_timeout=settings.statement_timeout_seconds + 5,
        )
        self._acquire_seconds = settings.acquire_timeout_seconds
        self._waiters_left = settings.pool_waiters

    async def connect(self) -> None:
        await self._database.connect()

    async def disconnect(self) -> None:
        await self._database.disconnect()

    async def __aenter__(self) -> "Pool":
        """Raises ServiceUnavailable when no connection can be made."""
        try:
            await self.connect()
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise errors.ServiceUnavailable from error
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.disconnect()

    @asynccontextmanager
    async def acquired(self) -> AsyncIterator[Connection]:
        """A connection in autocommit, for those who handle PostgreSQL's errors. Raises ServiceUnavailable."""
        if self._waiters_left <= 0:
            raise errors.ServiceUnavailable("Too many requests are waiting for the database")
        holder = self._database.connection()
        self._waiters_left -= 1
        try:
            async with asyncio.timeout(self._acquire_seconds):
                await holder.__aenter__()
        except TimeoutError:
            raise errors.ServiceUnavailable("The database had no connection free in time") from None
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:  # none could be made
            raise errors.ServiceUnavailable from error
        finally:
            self._waiters_left += 1
        connection = holder.raw_connection
        try:
            yield connection
        except asyncpg.InternalClientError:  # out of step with the database: nobody is to get it again
            connection.terminate()
            raise
        finally:
            await holder.__aexit__()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection in autocommit. PostgreSQL's errors leave as the service's own."""
        try:
            async with self.acquired() as connection:
                yield connection
        except Exception as error:
            _raise_translated(error)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection inside one transaction: committed at the end, rolled back on any error."""
        async with self.connection() as connection, connection.transaction():
            yield connection

    async def retrying(self, operation: Callable[[Connection], Awaitable[Result]]) -> Result:
        """Runs an operation that is one transaction, again when another writer stood in its way.

        Of eight racers on one key about one in a hundred meets a 23505 or a deadlock that a second
        try does not; a conflict that lasts is the caller's.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                async with self.acquired() as connection:
                    return await operation(connection)
            except asyncpg.PostgresError as error:
                if attempt == _ATTEMPTS or not errors.is_retryable(error):
                    _raise_translated(error)
            except Exception as error:
                _raise_translated(error)
            await asyncio.sleep(random.uniform(0, 0.01 * 2**attempt))  # noqa: S311
        raise AssertionError("the last attempt returns or raises")


def is_open(connection: Connection) -> bool:
    """Whether a connection is still good for a statement."""
    try:
        return not connection.is_closed()
    except asyncpg.InterfaceError:  # lost, and the pool has taken it back already
        return False


def _raise_translated(error: Exception) -> Any:
    if (known := errors.translated(error)) is not None:
        raise known from error
    raise error


@dataclass(frozen=True)
class Database:
    """The pools of one process.

    Lookups (tokens, definitions, readiness) have connections of their own: a flood of requests that will
    be refused cannot take those that write, and writers cannot keep a refusal waiting. So have requests with
    an idempotency key, each of which keeps one from before its body is validated to its commit; and batched
    writes, whose connections wait for a lock only briefly (see `write_batching`).
    """

    main: Connections
    idempotent: Pool
    lookups: Pool
    batches: Pool

    def pinned(self, connection: Connection) -> "Database":
        """The same, but what reads and writes records takes part in the connection's transaction."""
        return replace(self, main=Pinned(connection))


@asynccontextmanager
async def connected(settings: Settings, url: str) -> AsyncIterator[Database]:
    """The pools, for as long as the block lasts."""
    pools = (
        Pool(url, settings, size=settings.pool_size),
        Pool(url, settings, size=max(1, settings.pool_size // 2)),
        Pool(url, settings, size=2),
        Pool(
            url,
            settings,
            size=settings.batch_connections,
            lock_timeout_seconds=settings.batch_lock_timeout_seconds,
        ),
    )
    try:
        for pool in pools:
            await pool.connect()
        yield Database(*pools)
    finally:
        for pool in pools:
            await pool.disconnect()


@asynccontextmanager
async def listening(settings: Settings, url: str) -> AsyncIterator[Connection]:
    """One connection under the service's role that may LISTEN; closed at the end, with whatever it heard to.

    Raises ServiceUnavailable when it cannot be made.
    """
    session = _session(settings, settings.lock_timeout_seconds)
    database = databases.Database(
        url,
        min_size=1,
        max_size=1,
        server_settings=session,
        command_timeout=settings.statement_timeout_seconds + 5,
    )
    try:
        await database.connect()
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise errors.ServiceUnavailable from error
    try:
        async with database.connection() as holder:
            connection = holder.raw_connection
            try:
                yield connection
            finally:
                if is_open(connection):
                    connection.terminate()  # a pool would warn of what still listens
    finally:
        await database.disconnect()


@asynccontextmanager
async def owner_connection(url: str) -> AsyncIterator[Connection]:
    """One connection under the URL's own role, in autocommit: for the operator, not for requests.

    Raises UnreachableDatabase.
    """
    database = databases.Database(url, min_size=1, max_size=1)
    try:
        await database.connect()
    except (OSError, asyncpg.PostgresError) as error:
        raise UnreachableDatabase(f"Cannot connect to the database: {error}") from error
    try:
        async with database.connection() as holder:
            yield holder.raw_connection
    finally:
        await database.disconnect()


@asynccontextmanager
async def owner_transaction(url: str) -> AsyncIterator[Connection]:
    """The same in one transaction."""
    async with owner_connection(url) as connection, connection.transaction():
        yield connection
