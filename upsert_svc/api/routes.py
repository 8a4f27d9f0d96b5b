"""The route table: every path, its methods, and who may call them."""

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from upsert_svc.api import changes, fields, health, jobs, objects, records
from upsert_svc.api.calls import Endpoint, Handler, called
from upsert_svc.api.idempotent import once_per_key
from upsert_svc.errors import MethodNotAllowed

ROOT = "/api/v2/custom_objects"
OBJECT = f"{ROOT}/{{key}}"
SEARCH = f"{OBJECT}/records/search"
JOB_STATUSES = "/api/v2/job_statuses"

_WITH_DRY_RUN = (
    records.upsert,
    records.create,
    records.update,
    records.replace,
    records.replace_identified,
)

# path → method → (endpoint, admins only); the first path that fits decides, and the busiest stand first
TABLE: dict[str, dict[str, tuple[Endpoint, bool]]] = {
    f"{OBJECT}/records": {
        "PATCH": (records.upsert, False),
        "PUT": (records.replace_identified, False),
        "GET": (records.listing, False),
        "POST": (records.create, False),
        "DELETE": (records.delete_identified, False),
    },
    f"{OBJECT}/records/count": {"GET": (records.count, False)},
    SEARCH: {"GET": (records.search_words, False), "POST": (records.search, False)},
    f"{OBJECT}/records/autocomplete": {"GET": (records.autocomplete, False)},
    f"{OBJECT}/records/{{id}}": {
        "GET": (records.show, False),
        "PATCH": (records.update, False),
        "PUT": (records.replace, False),
        "DELETE": (records.delete, False),
    },
    f"{OBJECT}/records/{{id}}/events": {"GET": (changes.events, False)},
    "/api/v2/incremental/custom_objects/{key}/cursor": {"GET": (changes.export, False)},
    ROOT: {"GET": (objects.listing, False), "POST": (objects.create, True)},
    f"{ROOT}/limits/object_limit": {"GET": (objects.object_limit, False)},
    f"{ROOT}/limits/record_limit": {"GET": (objects.record_limit, False)},
    OBJECT: {
        "GET": (objects.show, False),
        "PATCH": (objects.update, True),
        "DELETE": (objects.delete, True),
    },
    f"{OBJECT}/limits/field_limit": {"GET": (fields.limit, False)},
    f"{OBJECT}/fields": {"GET": (fields.listing, False), "POST": (fields.create, True)},
    f"{OBJECT}/fields/reorder": {"PUT": (fields.reorder, True)},
    f"{OBJECT}/fields/{{field}}": {
        "GET": (fields.show, False),
        "PATCH": (fields.update, True),
        "PUT": (fields.update, True),
        "DELETE": (fields.delete, True),
    },
    f"{OBJECT}/jobs": {"POST": (jobs.create, False)},
    f"{OBJECT}/jobs/{{job}}": {"GET": (jobs.show_of_object, False)},
    JOB_STATUSES: {"GET": (jobs.listing, False)},
    f"{JOB_STATUSES}/show_many": {"GET": (jobs.show_many, False)},
    f"{JOB_STATUSES}/{{job}}": {"GET": (jobs.show, False)},
}


def routes() -> list[tuple[Route, Mapping[str, Handler]]]:
    """All routes of the service, in order, with the handler of each method."""
    table = [(path, _authenticated(path, methods)) for path, methods in TABLE.items()]
    table += [(path, {"GET": handler}) for path, handler in health.ENDPOINTS.items()]
    return [(_route(path, handlers), handlers) for path, handlers in table]


def _authenticated(path: str, methods: Mapping[str, tuple[Endpoint, bool]]) -> dict[str, Handler]:
    return {
        method: called(
            endpoint
            if method == "GET" or path == SEARCH
            else once_per_key(endpoint, has_dry_run=endpoint in _WITH_DRY_RUN),
            admin_only=admin_only,
            is_bulk=endpoint is jobs.create,
        )
        for method, (endpoint, admin_only) in methods.items()
    }


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
