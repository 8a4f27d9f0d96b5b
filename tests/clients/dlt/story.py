"""A pipeline on dlt: its REST client writes, and pages by link, by cursor, by what it detects, and by search.

Pointed at the service:

    RESTClient("http://127.0.0.1:8080/api/v2", auth=HttpBasicAuth("admin@example.com/token", "…"))
"""

import os
import time
from typing import Any

from reporting import EMAIL, LIMITED_URL, TOKEN, URL, step

os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"

from dlt.sources.helpers.rest_client import RESTClient
from dlt.sources.helpers.rest_client.auth import BearerTokenAuth, HttpBasicAuth
from dlt.sources.helpers.rest_client.paginators import (
    BasePaginator,
    JSONLinkPaginator,
    JSONResponseCursorPaginator,
)
from dlt.sources.rest_api import rest_api_resources

basic = HttpBasicAuth(f"{EMAIL}/token", TOKEN)
client = RESTClient(f"{URL}/api/v2", auth=basic)
RECORDS = "custom_objects/dlt_car/records"


def send(method: Any, path: str, **sent: Any) -> dict[str, Any]:
    response = client.request(path, method=method, **sent)
    return {
        "status": response.status_code,
        "result": response.headers.get("Upsert-Result"),
        "body": response.json() if response.content else None,
    }


def upsert(record: dict[str, Any], **by: str) -> dict[str, Any]:
    return send("PATCH", RECORDS, params=by, json={"custom_object_record": record})


def field(**attributes: Any) -> dict[str, Any]:
    return send("POST", "custom_objects/dlt_car/fields", json={"custom_object_field": attributes})


def pages(paginator: BasePaginator | None, path: str = RECORDS, **asked: Any) -> list[list[str]]:
    listed = client.paginate(path, paginator=paginator, data_selector="custom_object_records", **asked)
    return [[record["name"] for record in page] for page in listed]


def by_cursor(**where: str) -> JSONResponseCursorPaginator:
    return JSONResponseCursorPaginator(
        cursor_path="meta.after_cursor", has_more_path="meta.has_more", **where
    )


def detected() -> list[Any]:
    """What dlt makes of the first answer without any hint."""
    listed = list(client.paginate(RECORDS, params={"page[size]": 2}))
    return [type(listed[0].paginator).__name__, [[record["name"] for record in page] for page in listed]]


def extracted() -> list[list[Any]]:
    """The records and the fields as the declarative source reads them."""
    page = {"page[size]": 2}
    sources = rest_api_resources(
        {
            "client": {
                "base_url": f"{URL}/api/v2",
                "auth": BearerTokenAuth(TOKEN),
                "paginator": {"type": "json_link", "next_url_path": "links.next"},
            },
            "resource_defaults": {"primary_key": "id", "write_disposition": "merge"},
            "resources": [
                {"name": "cars", "endpoint": {"path": RECORDS, "params": page}},
                {"name": "fields", "endpoint": {"path": "custom_objects/dlt_car/fields", "params": page}},
            ],
        }
    )
    return [[item.get("key", item.get("name")) for item in source] for source in sources]


def job(action: str, items: list[dict[str, Any]]) -> dict[str, Any]:
    answer = client.post("custom_objects/dlt_car/jobs", json={"job": {"action": action, "items": items}})
    answer.raise_for_status()
    status: dict[str, Any] = answer.json()["job_status"]
    return status


def completed(status: dict[str, Any]) -> dict[str, Any]:
    """Asks for a job where its answer said, until it is done."""
    while status["status"] in ("queued", "working"):
        time.sleep(0.05)
        status = client.get(status["url"]).json()["job_status"]
    return status


car = {"custom_object": {"key": "dlt_car", "title": "Car", "title_pluralized": "Cars"}}
step("create object", lambda: send("POST", "custom_objects", json=car))
step("create text field", lambda: field(key="color", type="text", title="Color"))
step("create integer field", lambda: field(key="year", type="integer", title="Year"))
unique = {"custom_object_field": {"properties": {"is_unique": True}}}
step("make names unique", lambda: send("PATCH", "custom_objects/dlt_car/fields/standard::name", json=unique))

