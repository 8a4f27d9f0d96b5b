"""Endpoints that write, behind `dry_run=true`: they answer as ever, and what they wrote is undone."""

from collections.abc import Awaitable
from dataclasses import replace

from starlette.responses import Response

from upsert_svc.api.requests import Call, Endpoint
from upsert_svc.service import Service


def undone_by_dry_run(endpoint: Endpoint) -> Endpoint:
    """The endpoint, which takes part in a transaction that is rolled back where it is asked for a dry run."""

    def answered(call: Call) -> Awaitable[Response]:
        return _undone(endpoint, call) if call.query.flag("dry_run") else endpoint(call)

    return answered


async def _undone(endpoint: Endpoint, call: Call) -> Response:
    is_deletion = call.scope["method"] == "DELETE"  # which does not look at its body
    raw = b"" if is_deletion else await call.raw_body()

    def perform(service: Service) -> Awaitable[Response]:
        return endpoint(replace(call, service=service, raw=raw))

    return await call.service.tried(perform)
