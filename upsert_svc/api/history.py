"""Endpoints of what was written: the events of a record, and the incremental export of an object."""

import time

from starlette.responses import Response

from upsert_svc.api import responses
from upsert_svc.api.requests import Call, missing_first, page_request, size_of
from upsert_svc.errors import BadRequest
from upsert_svc.records.history import EXPORT_SIZE_LIMIT, ExportRequest, is_newest_first


async def events(call: Call) -> Response:
    key, record_id, sort = call.path("key"), call.path("id"), call.query.get("sort", "")
    is_newest_first(sort)  # a wrong sort is refused before all else
    async with missing_first(lambda: call.service.records.show(call.principal, key, record_id)):
        request = page_request(call.query)
    page = await call.service.history.events(call.principal, key, record_id, request, sort)
    return responses.page(call, "events", page, [responses.event(item) for item in page.items])


async def export(call: Call) -> Response:
    request = await _export_request(call)
    page = await call.service.history.export(call.principal, call.path("key"), request)
    return responses.exported(call, page, excludes_deleted=request.excludes_deleted)


async def _export_request(call: Call) -> ExportRequest:
    """The changes that a query asks for: a cursor makes a start_time needless. Raises BadRequest."""
    query = call.query
    excludes_deleted = query.flag("filter[exclude_deleted]")
    size = size_of(query, "per_page", EXPORT_SIZE_LIMIT)
    cursor = query.get("cursor", "")
    async with missing_first(call.require_object):
        start_time = 0 if cursor else _start_time(query.get("start_time", ""))
    return ExportRequest(start_time, cursor, size, excludes_deleted)


def _start_time(text: str) -> int:
    seconds = int(text) if text.isdecimal() and text.isascii() and len(text) <= 11 else None
    if seconds is None:
        raise BadRequest("start_time, in seconds since 1970, or cursor is needed in the query")
    if seconds > time.time():
        raise BadRequest("start_time must not lie ahead")
    return seconds
