"""Endpoints of bulk jobs and their statuses."""

from starlette.responses import Response

from upsert_svc.api import responses
from upsert_svc.api.requests import Call, comma_separated, page_request
from upsert_svc.errors import BadRequest
from upsert_svc.jobs import job_body
from upsert_svc.jobs.job_body import JobRequest
from upsert_svc.jobs.job_store import JobStatus


async def create(call: Call) -> Response:
    job_request, ignored = await _job_request(call)
    item = await call.service.jobs.create(call.principal, call.path("key"), job_request)
    return _answer(call, item, 201, ignored)


async def _job_request(call: Call) -> tuple[JobRequest, list[str]]:
    raw = await call.raw_body()
    limit = call.service.settings.body_limit_bytes
    return await job_body.parse(raw, lambda: call.turn(raw), item_limit_bytes=limit)


async def show(call: Call) -> Response:
    return _answer(call, await call.service.jobs.show(call.principal, call.path("job")))


async def show_of_object(call: Call) -> Response:
    item = await call.service.jobs.show(call.principal, call.path("job"), call.path("key"))
    return _answer(call, item)


async def show_many(call: Call) -> Response:
    job_ids = comma_separated(call.query, "ids")
    if not job_ids:
        raise BadRequest("ids is needed in the query: ids of jobs, separated by commas")
    items = await call.service.jobs.show_many(call.principal, job_ids)
    return responses.JsonResponse({"job_statuses": [responses.job_status(call, item) for item in items]})


async def listing(call: Call) -> Response:
    page = await call.service.jobs.page(call.principal, page_request(call.query))
    return responses.page(
        call, "job_statuses", page, [responses.job_status(call, item) for item in page.items]
    )


def _answer(call: Call, item: JobStatus, status: int = 200, ignored: list[str] | None = None) -> Response:
    headers = responses.warning(ignored or [])
    return responses.JsonResponse({"job_status": responses.job_status(call, item)}, status, headers)