ford = {"name": "Ford", "custom_object_fields": {"color": "red", "year": 2026}}
first = step("upsert by external_id", lambda: upsert(ford, external_id="v 1&2"))
step("upsert by external_id again", lambda: upsert(ford, external_id="v 1&2"))
step("upsert by name", lambda: upsert({"custom_object_fields": {"year": 1990}}, name="Opel"))
step("upsert by name again", lambda: upsert({"custom_object_fields": {"color": "grey"}}, name="OPEL"))
record = f"{RECORDS}/{first['body']['custom_object_record']['id']}"
blue = {"custom_object_record": {"custom_object_fields": {"color": "blue"}}}
step("patch", lambda: send("PATCH", record, json=blue))
step("put", lambda: send("PUT", record, json=blue))

for name in ("Audi", "Fiat", "Seat"):
    made = {"name": name, "custom_object_fields": {"year": 2000}}
    send("POST", RECORDS, json={"custom_object_record": made})
one, two = {"page[size]": 1}, {"page[size]": 2}
step("list in pages", lambda: pages(JSONLinkPaginator(next_url_path="links.next"), params=two))
step("pages by cursor", lambda: pages(by_cursor(cursor_param="page[after]"), params=two))
step("pages as detected", detected)
step("pages of the source", extracted)
since = {"filter": {"custom_object_fields.year": {"$gte": 2000}}, "sort": "name"}
step(
    "search by cursor in the query",
    lambda: pages(
        by_cursor(cursor_param="page[after]"),
        f"{RECORDS}/search",
        method="POST",
        params=two,
        json=dict(since),
    ),
)
step(
    "search by cursor in the body",
    lambda: pages(
        by_cursor(cursor_body_path="page.after"),
        f"{RECORDS}/search",
        method="POST",
        json={**since, "page": {"size": 2}},
    ),
)
step(
    "search by words",
    lambda: pages(
        JSONLinkPaginator(next_url_path="links.next"),
        f"{RECORDS}/search",
        params={"query": "fia opel", **one},
    ),
)

step("missing record", lambda: client.get(f"{RECORDS}/01ARZ3NDEKTSV4RRFFQ69G5FAV").json())
step("missing object, paged", lambda: pages(None, "custom_objects/nowhere/records"))
step("taken name", lambda: send("POST", RECORDS, json={"custom_object_record": {"name": "FORD"}}))
step("wrong cursor, paged", lambda: pages(None, params={"page[after]": "x"}))

queued = step("create job", lambda: job("create", [{"name": "Job 1"}, {"name": "Job 2"}]))
step("job completed", lambda: completed(queued))
upserts = [{"external_id": "v 1&2", "name": "Ford"}, {"external_id": "j-2", "name": "Job 1"}]
step("job with a taken name", lambda: completed(job("create_or_update_by_external_id", upserts)))
hundred = [{"external_id": f"h-{number}", "name": f"Hundred {number}"} for number in range(100)]
step("job of a hundred", lambda: completed(job("create_or_update_by_external_id", hundred)))
step("pages of a hundred", lambda: [len(page) for page in pages(by_cursor(cursor_param="page[after]"))])

step("delete", lambda: send("DELETE", record))
step("delete by name", lambda: send("DELETE", RECORDS, params={"name": "Opel"}))
step("delete object", lambda: send("DELETE", "custom_objects/dlt_car"))


def limited() -> list[Any]:
    """The limit as each of more requests than it takes was answered; dlt waits where it must."""
    hurried = RESTClient(f"{LIMITED_URL}/api/v2", auth=basic)
    few = [hurried.get("custom_objects") for _ in range(4)]
    return [(response.status_code, response.headers.get("X-Rate-Limit")) for response in few]


step("limited", limited)
