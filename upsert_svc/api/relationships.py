"""The endpoint of lookups the other way round: who points to a record."""

from starlette.responses import Response

from upsert_svc.api import responses
from upsert_svc.api.requests import Call, missing_first, page_request
from upsert_svc.definitions.field_types import custom_object_of
from upsert_svc.search import page_query
from upsert_svc.search.relationships import ORDERS


async def sources(call: Call) -> Response:
    relationship, sort = call.relationship(), call.query.get("sort", "")
    async with missing_first(call.require_relationship):
        page_query.order_named(sort, ORDERS)  # a wrong sort is refused before a wrong page
        request = page_request(call.query)
    page = await call.service.relationships.sources(call.principal, relationship, request, sort)
    resources = responses.records(call, page.items, custom_object_of(relationship.source_type))
    return responses.page(call, "custom_object_records", page, resources)
