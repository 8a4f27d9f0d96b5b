"""Endpoints of custom objects and their limits."""

from starlette.responses import Response

from upsert_svc.api import responses
from upsert_svc.api.dry_runs import undone_by_dry_run
from upsert_svc.api.requests import Call, page_request
from upsert_svc.definitions.objects import CustomObject
from upsert_svc.payloads import ObjectBody, read, unwrap

WRAPPER = "custom_object"


async def listing(call: Call) -> Response:
    page = await call.service.objects.page(call.principal, page_request(call.query))
    resources = [responses.custom_object(call, item) for item in page.items]
    return responses.page(call, "custom_objects", page, resources)


@undone_by_dry_run
async def create(call: Call) -> Response:
    body, ignored = await _body(call)
    item = await call.service.objects.create(call.principal, body)
    return _answer(call, item, ignored, 201)


async def show(call: Call) -> Response:
    return _answer(call, await call.service.objects.show(call.principal, call.path("key")), [])


@undone_by_dry_run
async def update(call: Call) -> Response:
    body, ignored = await _body(call)
    if body.key is not None and body.key != call.path("key"):
        ignored.append("key")
    item = await call.service.objects.update(call.principal, call.path("key"), body)
    return _answer(call, item, ignored)


@undone_by_dry_run
async def delete(call: Call) -> Response:
    await call.service.objects.delete(call.principal, call.path("key"))
    return responses.no_content()


async def object_limit(call: Call) -> Response:
    return responses.usage(await call.service.objects.object_usage(call.principal))


async def record_limit(call: Call) -> Response:
    return responses.usage(await call.service.objects.record_usage(call.principal))


async def _body(call: Call) -> tuple[ObjectBody, list[str]]:
    attributes, beside = unwrap(await call.json(), WRAPPER)
    body, unknown = read(ObjectBody, attributes)
    return body, [*beside, *unknown]


def _answer(call: Call, item: CustomObject, ignored: list[str], status: int = 200) -> Response:
    return responses.JsonResponse(
        {WRAPPER: responses.custom_object(call, item)}, status, responses.warning(ignored)
    )
