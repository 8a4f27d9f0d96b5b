"""Endpoints that write, behind the header Idempotency-Key: what was answered once is answered again.

A dry run writes nothing, so its key is left alone. Refuses a key that is empty, too long or not plain text.
"""

import hashlib
import re
from collections.abc import Awaitable
from dataclasses import replace

from starlette.responses import Response

from upsert_svc import idempotency
from upsert_svc.api.requests import Call, Endpoint
from upsert_svc.asgi import JSON_TYPE
from upsert_svc.errors import BadRequest
from upsert_svc.idempotency import Answer, IdempotentRequest
from upsert_svc.service import Service

_HEADER = b"idempotency-key"
_EARLIER_TYPE = (b"content-type", b"application/json")  # of answers that a version before kept
_KEY = re.compile(rb"[\x20-\x7e]{1,255}")


def once_per_key(endpoint: Endpoint, *, has_dry_run: bool) -> Endpoint:
    """The endpoint, which answers a request that is sent again with its key as it did the first time."""

    def answered(call: Call) -> Awaitable[Response]:
        if _HEADER not in call.headers:
            return endpoint(call)  # and nothing was paid
        key = call.headers[_HEADER]
        if len({value for name, value in call.scope["headers"] if name == _HEADER}) > 1:
            raise BadRequest("Idempotency-Key is given twice, with different values")
        if not _KEY.fullmatch(key):
            raise BadRequest("Idempotency-Key must be 1 to 255 printable ASCII characters")
        if has_dry_run and call.query.flag("dry_run"):
            return endpoint(call)
        return _answered_once(endpoint, call, key)

    return answered


async def _answered_once(endpoint: Endpoint, call: Call, key: bytes) -> Response:
    # a deletion does not look at its body, which tells it from another all the same
    raw = await call.raw_body(of_any_kind=call.scope["method"] == "DELETE")

    async def perform(service: Service) -> Answer:
        response = await endpoint(replace(call, service=service, raw=raw))
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in response.raw_headers]
        return Answer(response.status_code, headers, bytes(response.body))

    answer, is_replay = await call.service.once(_request(call, key, raw), perform)
    response = Response(answer.body, answer.status)
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
    response.raw_headers = [
        *((name, JSON_TYPE) if (name, value) == _EARLIER_TYPE else (name, value) for name, value in headers),
        (b"x-idempotency-lookup", b"hit" if is_replay else b"miss"),
    ]
    return response


def _request(call: Call, key: bytes, raw: bytes) -> IdempotentRequest:
    """The request by what must be the same when it is sent again.

    Its path is as the route reads it, for the key of an object may be in any case.
    """
    scope = call.scope
    method, query = scope["method"].encode(), scope["query_string"]
    path = scope["route"].path_format.format_map(scope["path_params"]).encode()
    all_parts = (method, scope["path"].encode(), query, raw)
    return IdempotentRequest(
        call.principal.account_id,
        key.decode("ascii"),
        idempotency.hashes_of(method, path, query, raw),
        lambda: hashlib.sha256(b"\0".join(all_parts)).digest(),
    )
