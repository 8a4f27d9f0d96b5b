"""The composition root: settings → database → service → routes, and the life of the process around them."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from upsert_svc import logs, purge
from upsert_svc.accounts import tokens
from upsert_svc.accounts.rate_limits import RateLimits
from upsert_svc.api import responses
from upsert_svc.api.middleware import FastRouter, Middleware
from upsert_svc.api.rate_limits import Limiter
from upsert_svc.api.routes import routes
from upsert_svc.db.pools import Database, connected
from upsert_svc.errors import InternalServerError, InvalidEndpoint, ServiceError
from upsert_svc.http import limits
from upsert_svc.jobs import worker
from upsert_svc.migrations import CURSOR_KEY
from upsert_svc.mistakes import Mistake, first_line
from upsert_svc.readiness import Readiness
from upsert_svc.search import backfill
from upsert_svc.service import compose
from upsert_svc.settings import Settings
from upsert_svc.watchdog import Watchdog

# as what it is no endpoint: an empty id behind it must not become a request for all
_WITH_A_SLASH = "Not found: no path of the API ends with a slash"
_NOT_MIGRATED = "The database is not as this version needs it"
_NEW_OBJECTS = 10_000  # before the collector looks for cycles among them


class NotMigrated(Mistake):
    """The database does not answer what the application asks for at its start."""


def serving() -> Middleware:
    """The application of a process that serves it alone: set from the environment, with a log."""
    logs.configure()
    return create()


def create(settings: Settings | None = None) -> Middleware:
    """The ASGI application. The database must be migrated, and its URL be set."""
    settings = settings or Settings()
    if (url := settings.service_url) is None:
        raise Mistake("UPSERT_SVC_DATABASE_URL is not set; `upsert-svc serve` starts an embedded PostgreSQL")

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        async with connected(settings, url) as database:
            service = compose(settings, database, await _cursor_key(settings, database))
            service.write_batcher.start()
            app.state.service = service
            app.state.readiness = Readiness(database.lookups)
            app.state.watchdog = Watchdog()
            background = [asyncio.create_task(work.run(database.main)) for work in (purge, backfill)]
            background.append(asyncio.create_task(app.state.watchdog.run()))
            working = worker.running(settings, url, service.definitions)
            _spare_the_collector()
            try:
                async with working if settings.run_jobs else contextlib.nullcontext():
                    yield {limits.STATE: limits.of(settings)}
            finally:
                for task in background:
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await task
                await service.write_batcher.stop()

    table = routes()
    app = Starlette(
        routes=[route for route, _ in table],
        lifespan=lifespan,
        exception_handlers={ServiceError: _service_error, HTTPException: _http_exception, Exception: _bug},
    )
    app.router.redirect_slashes = False
    return Middleware(app, FastRouter(table), _limiter(settings), log_requests=settings.log_requests)


def _limiter(settings: Settings) -> Limiter | None:
    """None where no limit is set, so that nothing is paid for it."""
    account, token = settings.rate_limit_account, settings.rate_limit_token
    return Limiter(RateLimits(account, token)) if account or token else None


def _spare_the_collector() -> None:
    """Exempts what stands at the start: going through it kept all requests waiting for 60 ms at a time.

    The requests of a moment are more objects than would have it look for cycles, of which they make none:
    that took 4 % of the time of an upsert.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, *gc.get_threshold()[1:])


async def _cursor_key(settings: Settings, database: Database) -> bytes:
    if settings.secret_key is not None:
        return settings.secret_key.get_secret_value().encode()
    try:
        async with database.lookups.connection() as connection:
            return await tokens.find_key(connection, CURSOR_KEY)
    except Exception as error:
        reason = error.__cause__ or error
        if not isinstance(error, ServiceError) and not hasattr(error, "sqlstate"):
            raise
        raise NotMigrated(
            f"{_NOT_MIGRATED}: {first_line(reason)}; has `upsert-svc migrate` been run on it?"
        ) from error


async def _service_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)  # noqa: S101
    return responses.error_response(error)


async def _bug(_request: Request, _error: Exception) -> Response:
    return responses.error_response(InternalServerError())  # and the middleware logs it


async def _http_exception(request: Request, _error: Exception) -> Response:
    is_slash_left = request.url.path.endswith("/")
    return responses.error_response(InvalidEndpoint(_WITH_A_SLASH if is_slash_left else None))
