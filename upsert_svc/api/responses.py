"""What is answered: the resources in Zendesk's shape, pages, warnings, errors."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import orjson
from starlette.responses import Response

from upsert_svc.accounts.tokens import Principal
from upsert_svc.api.conditions import quoted
from upsert_svc.api.requests import SEPARATORS, Call
from upsert_svc.asgi import JSON_TYPE
from upsert_svc.definitions.fields import NAME_FIELD, FieldRow
from upsert_svc.definitions.objects import CustomObject, Usage
from upsert_svc.errors import ServiceError
from upsert_svc.jobs.job_items import ACTIONS
from upsert_svc.jobs.job_store import JobStatus
from upsert_svc.paging import Page
from upsert_svc.payloads import NAMES_LIMIT
from upsert_svc.records.history import Event, ExportPage
from upsert_svc.records.record_store import Shown
from upsert_svc.records.values import Record, WriteResult

Item = TypeVar("Item")
_WARNING_LIMIT = 1024
_CURSOR_PARAMETERS = ("page[after]", "page[before]")
_TIMES = orjson.OPT_UTC_Z | orjson.OPT_OMIT_MICROSECONDS  # UTC, by the second


class JsonResponse(Response):
    """A JSON answer. Its headers are few and known, so that Starlette's care for others is not needed."""

    def __init__(self, value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.status_code = status
        self.background = None
        self.body = orjson.dumps(value, option=_TIMES)
        self.raw_headers = [
            (b"content-length", b"%d" % len(self.body)),
            (b"content-type", JSON_TYPE),
        ]
        for name, text in (headers or {}).items():
            self.raw_headers.append((name.lower().encode("latin-1"), text.encode("latin-1")))


def json_line(value: Any) -> bytes:
    """A value as a line of NDJSON."""
    return orjson.dumps(value, option=_TIMES | orjson.OPT_APPEND_NEWLINE)


def error_response(error: ServiceError) -> Response:
    """The one shape of every error."""
    return JsonResponse(error.body(), error.status, error.headers)


def no_content() -> Response:
    """The answer to a deletion."""
    return Response(status_code=204)


def warning(ignored: Iterable[str]) -> dict[str, str]:
    """The header that names what of a body was ignored, at most 1 KB; empty where nothing was."""
    names = [
        f'"{quote(name.encode("utf-8", "backslashreplace")[:200], safe="")}"'
        for name in islice(ignored, NAMES_LIMIT)
    ]
    if not names:
        return {}
    text = f"Removed restricted keys [{', '.join(names)}] from parameters"
    return {"X-Zendesk-API-Warn": text[:_WARNING_LIMIT]}


def user(call: Call, principal: Principal, created_at: datetime) -> dict[str, Any]:
    """The user that a request speaks for, with the keys that clients of Zendesk read."""
    is_admin = principal.role == "admin"
    return {
        "id": principal.user_id,
        "url": call.url("users", f"{principal.user_id}.json"),
        "name": principal.email.partition("@")[0] or principal.email,
        "email": principal.email,
        "role": principal.role,
        "active": True,
        "verified": True,
        "suspended": False,
        "created_at": created_at,
        "updated_at": created_at,
        "last_login_at": None,
        "time_zone": "UTC",
        "iana_time_zone": "Etc/UTC",
        "locale": "en-US",
        "locale_id": 1,
        "external_id": None,
        "organization_id": None,
        "default_group_id": None,
        "custom_role_id": None,
        "role_type": 4 if is_admin else 0,
        "moderator": is_admin,
        "restricted_agent": False,
        "ticket_restriction": None,
        "only_private_comments": False,
        "shared": False,
        "shared_agent": False,
        "two_factor_auth_enabled": None,
        "phone": None,
        "shared_phone_number": None,
        "photo": None,
        "alias": None,
        "details": None,
        "notes": None,
        "signature": None,
        "report_csv": is_admin,
        "tags": [],
        "user_fields": {},
    }


def custom_object(call: Call, item: CustomObject) -> dict[str, Any]:
    """A custom object."""
    return {
        "url": call.url("custom_objects", f"{item.key}.json"),
        "key": item.key,
        "title": item.title,
        "raw_title": item.title,
        "title_pluralized": item.title_pluralized,
        "raw_title_pluralized": item.title_pluralized,
        "description": item.description,
        "raw_description": item.description,
        "include_in_list_view": item.include_in_list_view,
        "allows_photos": item.allows_photos,
        "allows_attachments": item.allows_attachments,
        "created_by_user_id": str(item.created_by_user_id),
        "updated_by_user_id": str(item.updated_by_user_id),
        "created_at": item.created_at,
        "updated_at": item.updated_at,
    }


def custom_object_field(call: Call, row: FieldRow) -> dict[str, Any]:
    """A field of a custom object; `properties` belong to standard::name and to those of a currency."""
    return {
        "url": call.url("custom_objects", row["object_key"], "fields", f"{row['field_id']}.json"),
        "id": row["field_id"],
        "type": row["type"],
        "key": row["key"],
        "title": row["title"],
        "raw_title": row["title"],
        "description": row["description"],
        "raw_description": row["description"],
        "position": row["position"],
        "active": row["active"],
        "required": row["required"],
        "system": row["system"],
        "regexp_for_validation": row["regexp_for_validation"],
        "tag": row["tag"],
        "custom_field_options": _json(row["options"]) if row["options"] else [],
        "relationship_target_type": row["relationship_target_type"],
        "relationship_filter": _json(row["relationship_filter"] or '{"all":[],"any":[]}'),
        "properties": _properties(row),
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
    }


def _properties(row: FieldRow) -> dict[str, Any] | None:
    if row["currency"] is not None:
        return {"currency": row["currency"]}
    return _naming(row) if row["key"] == NAME_FIELD else None


def _naming(row: FieldRow) -> dict[str, Any]:
    return {
        "is_unique": row["is_unique"],
        "autoincrement_enabled": row["autoincrement_enabled"],
        "autoincrement_prefix": row["autoincrement_prefix"],
        "autoincrement_padding": row["autoincrement_padding"],
        "autoincrement_next_sequence": row["next_number"],
    }


def _json(text: str) -> orjson.Fragment:
    """JSON text of PostgreSQL's own, passed on as it is."""
    return orjson.Fragment(text)


def records(call: Call, items: Iterable[Record], object_key: str | None = None) -> list[dict[str, Any]]:
    """Records of an object, of that which the path names where none is given.

    Their fields are passed on as PostgreSQL wrote them.
    """
    object_key = object_key or call.scope["path_params"]["key"]
    records_url = _records_url(call, object_key)
    return [_record(object_key, records_url, item) for item in items]


def record(call: Call, item: Record) -> dict[str, Any]:
    """One such record."""
    object_key = call.scope["path_params"]["key"]
    return _record(object_key, _records_url(call, object_key), item)


def _record(object_key: str, records_url: str, item: Record) -> dict[str, Any]:
    return {
        "url": f"{records_url}/{item.record_id}.json",
        "id": item.record_id,
        "name": item.name,
        "custom_object_key": object_key,
        "custom_object_fields": _json(item.fields),
        "created_by_user_id": str(item.created_by_user_id),
        "updated_by_user_id": str(item.updated_by_user_id),
        "created_at": item.created_at,
        "updated_at": item.updated_at,
        "external_id": item.external_id,
        "photo": None,
    }


def _records_url(call: Call, object_key: str) -> str:
    """The address of an object's records; the key of an object that stands needs no quoting."""
    return f"{call.root_url()}/custom_objects/{object_key}/records"


def event(item: Event) -> dict[str, Any]:
    """One write of a record."""
    return {
        "id": f"{item.record_id}.{item.version}",
        "type": f"record_{item.kind}",
        "source": "zendesk",
        "description": f"Record {item.kind}",
        "actor": {"type": "user", "id": str(item.user_id)},
        "properties": {"version": item.version, "changes": _json(item.attributes)},
        "created_at": item.changed_at,
        "received_at": item.changed_at,
    }


def exported(call: Call, page: ExportPage, *, excludes_deleted: bool) -> Response:
    """One page of an incremental export, with the address of the next where there is one by now."""
    asked = {"cursor": page.after_cursor} | {
        name: call.query[name] for name in ("per_page", "filter[exclude_deleted]") if call.query.get(name)
    }
    path = call.scope["path"].removeprefix("/api/v2/")
    next_url = f"{call.url(*path.split('/'))}.json?{urlencode(asked)}"
    return JsonResponse(
        {
            "custom_object_records": [
                record(call, item.record) | {"deleted_at": item.deleted_at} for item in page.items
            ],
            "after_cursor": page.after_cursor,
            "after_url": next_url if page.has_more else None,
            "before_cursor": None,
            "before_url": None,
            "end_of_stream": not page.has_more,
            "filter": {"exclude_deleted": excludes_deleted},
            "meta": {"has_more": page.has_more},
        }
    )


def shown(call: Call, item: Shown) -> Response:
    """The answer to a reading of one record."""
    return JsonResponse(
        {"custom_object_record": record(call, item.record)}, headers={"ETag": quoted(item.entity_tag)}
    )


def not_modified(entity_tag: str) -> Response:
    """The answer to who has the record as it stands."""
    return Response(status_code=304, headers={"ETag": quoted(entity_tag)})


def written(call: Call, result: WriteResult, status: int = 200, *, is_data_only: bool = False) -> Response:
    """The answer to a write: the record or its fields alone, what became of it, and what was ignored."""
    headers = warning(result.ignored) if result.ignored else {}
    headers["Upsert-Result"] = result.outcome
    if result.entity_tag is not None:
        headers["ETag"] = quoted(result.entity_tag)
    if result.outcome == "created":
        records_url = _records_url(call, call.scope["path_params"]["key"])
        headers["Location"] = f"{records_url}/{result.record.record_id}"
    if is_data_only:
        return JsonResponse(_json(result.record.fields), status, headers)
    return JsonResponse({"custom_object_record": record(call, result.record)}, status, headers)


def job_status(call: Call, item: JobStatus) -> dict[str, Any]:
    """A job; its progress and results are null before it has any."""
    is_queued = item.status == "queued"
    return {
        "id": item.job_id,
        "job_type": ACTIONS[item.action].job_type,
        "url": call.url("job_statuses", f"{item.job_id}.json"),
        "total": item.total,
        "progress": None if is_queued else item.progress,
        "status": item.status,
        "message": item.message,
        "results": None if is_queued or item.results is None else _json(item.results),
    }


def usage(item: Usage) -> Response:
    """How much of a limit is used."""
    return JsonResponse({"count": item.count, "limit": item.limit})


def page(
    call: Call,
    name: str,
    page: Page[Any],
    resources: list[dict[str, Any]],
    query: Mapping[str, str] | None = None,
    *,
    is_counted: bool = False,
) -> Response:
    """One page of a listing, its items as resources, with the links to its neighbours.

    The query is the request's own unless one is given. A page that is counted says how many items it has.
    """
    query = call.query if query is None else query
    return JsonResponse(
        {
            name: resources,
            **({"count": len(resources)} if is_counted else {}),
            "meta": {
                "has_more": page.after_cursor is not None,
                "after_cursor": page.after_cursor,
                "before_cursor": page.before_cursor,
            },
            "links": {
                "next": _page_url(call, query, "page[after]", page.after_cursor),
                "prev": _page_url(call, query, "page[before]", page.before_cursor),
            },
        }
    )


def _page_url(call: Call, query: Mapping[str, str], parameter: str, cursor: str | None) -> str | None:
    if cursor is None:
        return None
    asked = {name: value for name, value in query.items() if value and not SEPARATORS.match(name)}
    kept = {name: value for name, value in asked.items() if name not in _CURSOR_PARAMETERS}
    path = call.scope["path"].removeprefix("/api/v2/")
    return f"{call.url(*path.split('/'))}.json?{urlencode(kept | {parameter: cursor})}"
