"""Endpoints of the fields of a custom object."""

from typing import Any

from starlette.responses import Response

from upsert_svc.api import responses
from upsert_svc.api.dry_runs import undone_by_dry_run
from upsert_svc.api.requests import Call, page_request
from upsert_svc.definitions.fields import NAME_FIELD, FieldRow
from upsert_svc.errors import BadRequest
from upsert_svc.json_body import as_whole
from upsert_svc.payloads import FieldBody, PropertiesBody, read, require_no_parameter, unwrap

WRAPPER = "custom_object_field"
_NO_IDS: dict[str, list[int]] = {"custom_object_field_ids": []}
_CREATE_ONLY = ("key", "type", "relationship_target_type")
_FIXED_OF_STANDARD_FIELDS = ("active", "required")
_CURRENCY = frozenset({"currency"})  # the properties of a field of that type
_NAMING = PropertiesBody.model_fields.keys() - _CURRENCY


async def listing(call: Call) -> Response:
    page = await call.service.object_fields.page(
        call.principal,
        call.path("key"),
        page_request(call.query),
        includes_standard=call.query.get("include_standard_fields", "").lower() == "true",
    )
    resources = [responses.custom_object_field(call, item) for item in page.items]
    return responses.page(call, "custom_object_fields", page, resources)


@undone_by_dry_run
async def create(call: Call) -> Response:
    body, ignored = await _body(call)
    row = await call.service.object_fields.create(call.principal, call.path("key"), body)
    return _answer(call, row, [*ignored, *_unchanged(row, body)], 201)


async def show(call: Call) -> Response:
    row = await call.service.object_fields.show(call.principal, call.path("key"), call.path("field"))
    return _answer(call, row, [])


@undone_by_dry_run
async def update(call: Call) -> Response:
    body, ignored = await _body(call)
    row = await call.service.object_fields.update(call.principal, call.path("key"), call.path("field"), body)
    return _answer(call, row, [*ignored, *_unchanged(row, body)])


@undone_by_dry_run
async def delete(call: Call) -> Response:
    await call.service.object_fields.delete(call.principal, call.path("key"), call.path("field"))
    return responses.no_content()


@undone_by_dry_run
async def reorder(call: Call) -> Response:
    field_ids, ignored = _field_ids(await call.json_or(_NO_IDS))
    await call.service.object_fields.reorder(call.principal, call.path("key"), field_ids)
    return responses.JsonResponse("", headers=responses.warning(ignored))


async def limit(call: Call) -> Response:
    return responses.usage(await call.service.object_fields.usage(call.principal, call.path("key")))


def _field_ids(body: Any) -> tuple[list[int], list[str]]:
    """The ids in the order asked for, and the names of what is ignored.

    Clients send them as numbers or as text, under either name.
    """
    if not isinstance(body, dict):
        raise BadRequest("The body must be a JSON object with the key custom_object_field_ids")
    require_no_parameter(body)
    name = "custom_object_field_ids" if "custom_object_field_ids" in body else "field_ids"
    ids = body.get(name)
    if not isinstance(ids, list):
        raise BadRequest("custom_object_field_ids must be a list of field ids")
    whole = map(as_whole, ids)
    texts = [str(item) for item in whole if isinstance(item, str | int) and not isinstance(item, bool)]
    if len(texts) != len(ids) or not all(
        text.isascii() and text.isdigit() and len(text) < 10 for text in texts
    ):
        raise BadRequest("custom_object_field_ids must be a list of field ids")
    return list(dict.fromkeys(int(text) for text in texts)), [key for key in body if key != name]


async def _body(call: Call) -> tuple[FieldBody, list[str]]:
    attributes, beside = unwrap(await call.json(), WRAPPER)
    body, unknown = read(FieldBody, attributes)
    properties = attributes.get("properties") or {}
    unknown += [f"properties.{name}" for name in properties if name not in PropertiesBody.model_fields]
    return body, [*beside, *unknown]


def _unchanged(row: FieldRow, body: FieldBody) -> list[str]:
    """The attributes that the body would set and the field does not let be set."""
    fixed = (*_CREATE_ONLY, *(_FIXED_OF_STANDARD_FIELDS if row["system"] else ()))
    names = [name for name in fixed if getattr(body, name) not in (None, row[name])]
    return names + _unchanged_properties(row, body.properties) if body.properties else names


def _unchanged_properties(row: FieldRow, sent: PropertiesBody) -> list[str]:
    taken = _CURRENCY if row["currency"] is not None else _NAMING if row["key"] == NAME_FIELD else frozenset()
    others = sent.model_dump(exclude_none=True).keys() - taken
    return [f"properties.{name}" for name in sorted(others)] if taken else ["properties"]


def _answer(call: Call, row: FieldRow, ignored: list[str], status: int = 200) -> Response:
    return responses.JsonResponse(
        {WRAPPER: responses.custom_object_field(call, row)}, status, responses.warning(ignored)
    )
