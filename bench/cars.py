"""What is upserted: cars with 8 fields, about 600 bytes as JSON. Shared by all targets and the preload.

Every upsert sends all fields and changes one, the mileage: a new number of always 12 digits. A car's own
number has 12 digits too; one that a run creates has the number of its first mileage, and so is always new.
"""

import json
from typing import Any

FIRST_VALUE = 10**11
LAST_VALUE = 10**12 - 1
KEY_LIMIT = 10**8

_COLORS = ("red", "green", "blue", "black", "white")
FIELDS: tuple[dict[str, Any], ...] = (
    {"key": "maker", "type": "text"},
    {"key": "plate", "type": "regexp", "regexp_for_validation": "^[A-Z]{1,3}-[A-Z]{1,2} [0-9]{1,4}$"},
    {"key": "notes", "type": "textarea"},
    {"key": "mileage", "type": "integer"},
    {"key": "price", "type": "decimal"},
    {"key": "electric", "type": "checkbox"},
    {"key": "registered_on", "type": "date"},
    {
        "key": "color",
        "type": "dropdown",
        "custom_field_options": [{"name": color.title(), "value": color} for color in _COLORS],
    },
)

_NOTES = (
    "Taken in part exchange; one owner, full service history, last service at the main dealer. "
    "Front tyres are new, rear ones have 5 mm left; a scratch on the left door was touched up. "
    "Winter wheels are in the store room, shelf 14. The second key is with the office; the buyer "
    "asked for delivery to the door and pays by transfer once the papers are signed."
)
_BEFORE = {"maker": "Citroën", "plate": "HH-AB 1234", "notes": _NOTES}
_AFTER = {"price": 18499.5, "electric": False, "registered_on": "2024-03-18", "color": "blue"}


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


# A car's fields as JSON text: the mileage stands between the two.
FIELDS_BEFORE = _compact(_BEFORE).removesuffix("}") + ',"mileage":'
FIELDS_AFTER = "," + _compact(_AFTER).removeprefix("{")


def number(key: int) -> str:
    """The number of a car as it stands in its name and its external_id."""
    return f"{key:012d}"


def external_id(car_number: str) -> str:
    """The external_id of the car of that number."""
    return f"VIN-{car_number}"


def name(car_number: str) -> str:
    """The name of the car of that number."""
    return f"Car {car_number}"


def record_id(key: int) -> str:
    """The id of a car that stands beforehand, in the form of a ULID."""
    return f"{key:026d}"


def fields(mileage: str) -> str:
    """A car's fields as JSON."""
    return FIELDS_BEFORE + mileage + FIELDS_AFTER


def body(car_name: str | None, mileage: str) -> str:
    """The body of an upsert; without a name where the object numbers its records itself."""
    named = "" if car_name is None else f'"name":"{car_name}",'
    return f'{{"custom_object_record":{{{named}"custom_object_fields":{fields(mileage)}}}}}'
