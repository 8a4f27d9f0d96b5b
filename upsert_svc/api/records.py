"""Endpoints of records; the upsert first."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from starlette.responses import Response

from upsert_svc.api import responses
from upsert_svc.api.conditions import conditions
from upsert_svc.api.dry_runs import undone_by_dry_run
from upsert_svc.api.parameters import would_choose
from upsert_svc.api.requests import Call, Query, comma_separated, missing_first, page_request
from upsert_svc.errors import BadRequest, PreconditionFailed, RecordInvalid, shortened
from upsert_svc.json_body import as_whole
from upsert_svc.payloads import external_id_problem, name_problem, record_patch
from upsert_svc.records.values import NEW, Identifier, Strategy, WriteRequest, WriteResult
from upsert_svc.search.planner import Criteria, Filter, RecordQuery, Words
from upsert_svc.search.relationship_filters import RelationshipFilter

_DYNAMIC_VALUE = re.compile(r"filter\[dynamic_values\]\[([^\]]+)\]")
_DYNAMIC_IDS = ("requester_id", "assignee_id", "organization_id")
_SEARCH_KEYS = ("filter", "page", "sort")
_PAGE = ("size", "after", "before")  # what the body of a search may say of it
_STRATEGIES: Mapping[str, Strategy] = {"": "force", "force": "force", "merge": "merge", "replace": "replace"}


async def upsert(call: Call) -> Response:
    return responses.written(call, await _patch(call, identified(call.query)))


async def create(call: Call) -> Response:
    dry_run = call.query.flag("dry_run")
    result = await call.service.records.write(
        change=WriteRequest(NEW, record_patch(await _sent(call)), is_dry_run=dry_run),
        principal=call.principal,
        object_key=call.path("key"),
    )
    return responses.written(call, result, 201)


async def update(call: Call) -> Response:
    return responses.written(call, await _patch(call, Identifier("record_id", call.path("id"))))


async def _sent(call: Call) -> Any:
    """The body of a write, which is not read where the write would be refused for want of room."""
    if call.raw is None:
        call.service.write_batcher.require_room(call.principal.account_id)
    return await call.json()


async def _patch(call: Call, identifier: Identifier) -> WriteResult:
    dry_run, asked = call.query.flag("dry_run"), conditions(call)
    # no name holds the values of the body: they are large, and a write may wait long
    return await call.service.records.write(
        change=WriteRequest(identifier, record_patch(await _sent(call)), None, asked, dry_run),
        principal=call.principal,
        object_key=call.path("key"),
    )


async def replace(call: Call) -> Response:
    return await _replace(call, Identifier("record_id", call.path("id")))


async def replace_identified(call: Call) -> Response:
    return await _replace(call, identified(call.query))


async def _replace(call: Call, identifier: Identifier) -> Response:
    strategy = _STRATEGIES.get(call.query.once("strategy"))
    if strategy is None:
        raise BadRequest("strategy must be force, merge or replace")
    dry_run, is_data_only = call.query.flag("dry_run"), call.query.flag("dataOnly")
    asked = conditions(call)
    result = await call.service.records.write(
        change=WriteRequest(
            identifier, record_patch(await _sent(call), empty_is_a_patch=False), strategy, asked, dry_run
        ),
        principal=call.principal,
        object_key=call.path("key"),
    )
    return responses.written(call, result, is_data_only=is_data_only)


async def show(call: Call) -> Response:
    asked = conditions(call)
    shown = await call.service.records.show(call.principal, call.path("key"), call.path("id"))
    if not asked.is_matched_by(shown.entity_tag):
        raise PreconditionFailed
    if asked.is_known(shown.entity_tag):
        return responses.not_modified(shown.entity_tag)
    return responses.shown(call, shown)


@undone_by_dry_run
async def delete(call: Call) -> Response:
    return await _delete(call, Identifier("record_id", call.path("id")))


@undone_by_dry_run
async def delete_identified(call: Call) -> Response:
    return await _delete(call, identified(call.query))


async def _delete(call: Call, identifier: Identifier) -> Response:
    await call.service.records.delete(call.principal, call.path("key"), identifier, conditions(call))
    return responses.no_content()


async def listing(call: Call) -> Response:
    return await _page(call, call.query)


async def search(call: Call) -> Response:
    query, criteria, ignored = _searched(await call.json(), call.query)
    response = await _page(call, query, criteria, is_counted=True)
    response.headers.update(responses.warning(ignored))
    return response


async def search_words(call: Call) -> Response:
    return await _page(call, call.query, Words(call.query.get("query", "")), is_counted=True)


async def autocomplete(call: Call) -> Response:
    named = {"name": {"$contains": call.query.get("name", "")}}
    return await _page(call, call.query, Filter(named, await _relationship(call)), is_counted=True)


async def _relationship(call: Call) -> RelationshipFilter | None:
    """The filter of the lookup field that a completion is for; None where the query names none of ours."""
    query = call.query
    field, source = query.get("field_id", ""), query.get("source", "")
    if not field or not source:
        return None
    conditions = await call.service.object_fields.relationship_filter(
        call.principal, source.lower(), field, call.path("key")
    )
    return None if conditions is None else RelationshipFilter(conditions, _dynamic_values(query))


def _dynamic_values(query: Query) -> Mapping[str, str]:
    """What the query says of values that conditions leave open: `filter[dynamic_values][NAME]`, and ids."""
    values = {name: query[name] for name in _DYNAMIC_IDS if name in query}
    values |= {f"ticket_{name}": value for name, value in values.items()}
    for name, value in query.items():
        if (named := _DYNAMIC_VALUE.fullmatch(name)) is not None:
            values[named[1]] = value
    return values


async def _page(
    call: Call, query: Mapping[str, str], criteria: Criteria = None, *, is_counted: bool = False
) -> Response:
    async with missing_first(call.require_object):
        asked = RecordQuery(criteria, sort=query.get("sort", ""))
        asked.order()  # a wrong sort is refused before a wrong page
        request = page_request(query)
        if not isinstance(criteria, Words):
            ids, external_ids = _chosen(call.query)
            asked = dataclasses.replace(asked, ids=ids, external_ids=external_ids)
    page = await call.service.search.page(call.principal, call.path("key"), request, asked)
    return responses.page(
        call, "custom_object_records", page, responses.records(call, page.items), query, is_counted=is_counted
    )


def _chosen(query: Query) -> Sequence[list[str] | None]:
    """The ids and the external_ids that the query names, None where it names none. Raises BadRequest."""
    names = ("filter[ids]", "filter[external_ids]")
    return [comma_separated({name: query.once(name)}, name) for name in names]


def _searched(body: Any, query: Query) -> tuple[Mapping[str, str], Filter, list[str]]:
    """The query of a search, to which its body may add page and sort, the filter, and what is ignored."""
    if not isinstance(body, dict) or body.get("filter") is None:
        raise BadRequest("The body must be a JSON object with the key filter")
    page = {} if body.get("page") is None else body["page"]
    if not isinstance(page, dict):
        raise BadRequest("page must be a JSON object")
    unknown = {name: value for name, value in body.items() if name not in _SEARCH_KEYS}
    unknown |= {f"page.{name}": value for name, value in page.items() if name not in _PAGE}
    _require_harmless(unknown)
    unknown.pop("page.number", None)  # which is null: some clients send it so
    added = {f"page[{name}]": as_whole(page.get(name)) for name in _PAGE}
    added["sort"] = body.get("sort")
    if not all(value is None or type(value) in (str, int) for value in added.values()):
        raise BadRequest("page and sort must be numbers or text")
    asked = {name: str(value) for name, value in added.items() if value is not None}
    asked |= {name: value for name, value in query.items() if value}
    return asked, Filter(body["filter"]), list(unknown)


def _require_harmless(unknown: Mapping[str, Any]) -> None:
    """Raises BadRequest for a key by which somebody means to choose records, or to go on."""
    for name, value in unknown.items():
        where = None if value in (None, "") else would_choose(name)
        if where is not None:
            raise BadRequest(f"{shortened(name)} is not taken in the body: {where}")


async def count(call: Call) -> Response:
    async with missing_first(call.require_object):
        ids, external_ids = _chosen(call.query)
    key = call.path("key")
    if ids is None and external_ids is None:
        value = await call.service.records.count(call.principal, key)
    else:
        value = await call.service.search.count(call.principal, key, ids, external_ids)
    return responses.JsonResponse({"count": {"value": value, "refreshed_at": datetime.now(UTC)}})


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
