"""The route table: every path, and the operation of each of its methods."""

from collections.abc import Mapping
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from upsert_svc.api import (
    fields,
    health,
    history,
    jobs,
    many_records,
    objects,
    records,
    relationships,
    users,
)
from upsert_svc.api.dry_runs import refusing_dry_run_in_body
from upsert_svc.api.idempotency import once_per_key
from upsert_svc.api.parameters import (
    CONDITIONS,
    CREATION,
    DRY_RUN,
    EXPORT,
    FILTERS,
    IDENTIFIERS,
    PAGES,
    REPLACING,
    SORT,
    Terms,
    on_terms,
)
from upsert_svc.api.requests import Endpoint, Handler, as_handler
from upsert_svc.errors import MethodNotAllowed

ROOT = "/api/v2/custom_objects"
OBJECT = f"{ROOT}/{{key}}"
JOB_STATUSES = "/api/v2/job_statuses"


@dataclass(frozen=True)
class Operation:
    """What one method of a path does, and on what terms."""

    endpoint: Endpoint
    admin: bool = False  # for admins only
    bulk: bool = False  # takes many things at once, in a larger body
    streams: bool = False  # is many writes, each of which can be sent again: an Idempotency-Key is refused
    reads: bool = False  # writes nothing, so that an Idempotency-Key is left alone
    pages: bool = False  # answers with many things, so that there must be memory for them
    lists_records: bool = False  # a query could choose among records, and must not be misread
    chosen_by: str = ""  # where else things of this list are answered by their ids
    takes: frozenset[str] = frozenset()  # of parameters and headers; some of them are refused elsewhere


