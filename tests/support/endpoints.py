"""Every endpoint of the route table, and a request that each of them takes."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from tests.support.harness import Api, record_of
from upsert_svc.api.routes import TABLE, Operation

ROOT = "/api/v2"
NO_NAMES: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Endpoint:
    """One method of a path, and the terms that the route table has for it."""

    method: str
    path: str
    operation: Operation

    def __str__(self) -> str:
        return f"{self.method} {self.path.removeprefix(ROOT)}"

    @property
    def has_body(self) -> bool:
        return self.method in ("POST", "PUT", "PATCH")

    @property
    def body(self) -> Any:
        """A body that the endpoint takes, and that changes nothing where it can be so."""
        is_post = self.method == "POST"
        if self.path.endswith("/reorder"):
            return {"field_ids": []}
        if self.path.endswith("/records/search"):
            return {"filter": {"name": {"$eq": "Ford"}}}
        if self.path.endswith("/jobs"):
            return {"job": {"action": "delete", "items": ["nowhere"]}}
        if self.path.endswith("/create_or_update_many"):
            return {"custom_object_records": [{"external_id": "v1", "name": "Ford"}]}
        if "/records" in self.path:
            return {"custom_object_record": {"name": "Ford"}}
        if "/fields" in self.path:
            return {"custom_object_field": {"key": "new", "title": "New", "type": "text"} if is_post else {}}
        return {"custom_object": {"key": "made_by_errors", "title": "T"} if is_post else {}}

    @property
    def wrapper(self) -> str:
        """The name under which the body has what it says."""
        return str(next(iter(self.body)))

    @property
    def query(self) -> dict[str, str]:
        if self.path.endswith("/records/search") and self.method == "GET":
            return {"query": "Ford"}
        if self.path.endswith("/cursor"):
            return {"start_time": "0"}
        if self.path.endswith("/show_many"):
            return {"ids": "nowhere"}
        if self.path.endswith("/create_or_update_many"):
            return {"by": "external_id"}
        is_identified = self.path.endswith("/records") and self.method in ("PATCH", "PUT", "DELETE")
        return {"external_id": "v1"} if is_identified else {}


ENDPOINTS = [
    Endpoint(method, path, operation)
    for path, operations in TABLE.items()
    for method, operation in operations.items()
]
ADMIN_ENDPOINTS = [endpoint for endpoint in ENDPOINTS if endpoint.operation.admin]
AGENT_ENDPOINTS = [endpoint for endpoint in ENDPOINTS if not endpoint.operation.admin]
READ_ENDPOINTS = [endpoint for endpoint in ENDPOINTS if endpoint.operation.reads]
WRITE_ENDPOINTS = [endpoint for endpoint in ENDPOINTS if not endpoint.operation.reads]
GET_ENDPOINTS = [endpoint for endpoint in ENDPOINTS if endpoint.method == "GET"]
BODY_ENDPOINTS = [endpoint for endpoint in ENDPOINTS if endpoint.has_body]
IDENTIFIED_ENDPOINTS = [endpoint for endpoint in ENDPOINTS if "external_id" in endpoint.query]


def each(endpoints: list[Endpoint]) -> pytest.MarkDecorator:
    """Has a test run for each of these endpoints."""
    return pytest.mark.parametrize("endpoint", endpoints, ids=str)


@dataclass(frozen=True)
class Place:
    """An object with a field, a record and a job, to fill the parameters of a path.

    It has a lookup field too, by which its records point to one another.
    """

    key: str
    field: str
    record: str
    job: str

    def url(self, path: str, names: Mapping[str, str] = NO_NAMES) -> str:
        own = {"key": self.key, "field": self.field, "id": self.record, "job": self.job}
        own_type = f"zen:custom_object:{names.get('key', self.key)}"
        own |= {"target_type": own_type, "source_type": own_type, "lookup": "owner", "target": self.record}
        return path.removeprefix(ROOT).format_map({**own, **names})

    async def state(self, api: Api) -> tuple[Any, ...]:
        """What refused requests must leave alone."""
        paths = (f"/custom_objects/{self.key}", f"/custom_objects/{self.key}/fields", "/custom_objects")
        shown = [(await api.client.get(path)).json() for path in paths]
        return (*shown, await api.records(self.key))


async def make_place(api: Api) -> Place:
    key = await api.new_object({"key": "color", "type": "text"}, naming={"is_unique": True})
    target_type = f"zen:custom_object:{key}"
    await api.new_field(key, key="owner", type="lookup", relationship_target_type=target_type)
    record = record_of(await api.create(key, name="Ford", external_id="v1"))
    owner = {"owner": record["id"]}
    record = record_of(await api.upsert(key, {"custom_object_fields": owner}, external_id="v1"))
    job = await api.finished_job(key, "update", [{"id": record["id"]}])
    return Place(key, "color", record["id"], job["id"])


async def target(api: Api, endpoint: Endpoint) -> Mapping[str, str]:
    """What to put in the path, so that the endpoint finds what it is for and harms nobody else."""
    key = await api.new_object({"key": "color", "type": "text"}, naming={"is_unique": True})
    if endpoint.method == "POST" and not endpoint.operation.reads:
        return {"key": key}
    return {"key": key, "id": record_of(await api.create(key, name="Ford", external_id="v1"))["id"]}


async def unmake(api: Api) -> None:
    """Removes the object that a POST makes."""
    (post,) = [endpoint for endpoint in ENDPOINTS if str(endpoint) == "POST /custom_objects"]
    await api.client.delete(f"/custom_objects/{post.body['custom_object']['key']}")


async def ask(
    api: Api,
    place: Place,
    endpoint: Endpoint,
    *,
    method: str | None = None,
    suffix: str = "",
    query: str | None = None,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    names: Mapping[str, str] = NO_NAMES,
) -> httpx.Response:
    """A request as the endpoint wants it, but for what is given."""
    asked = urlencode(endpoint.query) if query is None else query
    if body is None and endpoint.has_body:
        body = endpoint.body
    url = f"{place.url(endpoint.path, names)}{suffix}?{asked}"
    return await api.client.request(method or endpoint.method, url, json=body, headers=headers)
