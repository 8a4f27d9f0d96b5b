"""Whether the process lives, and whether it can do its work. Open to everyone."""

from starlette.requests import Request
from starlette.responses import Response

from upsert_svc.api.answers import json_response


async def alive(_request: Request) -> Response:
    """Answers while the process lives."""
    return json_response({"status": "ok"})


async def ready(request: Request) -> Response:
    """Answers while the database does; 503 otherwise."""
    async with request.app.state.service.database.lookups.connection() as connection:
        await connection.execute("select 1")
    return json_response({"status": "ok"})
