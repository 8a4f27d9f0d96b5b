"""The endpoint of users: who the caller is."""

from starlette.responses import Response

from upsert_svc.accounts import tokens
from upsert_svc.api import responses
from upsert_svc.api.requests import Call


async def me(call: Call) -> Response:
    async with call.service.database.main.connection() as connection:
        created_at = await tokens.user_created_at(connection, call.principal)
    return responses.JsonResponse({"user": responses.user(call, call.principal, created_at)})
