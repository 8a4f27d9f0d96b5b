"""The connections to PostgreSQL: bounded waiting, transactions, and the retry of what may be retried.

`databases` keeps the pools; statements and transactions run on the raw asyncpg connection, because
`databases` loses a pool slot for good when a COMMIT of its own fails or is cancelled.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import asyncpg
import databases

from upsert_svc import errors
from upsert_svc.database_urls import beside_the_address
from upsert_svc.db.connections import ServiceConnection
from upsert_svc.db.outages import outages
from upsert_svc.mistakes import Mistake, first_line
from upsert_svc.settings import Settings
from upsert_svc.turns import CALLER, Turns

Result = TypeVar("Result")
Row = Any  # of the driver: a mapping of its columns, and a sequence of their values

SERVICE_ROLE = "upsert_svc"
_ATTEMPTS = 4
# The database ends a statement itself. One that it has not ended so long after its time hangs.
_HUNG_AFTER_SECONDS = 2.0
_CONNECT_SECONDS = 5.0
_DISCONNECT_SECONDS = 3.0
_CHANGES_AT_A_TIME = 4  # of definitions; half of them of an account


class UnreachableDatabase(Mistake):
    """No connection could be made; the message says why, for the operator."""

    def __init__(self, error: Exception) -> None:
        reason = first_line(error) or "it does not answer in time"
        super().__init__(f"Cannot connect to the database: {reason}")


# of a connection that cannot be made: the last is a certificate, a host or a mode of TLS that is none
_UNREACHABLE = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError)


def _of(url: str, **options: Any) -> databases.Database:
    """The pool of a URL. `databases` takes the address from it, and the driver all else that it says."""
    return databases.Database(url, dsn=beside_the_address(url), **options)


class Connection(Protocol):
    """What the core does with a connection: a statement and its arguments at a time (see `Statement`)."""

    async def fetch(self, *statement: object) -> list[Any]: ...
    async def fetchrow(self, *statement: object) -> Any: ...
    async def fetchval(self, *statement: object) -> Any: ...
    async def execute(self, *statement: object) -> str: ...
    def transaction(self) -> Any: ...
    def is_closed(self) -> bool: ...
    def get_server_version(self) -> Any: ...


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


class Readers(Protocol):
    """Where a read takes a connection from."""

    def connection(self) -> AbstractAsyncContextManager[Connection]: ...


class Changing(Protocol):
    """What gives transactions."""

    def transaction(self) -> AbstractAsyncContextManager[Connection]: ...


class Connections(Readers, Changing, Protocol):
    """Where the core takes connections from."""

    def acquired(self) -> AbstractAsyncContextManager[Connection]: ...
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
    """Connections of one kind, which accounts take in turn (see `turns`).

    An account cannot hold `reserved` of them. Whoever finds none in time is refused, and may come back: 503.
    """

    def __init__(
        self,
        url: str,
        settings: Settings,
        *,
        size: int,
        reserved: int = 0,
        lock_timeout_seconds: float | None = None,
        statement_timeout_seconds: float | None = None,
    ) -> None:
        seconds = statement_timeout_seconds or settings.statement_timeout_seconds
        self._database = _of(
            url,
            min_size=1,
            max_size=size,
            connection_class=ServiceConnection,
            server_settings=_session(settings, lock_timeout_seconds or settings.lock_timeout_seconds)
            | {"statement_timeout": f"{seconds * 1000:.0f}"},
            command_timeout=seconds + _HUNG_AFTER_SECONDS,
            timeout=_CONNECT_SECONDS,
            init=_note_made,
        )
        self._acquire_seconds = settings.acquire_timeout_seconds
        self._turns = Turns(size, most=size - reserved, waiting_limit=settings.pool_waiters)

    async def connect(self) -> None:
        await self._database.connect()

    async def disconnect(self) -> None:
        """Closes all connections, those that are not given back in time by force."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DISCONNECT_SECONDS):
                await self._database.disconnect()

    async def __aenter__(self) -> "Pool":
        """Raises ServiceUnavailable when no connection can be made."""
        try:
            await self.connect()
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            outages.begin(error)
            raise errors.ServiceUnavailable from error
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.disconnect()

    @asynccontextmanager
    async def acquired(self) -> AsyncIterator[Connection]:
        """A connection in autocommit, for those who handle PostgreSQL's errors. Raises ServiceUnavailable."""
        account_id = CALLER.get()
        holder = await self._acquire(account_id)
        connection = holder.raw_connection
        try:
            yield connection
        except asyncpg.InternalClientError:  # out of step with the database: nobody is to get it again
            connection.terminate()
            raise
        finally:
            try:
                await holder.__aexit__()
            finally:
                self._turns.give_back(account_id)

    async def _acquire(self, account_id: int) -> Any:
        """A connection of `databases`, and a slot of the account's for it. Raises ServiceUnavailable."""
        holder = self._database.connection()
        try:
            async with asyncio.timeout(self._acquire_seconds):
                await self._turns.take(account_id)
                try:
                    return await holder.__aenter__()
                except BaseException:
                    self._turns.give_back(account_id)
                    raise
        except TimeoutError:
            raise errors.ServiceUnavailable("The database had no connection free in time") from None
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:  # none could be made
            outages.begin(error)
            raise errors.ServiceUnavailable from error

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


