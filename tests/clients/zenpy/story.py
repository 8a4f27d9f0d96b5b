"""A sync by zenpy. It knows no custom objects, so their paths go through the calls that its APIs are made of.

Pointed at the service:

    ZENPY_FORCE_NETLOC=127.0.0.1:8080 ZENPY_FORCE_SCHEME=http
    Zenpy(subdomain="any", email="admin@example.com", token="…")
"""

import os
import time
from typing import Any
from urllib.parse import urlsplit

from reporting import EMAIL, LIMITED_URL, TOKEN, URL, step

os.environ["ZENPY_FORCE_SCHEME"], os.environ["ZENPY_FORCE_NETLOC"] = urlsplit(URL)[:2]

from zenpy import Zenpy  # noqa: E402
from zenpy.lib.api_objects import JobStatus  # noqa: E402

API = f"{URL}/api/v2"
CARS = f"{API}/custom_objects/zenpy_car"
zenpy = Zenpy(subdomain="any", email=EMAIL, token=TOKEN)
calls = zenpy.job_status
session = calls.session


def call(method: str, url: str, **sent: Any) -> dict[str, Any]:
    """A request as every call of zenpy makes it: authenticated, checked, its errors raised."""
    response = calls._call_api(getattr(session, method), url, timeout=calls.timeout, **sent)
    return {
        "status": response.status_code,
        "result": response.headers.get("Upsert-Result"),
        "body": response.json() if response.content else None,
    }


def upsert(record: dict[str, Any], **by: str) -> dict[str, Any]:
    return call("patch", f"{CARS}/records", params=by, json={"custom_object_record": record})


def field(**attributes: Any) -> dict[str, Any]:
    return call("post", f"{CARS}/fields.json", json={"custom_object_field": attributes})


def names_page_by_page(url: str | None) -> list[list[str]]:
    pages = []
    while url:
        page = calls._get(url, raw_response=True).json()
        pages.append([record["name"] for record in page["custom_object_records"]])
        url = page["links"]["next"]
    return pages


def job(action: str, items: list[Any]) -> JobStatus:
    return calls._post(f"{CARS}/jobs.json", {"job": {"action": action, "items": items}})


def completed(status: JobStatus) -> JobStatus:
    """Asks for a job's status until it is done, as an integration does."""
    while status.status in ("queued", "working"):
        time.sleep(0.05)
        status = zenpy.job_status(id=status.id)
    return status


step("users me", lambda: zenpy.users.me())

car = {"custom_object": {"key": "zenpy_car", "title": "Car", "title_pluralized": "Cars"}}
step("create object", lambda: call("post", f"{API}/custom_objects.json", json=car))
step("create object again", lambda: call("post", f"{API}/custom_objects.json", json=car))
step("create text field", lambda: field(key="color", type="text", title="Color"))
step("create integer field", lambda: field(key="year", type="integer", title="Year"))
unique = {"custom_object_field": {"properties": {"is_unique": True}}}
step("make names unique", lambda: call("put", f"{CARS}/fields/standard::name.json", json=unique))

ford = {"name": "Ford", "custom_object_fields": {"color": "red", "year": 2026}}
first = step("upsert by external_id", lambda: upsert(ford, external_id="v 1&2"))
step("upsert by external_id again", lambda: upsert(ford, external_id="v 1&2"))
step("upsert by name", lambda: upsert({"custom_object_fields": {"year": 1990}}, name="Opel"))
step("upsert by name again", lambda: upsert({"custom_object_fields": {"color": "grey"}}, name="OPEL"))

record = f"{CARS}/records/{first['body']['custom_object_record']['id']}.json"
repaint = {"custom_object_record": {"custom_object_fields": {"color": "blue"}}}
step("patch", lambda: call("patch", record, json=repaint))
step("put", lambda: call("put", record, json=repaint))
step("show", lambda: call("get", record))
for name in ("Audi", "Fiat", "Seat"):
    call("post", f"{CARS}/records.json", json={"custom_object_record": {"name": name}})
step("list in pages", lambda: names_page_by_page(f"{CARS}/records?page[size]=2"))
step("count", lambda: calls._get(f"{CARS}/records/count.json").to_dict())
is_of_1990 = {"filter": {"custom_object_fields.year": {"$eq": 1990}}}
step("filter", lambda: call("post", f"{CARS}/records/search.json", json=is_of_1990))
words = "query=fia opel&page[size]=1"
step("search by words", lambda: names_page_by_page(f"{CARS}/records/search?{words}"))

step("taken name", lambda: call("post", f"{CARS}/records", json={"custom_object_record": {"name": "FORD"}}))
step("wrong value", lambda: upsert({"custom_object_fields": {"year": "soon"}}, name="Opel"))
step("missing record", lambda: call("get", f"{CARS}/records/01ARZ3NDEKTSV4RRFFQ69G5FAV.json"))
too_many = ",".join(str(number) for number in range(101))
step("too many ids", lambda: call("get", f"{CARS}/records?filter[external_ids]={too_many}"))

queued = step("create job", lambda: job("create", [{"name": "Job 1"}, {"name": "Job 2"}]))
step("job completed", lambda: completed(queued))
upserts = [{"external_id": "v 1&2", "name": "Ford"}, {"external_id": "j-2", "name": "Job 1"}]
step("job with a taken name", lambda: completed(job("create_or_update_by_external_id", upserts)))


def listed(**asked: Any) -> bool:
    return queued.id in [item.id for item in zenpy.job_status(**asked)["job_statuses"]]


step("job by id", lambda: listed(ids=[queued.id]))
step("job listed", listed)

step("delete", lambda: {"status": calls._delete(record).status_code})
step("delete by name", lambda: call("delete", f"{CARS}/records.json?name=Opel&external_id="))
step("delete object", lambda: {"status": calls._delete(f"{CARS}.json").status_code})


def limited() -> list[Any]:
    """The limit as each of more requests than it takes was answered; zenpy waits where it must."""
    few = [calls._get(f"{LIMITED_URL}/api/v2/custom_objects.json", raw_response=True) for _ in range(4)]
    return [(response.status_code, response.headers.get("X-Rate-Limit")) for response in few]


step("limited", limited)

careful = Zenpy(
    subdomain="any",
    email=EMAIL,
    token=TOKEN,
    proactive_ratelimit=1,
    proactive_ratelimit_request_interval=1,
).job_status


def left() -> int:
    """How many requests zenpy takes to be left after another; it slows down by itself as they run out."""
    careful._get(f"{LIMITED_URL}/api/v2/custom_objects.json", raw_response=True)
    return careful.callsafety["lastlimitremaining"]


step("limited and careful", lambda: [left() for _ in range(4)])
