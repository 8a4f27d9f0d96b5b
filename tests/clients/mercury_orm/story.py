"""An application on mercury-orm, whose models are custom objects.

Pointed at the service:

    ZENDESK_EMAIL=admin@example.com ZENDESK_API_TOKEN=…
    ZendeskAPIClient.BASE_URL = "http://127.0.0.1:8080/api/v2"
"""

import os
from typing import Any

from reporting import EMAIL, LIMITED_URL, TOKEN, URL, step

os.environ["ZENDESK_EMAIL"], os.environ["ZENDESK_API_TOKEN"] = EMAIL, TOKEN

from mercuryorm import fields  # noqa: E402
from mercuryorm.base import CustomObject  # noqa: E402
from mercuryorm.client.connection import ZendeskAPIClient  # noqa: E402
from mercuryorm.zendesk_manager import ZendeskObjectManager  # noqa: E402

ZendeskAPIClient.BASE_URL = f"{URL}/api/v2"


class garage(CustomObject):  # noqa: N801 - an object is deleted at the path of its class's own name, in any case
    name = fields.NameField(autoincrement_enabled=True, autoincrement_prefix="G-", autoincrement_padding=3)
    city = fields.TextField("city")


class Vehicle(CustomObject):
    name = fields.NameField(unique=True)
    external_id = fields.TextField("external_id")
    color = fields.DropdownField("color", choices=["Dark red", "Blue"])
    extras = fields.MultiselectField("extras", choices=["Radio", "Roof"])
    year = fields.IntegerField("year")
    price = fields.DecimalField("price")
    electric = fields.CheckboxField("electric")
    sold = fields.DateField("sold")
    plate = fields.RegexpField("plate", pattern="^[A-Z]{1,3}-[0-9]+$")
    notes = fields.TextareaField("notes")
    garage = fields.LookupField("garage", related_object="garage")


INTEGER = fields.FieldTypes.INTEGER
YEAR = "custom_object_fields.year"
manager = ZendeskObjectManager(EMAIL)
cars = Vehicle.objects


def shown(record: CustomObject) -> dict[str, Any]:
    return {"id": record.id, **record.to_dict()}


def named(records: list[CustomObject]) -> list[str]:
    return [record.name for record in records]


def changed(record: CustomObject, **values: Any) -> CustomObject:
    for name, value in values.items():
        setattr(record, name, value)
    return record


def saved(record: CustomObject) -> dict[str, Any]:
    return record.save()["custom_object_record"]


def bulk(action: str, records: list[CustomObject], **options: Any) -> list[dict[str, Any]]:
    return [answer["job_status"] for answer in getattr(cars.bulk, action)(records, **options)]


def bulk_made() -> list[list[Any]]:
    """What the bulk actions have made and left, in the order of their names."""
    return sorted([car.name, car.year] for car in cars.all() if car.name.lower().startswith("bulk"))


def pages(fetch: Any, **options: Any) -> list[list[str]]:
    """Page after page, by the cursor that the last one gave."""
    found, after = [], None
    while True:
        page = fetch(page_size=2, after_cursor=after, **options)
        found.append(named(page["results"]))
        after = page["meta"]["after_cursor"]
        if after is None:
            return found


step("create autonumbered object", lambda: manager.create_custom_object_from_model(garage))
step("create object", lambda: manager.get_or_create_custom_object_from_model(Vehicle)[1])
step("create object again", lambda: manager.get_or_create_custom_object_from_model(Vehicle)[1])
step("fields", lambda: manager.get_custom_object_fields("vehicle"))
step("create field again", lambda: manager.create_custom_object_field("vehicle", INTEGER, "year", "Year"))

home = garage(city="Graz")
step("create autonumbered record", lambda: saved(home))
car = Vehicle(
    name="Ford",
    external_id="v-1",
    color="dark_red",
    extras=["radio"],
    year=2026,
    price=19.5,
    electric=False,
    sold="2026-02-03",
    plate="G-1",
    garage=home.id,
)
step("create record", lambda: saved(car))
step("taken name", lambda: Vehicle(name="FORD").save())
step("taken external_id", lambda: Vehicle(name="Other", external_id="v-1").save())
step("save changed", lambda: saved(changed(car, color="blue", year=None)))
step("get by id", lambda: shown(cars.get(id=car.id)))
step("get by value", lambda: shown(cars.get(plate="G-1")))
step("wrong value", lambda: changed(cars.get(id=car.id), garage="01ARZ3NDEKTSV4RRFFQ69G5FAV").save())

for number in range(4):
    Vehicle(name=f"Opel {number}", year=1990 + number).save()
step("all", lambda: named(cars.all()))
step("list in pages", lambda: pages(cars.all_paginated))
step("filter in memory", lambda: named(cars.filter(year=1992)))
step("last", lambda: cars.last().name)
recent = {"$and": [{YEAR: {"$gte": 1991}}, {YEAR: {"$lt": 1994}}]}
step("find", lambda: named(cars.find({"custom_object_fields.plate": {"$eq": "G-1"}})))
step("find in pages", lambda: pages(cars.find_paginated, filters=recent))
step("search", lambda: sorted(named(cars.search("opel"))))
step("search in pages", lambda: sorted(map(len, pages(cars.search_paginated, word="opel"))))

new = [Vehicle(name=f"Bulk {number}", external_id=f"b-{number}", year=number) for number in range(3)]
step("bulk create", lambda: bulk("create", new))
step("bulk created", bulk_made)
step("bulk update", lambda: bulk("update", [changed(cars.get(name="Bulk 0"), year=100)]))
upserted = [Vehicle(name="Bulk 1", external_id="b-1", year=101), Vehicle(name="Bulk 9", external_id="b-9")]
step("bulk upsert by external_id", lambda: bulk("create_or_update_by_external_id", upserted))
step("bulk upsert by name", lambda: bulk("create_or_update_by_name", [Vehicle(name="bulk 2", year=102)]))
step("bulk upserted", bulk_made)
step("bulk create taken", lambda: bulk("create", [Vehicle(name="Ford"), Vehicle(name="Seat")]))
step("bulk delete", lambda: bulk("delete", [cars.get(name="Bulk 0")], wait_to_complete=True))
known = [Vehicle(external_id="b-1"), Vehicle(external_id="b-9")]
step("bulk delete by external_id", lambda: bulk("delete_by_external_id", known, wait_to_complete=True))
step("bulk deleted", bulk_made)

step("delete", lambda: cars.delete(car.id))
step("delete itself", lambda: home.delete())
step("delete by the name of its class", lambda: cars.get(name="Opel 0").delete())
step("count", lambda: cars.queryset.count())
step("get missing", lambda: cars.get(id=car.id))

ZendeskAPIClient.BASE_URL = f"{LIMITED_URL}/api/v2"
step("limited", lambda: [cars.queryset.count() for _ in range(4)])