# path → method → operation; the first path that fits decides, and the busiest stand first
TABLE: Mapping[str, Mapping[str, Operation]] = {
    f"{OBJECT}/records": {
        "PATCH": Operation(records.upsert, takes=IDENTIFIERS | DRY_RUN | CONDITIONS),
        "PUT": Operation(records.replace_identified, takes=IDENTIFIERS | DRY_RUN | CONDITIONS | REPLACING),
        "GET": Operation(
            records.listing, reads=True, pages=True, lists_records=True, takes=FILTERS | PAGES | SORT
        ),
        "POST": Operation(records.create, takes=DRY_RUN | CREATION),
        "DELETE": Operation(records.delete_identified, takes=IDENTIFIERS | DRY_RUN | CONDITIONS),
    },
    f"{OBJECT}/records/create_or_update_many": {
        "POST": Operation(many_records.create_or_update_many, bulk=True, streams=True, takes=DRY_RUN)
    },
    f"{OBJECT}/records/count": {
        "GET": Operation(records.count, reads=True, lists_records=True, takes=FILTERS)
    },
    f"{OBJECT}/records/search": {
        "GET": Operation(
            records.search_words,
            reads=True,
            pages=True,
            lists_records=True,
            takes=PAGES | SORT | {"query"},
        ),
        "POST": Operation(
            records.search, reads=True, pages=True, lists_records=True, takes=FILTERS | PAGES | SORT
        ),
    },
    f"{OBJECT}/records/autocomplete": {
        "GET": Operation(
            records.autocomplete,
            reads=True,
            pages=True,
            lists_records=True,
            takes=FILTERS | PAGES | SORT | {"name", "field_id", "source"},
        )
    },
    f"{OBJECT}/records/{{id}}": {
        "GET": Operation(records.show, reads=True),
        "PATCH": Operation(records.update, takes=DRY_RUN | CONDITIONS),
        "PUT": Operation(records.replace, takes=DRY_RUN | CONDITIONS | REPLACING),
        "DELETE": Operation(records.delete, takes=DRY_RUN | CONDITIONS),
    },
    f"{OBJECT}/records/{{id}}/events": {
        "GET": Operation(history.events, reads=True, pages=True, takes=PAGES | SORT)
    },
    "/api/v2/incremental/custom_objects/{key}/cursor": {
        "GET": Operation(history.export, reads=True, pages=True, lists_records=True, takes=EXPORT)
    },
    ROOT: {
        "GET": Operation(objects.listing, reads=True, pages=True, takes=PAGES),
        "POST": Operation(objects.create, admin=True, takes=DRY_RUN),
    },
    f"{ROOT}/limits/object_limit": {"GET": Operation(objects.object_limit, reads=True)},
    f"{ROOT}/limits/record_limit": {"GET": Operation(objects.record_limit, reads=True)},
    OBJECT: {
        "GET": Operation(objects.show, reads=True),
        "PATCH": Operation(objects.update, admin=True, takes=DRY_RUN),
        "DELETE": Operation(objects.delete, admin=True, takes=DRY_RUN),
    },
    f"{OBJECT}/limits/field_limit": {"GET": Operation(fields.limit, reads=True)},
    f"{OBJECT}/fields": {
        "GET": Operation(fields.listing, reads=True, pages=True, takes=PAGES | {"include_standard_fields"}),
        "POST": Operation(fields.create, admin=True, takes=DRY_RUN),
    },
    f"{OBJECT}/fields/reorder": {"PUT": Operation(fields.reorder, admin=True, takes=DRY_RUN)},
    f"{OBJECT}/fields/{{field}}": {
        "GET": Operation(fields.show, reads=True),
        "PATCH": Operation(fields.update, admin=True, takes=DRY_RUN),
        "PUT": Operation(fields.update, admin=True, takes=DRY_RUN),
        "DELETE": Operation(fields.delete, admin=True, takes=DRY_RUN),
    },
    f"{OBJECT}/jobs": {"POST": Operation(jobs.create, bulk=True)},
    f"{OBJECT}/jobs/{{job}}": {"GET": Operation(jobs.show_of_object, reads=True, pages=True)},
    JOB_STATUSES: {
        "GET": Operation(
            jobs.listing,
            reads=True,
            pages=True,
            takes=PAGES,
            chosen_by="job_statuses/show_many takes ids",
        )
    },
    f"{JOB_STATUSES}/show_many": {
        "GET": Operation(jobs.show_many, reads=True, pages=True, takes=frozenset({"ids"}))
    },
    f"{JOB_STATUSES}/{{job}}": {"GET": Operation(jobs.show, reads=True, pages=True)},
    "/api/v2/users/me": {"GET": Operation(users.me, reads=True)},
    "/api/v2/{target_type}/{target}/relationship_fields/{lookup}/{source_type}": {
        "GET": Operation(
            relationships.sources, reads=True, pages=True, lists_records=True, takes=PAGES | SORT
        )
    },
}


def routes() -> list[tuple[Route, Mapping[str, Handler]]]:
    """All routes of the service, in order, with the handler of each method."""
    table: list[tuple[str, Mapping[str, Handler]]] = [
        (path, {method: _handler(method, operation) for method, operation in operations.items()})
        for path, operations in TABLE.items()
    ]
    table += [(path, {"GET": handler}) for path, handler in health.ENDPOINTS.items()]
    return [(_route(path, handlers), handlers) for path, handlers in table]


def _handler(method: str, operation: Operation) -> Handler:
    endpoint = operation.endpoint
    if not (operation.reads or operation.streams):
        endpoint = once_per_key(endpoint, has_dry_run=operation.takes >= DRY_RUN)
    if method == "DELETE":
        endpoint = refusing_dry_run_in_body(endpoint)
    terms = Terms(operation.takes, operation.reads, operation.lists_records, operation.chosen_by)
    endpoint = on_terms(endpoint, terms)
    return as_handler(endpoint, admin_only=operation.admin, is_bulk=operation.bulk, has_pages=operation.pages)


def _route(path: str, handlers: Mapping[str, Handler]) -> Route:
    if "GET" in handlers:
        handlers = {**handlers, "HEAD": handlers["GET"]}

    async def dispatch(request: Request) -> Response:
        handle = handlers.get(request.method)
        if handle is None:
            raise MethodNotAllowed(sorted(handlers))
        return await handle(request.scope, request.receive)

    route = Route(path, dispatch)
    route.methods = set()  # every method comes to dispatch, so that Allow names them all
    return route