async def _note_made(_connection: Connection) -> None:
    outages.end()


class Share:
    """Some of a pool's connections, for work of a kind that would take all of them, by accounts in turn."""

    def __init__(self, pool: Pool, settings: Settings, *, size: int) -> None:
        self._pool = pool
        self._seconds = settings.acquire_timeout_seconds
        self._turns = Turns(size, most=max(1, size // 2), waiting_limit=settings.pool_waiters)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection in autocommit. Raises ServiceUnavailable."""
        account_id = CALLER.get()
        try:
            async with asyncio.timeout(self._seconds):
                await self._turns.take(account_id)
        except TimeoutError:
            raise errors.ServiceUnavailable("Too many requests of this kind are under way") from None
        try:
            async with self._pool.connection() as connection:
                yield connection
        finally:
            self._turns.give_back(account_id)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection inside one transaction. Raises ServiceUnavailable."""
        async with self.connection() as connection, connection.transaction():
            yield connection


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

    Of the main connections searches by documents and exports have some at most, and so have `scans`, which
    read all records of an object, and changes of definitions, which wait for each other: the others stay free
    for what takes no time.
    """

    main: Connections
    idempotent: Pool
    lookups: Pool
    batches: Pool
    searches: Readers
    scans: Readers
    changes: Changing

    def pinned(self, connection: Connection) -> "Database":
        """The same, but what reads and writes takes part in the connection's transaction."""
        pinned = Pinned(connection)
        return replace(self, main=pinned, searches=pinned, scans=pinned, changes=pinned)


@asynccontextmanager
async def connected(settings: Settings, url: str) -> AsyncIterator[Database]:
    """The pools, for as long as the block lasts. Raises UnreachableDatabase."""
    size, half = settings.pool_size, max(1, settings.pool_size // 2)
    main = Pool(url, settings, size=size, reserved=size // 4)
    idempotent = Pool(url, settings, size=half, reserved=half // 4)
    # Whoever is told nothing for long does not know that the database hangs; a lookup takes no time.
    brief = min(settings.statement_timeout_seconds, settings.acquire_timeout_seconds)
    lookups = Pool(url, settings, size=2, statement_timeout_seconds=brief)
    batches = Pool(
        url,
        settings,
        size=settings.batch_connections,
        lock_timeout_seconds=settings.batch_lock_timeout_seconds,
    )
    pools = (main, idempotent, lookups, batches)
    searches = Share(main, settings, size=half)
    scans = Share(main, settings, size=settings.search_connections)
    changes = Share(main, settings, size=_CHANGES_AT_A_TIME)
    try:
        try:
            for pool in pools:
                await pool.connect()
        except _UNREACHABLE as error:
            raise UnreachableDatabase(error) from error
        yield Database(*pools, searches, scans, changes)
    finally:
        await asyncio.gather(*(pool.disconnect() for pool in pools))


@asynccontextmanager
async def listening(settings: Settings, url: str) -> AsyncIterator[Connection]:
    """One connection under the service's role that may LISTEN; closed at the end, with whatever it heard to.

    Raises ServiceUnavailable when it cannot be made.
    """
    session = _session(settings, settings.lock_timeout_seconds)
    database = _of(
        url,
        min_size=1,
        max_size=1,
        server_settings=session,
        command_timeout=settings.statement_timeout_seconds + _HUNG_AFTER_SECONDS,
        connection_class=ServiceConnection,
        timeout=_CONNECT_SECONDS,
        init=_note_made,
    )
    try:
        await database.connect()
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        outages.begin(error)
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
    database = _of(url, min_size=1, max_size=1)
    try:
        await database.connect()
    except _UNREACHABLE as error:
        raise UnreachableDatabase(error) from error
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
