"""What answers here, whether the process lives, and whether it can do its work. Open to everyone."""

from collections.abc import Mapping
from importlib.metadata import version

from starlette.responses import Response
from starlette.types import Receive, Scope

from upsert_svc.api.requests import Handler
from upsert_svc.api.responses import JsonResponse
from upsert_svc.errors import ServiceUnavailable

_ABOUT = {
    "name": "upsert-svc",
    "version": version("upsert_svc"),
    "api": "/api/v2/custom_objects",
    "documentation": "docs/api.md of the source, README.md to begin with",
}


async def about(_scope: Scope, _receive: Receive) -> Response:
    """Answers who looks at the bare address, with a browser as a rule."""
    return JsonResponse(_ABOUT)


async def alive(_scope: Scope, _receive: Receive) -> Response:
    """Answers while the process lives. One that cannot hope to do its work again ends by itself."""
    return JsonResponse({"status": "ok"})


async def ready(scope: Scope, _receive: Receive) -> Response:
    """Answers while the database can be written; 503 with the reason otherwise, and once it is to stop."""
    if scope["app"].state.is_stopping:
        raise ServiceUnavailable("The service is stopping")
    await scope["app"].state.readiness.check()
    return JsonResponse({"status": "ok"})


ENDPOINTS: Mapping[str, Handler] = {"/": about, "/healthz": alive, "/readyz": ready}
