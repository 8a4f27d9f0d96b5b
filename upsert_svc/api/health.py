"""Whether the process lives, and whether it can do its work. Open to everyone."""

from collections.abc import Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope

from upsert_svc.api.requests import Handler
from upsert_svc.api.responses import JsonResponse
from upsert_svc.errors import ServiceUnavailable


async def alive(_scope: Scope, _receive: Receive) -> Response:
    """Answers while the process lives."""
    return JsonResponse({"status": "ok"})


async def ready(scope: Scope, _receive: Receive) -> Response:
    """Answers while the database does; 503 otherwise, and once the service is to stop."""
    if scope["app"].state.is_stopping:
        raise ServiceUnavailable("The service is stopping")
    async with scope["app"].state.service.database.lookups.connection() as connection:
        await connection.execute("select 1")
    return JsonResponse({"status": "ok"})


ENDPOINTS: Mapping[str, Handler] = {"/healthz": alive, "/readyz": ready}
