"""Endpoints of bulk jobs and their statuses."""

from starlette.responses import Response

from upsert_svc import jobs
from upsert_svc.api import answers
from upsert_svc.api.calls import Call
from upsert_svc.errors import BadRequest
from upsert_svc.jobs import JobStatus
from upsert_svc.listing import chosen


async def create(call: Call) -> Response:
    order, ignored = jobs.ordered(await call.json())
    item = await call.service.jobs.create(call.principal, call.path("key"), order)
    return _answer(call, item, 201, ignored)


async def show(call: Call) -> Response:
    return _answer(call, await call.service.jobs.show(call.principal, call.path("job")))


async def show_of_object(call: Call) -> Response:
    item = await call.service.jobs.show(call.principal, call.path("job"), call.path("key"))
    return _answer(call, item)


async def show_many(call: Call) -> Response:
    job_ids = chosen(call.query, "ids")
    if not job_ids:
        raise BadRequest("ids is needed in the query: ids of jobs, separated by commas")
    items = await call.service.jobs.show_many(call.principal, job_ids)
    return answers.JsonResponse({"job_statuses": [answers.job_status(call, item) for item in items]})


async def listing(call: Call) -> Response:
    listed = await call.service.jobs.page(call.principal, call.service.cursors, call.query)
    resources = [answers.job_status(call, item) for item in listed.items]
    return answers.page(call, "job_statuses", listed, resources)


def _answer(call: Call, item: JobStatus, status: int = 200, ignored: list[str] | None = None) -> Response:
    headers = answers.warning(ignored or [])
    return answers.JsonResponse({"job_status": answers.job_status(call, item)}, status, headers)
