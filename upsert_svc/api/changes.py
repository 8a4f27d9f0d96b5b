"""Endpoints of what was written: the events of a record, and the incremental export of an object."""

from starlette.responses import Response

from upsert_svc.api import answers
from upsert_svc.api.calls import Call


async def events(call: Call) -> Response:
    listed = await call.service.changes.events(
        call.principal, call.path("key"), call.path("id"), call.service.cursors, call.query
    )
    return answers.page(call, "events", listed, [answers.event(item) for item in listed.items])


async def export(call: Call) -> Response:
    excludes_deleted = call.query.flag("filter[exclude_deleted]")
    page = await call.service.changes.exported(
        call.principal, call.path("key"), call.service.cursors, call.query, excludes_deleted=excludes_deleted
    )
    return answers.exported(call, page, excludes_deleted=excludes_deleted)
