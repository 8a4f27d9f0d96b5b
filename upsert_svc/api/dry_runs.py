"""Endpoints that write, behind `dry_run=true`: they answer as ever, and what they wrote is undone.

Refuses a deletion whose body asks for a dry run, which would be for good.
"""

from collections.abc import Awaitable
from dataclasses import replace

from starlette.responses import Response

from upsert_svc.api import request_body
from upsert_svc.api.requests import Call, Endpoint
from upsert_svc.payloads import may_name_dry_run, require_no_dry_run
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


def refusing_dry_run_in_body(endpoint: Endpoint) -> Endpoint:
    """The endpoint of a deletion; its body is of any kind, mostly absent, and looked at for nothing else."""

    def answered(call: Call) -> Awaitable[Response]:
        size = request_body.expected_bytes(call.headers, call.body_limit_bytes, of_any_kind=True)
        return _answered(endpoint, call) if size else endpoint(call)  # which waits for nothing

    return answered


async def _answered(endpoint: Endpoint, call: Call) -> Response:
    raw = await call.raw_body(of_any_kind=True)
    if may_name_dry_run(raw):
        await call.turn(raw)
        require_no_dry_run(raw)
    return await endpoint(replace(call, raw=raw))
