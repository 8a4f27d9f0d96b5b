"""The endpoint of lookups the other way round: who points to a record."""

from starlette.responses import Response

from upsert_svc.api import responses
from upsert_svc.api.requests import Call, missing_first, page_request
from upsert_svc.definitions.field_types import custom_object_of
from upsert_svc.search import page_query
from upsert_svc.search.relationships import ORDERS, Relationship


async def sources(call: Call) -> Response:
    # keys of objects are taken in any case, as in every path
    source_type = call.path("source_type").lower()
    relationship = Relationship(
        call.path("target_type").lower(), call.path("target"), call.path("lookup"), source_type
    )
    relationships, sort = call.service.relationships, call.query.get("sort", "")
    async with missing_first(lambda: relationships.require(call.principal, relationship)):
        page_query.order_named(sort, ORDERS)  # a wrong sort is refused before a wrong page
        request = page_request(call.query)
    page = await relationships.sources(call.principal, relationship, request, sort)
    resources = responses.records(call, page.items, custom_object_of(source_type))
    return responses.page(call, "custom_object_records", page, resources)
