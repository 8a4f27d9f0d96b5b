"""Endpoints of records; the upsert first."""

from datetime import UTC, datetime

from starlette.responses import Response

from upsert_svc.api import answers
from upsert_svc.api.calls import Call, Query
from upsert_svc.bodies import external_id_problem, name_problem, record_patch
from upsert_svc.errors import BadRequest, RecordInvalid
from upsert_svc.records import Identifier


async def upsert(call: Call) -> Response:
    identifier = identified(call.query)
    dry_run = call.query.flag("dry_run")
    patch = record_patch(await call.json())
    result = await call.service.records.upsert(
        call.principal, call.path("key"), identifier, patch, dry_run=dry_run
    )
    return answers.written(call, result)


async def create(call: Call) -> Response:
    dry_run = call.query.flag("dry_run")
    patch = record_patch(await call.json())
    result = await call.service.records.create(call.principal, call.path("key"), patch, dry_run=dry_run)
    return answers.written(call, result, 201)


async def update(call: Call) -> Response:
    dry_run = call.query.flag("dry_run")
    patch = record_patch(await call.json())
    result = await call.service.records.update(
        call.principal, call.path("key"), call.path("id"), patch, dry_run=dry_run
    )
    return answers.written(call, result)


async def show(call: Call) -> Response:
    record = await call.service.records.show(call.principal, call.path("key"), call.path("id"))
    return answers.JsonResponse({"custom_object_record": answers.record(call, record)})


async def delete(call: Call) -> Response:
    await call.service.records.delete(
        call.principal, call.path("key"), Identifier("record_id", call.path("id"))
    )
    return answers.no_content()


async def delete_identified(call: Call) -> Response:
    await call.service.records.delete(call.principal, call.path("key"), identified(call.query))
    return answers.no_content()


async def listing(call: Call) -> Response:
    listed = await call.service.records.page(
        call.principal, call.path("key"), call.service.cursors, call.query
    )
    return answers.page(call, "custom_object_records", listed, answers.records(call, listed.items))


async def count(call: Call) -> Response:
    value = await call.service.records.count(call.principal, call.path("key"))
    return answers.JsonResponse({"count": {"value": value, "refreshed_at": datetime.now(UTC)}})


def identified(query: Query) -> Identifier:
    """The one identifier of the query; an empty one counts as absent, because generated clients send both.

    Raises BadRequest for none, both, or one given twice; RecordInvalid for one no record can have.
    """
    external_id, name = query.once("external_id"), query.once("name")
    if external_id and name:
        raise BadRequest("external_id and name cannot be used together")
    if external_id:
        if problem := external_id_problem(external_id):
            raise RecordInvalid({"external_id": [problem]})
        return Identifier("external_id", external_id)
    if name:
        if problem := name_problem(name):
            raise RecordInvalid({"name": [problem]})
        return Identifier("name", name)
    raise BadRequest("Either external_id or name is needed in the query")
