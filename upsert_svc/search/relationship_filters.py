"""The filter of a lookup field, by which it offers its targets: Zendesk's conditions as a filter of a search.

Conditions are `{"field", "operator", "value"}` in the lists `all` and `any` (docs/api.md, "Search"). They
narrow what is offered and refuse nothing: a condition that means nothing here is passed over.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from upsert_svc.definitions import operands
from upsert_svc.definitions.field_types import FIELD_TYPES, FieldDefinition
from upsert_svc.definitions.operands import Operands
from upsert_svc.search.filters import CUSTOM_FIELDS, STANDARD

_ORDERING = {
    "less_than": "$lt",
    "less_than_equal": "$lte",
    "greater_than": "$gt",
    "greater_than_equal": "$gte",
}
_POSITIVE = {"is_not": "is", "not_includes": "includes", "not_includes_string": "includes_string"}
_CONTRARY = {"$eq": "$noteq", "$contains": "$notcontains"}
_DYNAMIC = {"matches": "is", "not_matches": "is_not"}
_DAYS = {"within_previous_n_days": -1, "within_next_n_days": 1}
_DAYS_LIMIT = 100_000
_NOTHING: Mapping[str, Any] = {"id": {"$in": []}}
_EVERYTHING: Mapping[str, Any] = {"id": {"$notin": []}}


@dataclass(frozen=True)
class RelationshipFilter:
    """The conditions of a lookup field, and what a caller says of the values that they leave open."""

    conditions: Mapping[str, Sequence[Mapping[str, Any]]]
    dynamic_values: Mapping[str, str]

    def over(self, fields: Mapping[str, FieldDefinition]) -> Mapping[str, Any] | None:
        """The filter over the records of an object with these fields; None where nothing is narrowed."""
        parts = self._filters("all", fields)
        if choices := self._filters("any", fields):
            parts.append({"$or": choices})
        return {"$and": parts} if parts else None

    def _filters(self, name: str, fields: Mapping[str, FieldDefinition]) -> list[Mapping[str, Any]]:
        filters = (self._filter(condition, fields) for condition in self.conditions.get(name, ()))
        return [filter_ for filter_ in filters if filter_ is not None]

    def _filter(
        self, condition: Mapping[str, Any], fields: Mapping[str, FieldDefinition]
    ) -> Mapping[str, Any] | None:
        """The filter of a condition; None for one that is passed over."""
        field, operator, value = (condition.get(name) for name in ("field", "operator", "value"))
        compared = _compared(field, fields) if isinstance(field, str) else None
        if compared is None or not isinstance(operator, str):
            return None
        if operator in _DYNAMIC:
            operator, value = _DYNAMIC[operator], self.dynamic_values.get(str(value))
            if not value:  # what it is to match is not chosen yet
                return None
        return _of_condition(*compared, operator, value)


def _compared(field: str, fields: Mapping[str, FieldDefinition]) -> tuple[str, Operands] | None:
    """What a filter calls the field of a condition, and its kind; None where there is no such field."""
    name = field.removeprefix("standard::")
    if name in STANDARD:
        return name, STANDARD[name][1]
    # as Zendesk names it, custom_object.KEY.custom_fields.FIELD, as filters do, or by its key alone
    key = field.removeprefix(CUSTOM_FIELDS).rpartition("custom_fields.")[2]
    definition = fields.get(key)
    kind = FIELD_TYPES[definition.type].operands if definition is not None and definition.active else None
    return None if kind is None else (f"{CUSTOM_FIELDS}{key}", kind)


def _of_condition(name: str, kind: Operands, operator: str, value: Any) -> Mapping[str, Any] | None:
    """The filter of a condition on what a filter calls by that name; None for one that is passed over."""
    if operator in ("present", "not_present"):
        return {name: {"$exists": operator == "present"}}
    if operator in _DAYS and kind in (operands.DATE, operands.MOMENT):
        return _within(name, _DAYS[operator], value)
    if operator in _ORDERING and _ORDERING[operator] in kind.operators:
        operand = _operand(kind, value)
        return _NOTHING if operand is None else {name: {_ORDERING[operator]: operand}}
    is_contrary = operator in _POSITIVE
    comparisons = _comparisons(kind, _POSITIVE.get(operator, operator), value)
    if comparisons is None:
        return None
    if not comparisons:
        return _EVERYTHING if is_contrary else _NOTHING
    if is_contrary:
        return {"$and": [{name: _contrary(*comparison)} for comparison in comparisons]}
    return {"$or": [{name: dict([comparison])} for comparison in comparisons]}


def _contrary(operator: str, operand: Any) -> Mapping[str, Any]:
    return {operator: not operand} if operator == "$exists" else {_CONTRARY[operator]: operand}


def _comparisons(kind: Operands, operator: str, value: Any) -> list[tuple[str, Any]] | None:
    """The comparisons one of which must hold, none where none can; None where the operator means nothing."""
    contains = "$contains" in kind.operators
    if operator == "is":
        if value in (None, ""):
            return [("$exists", False)]
        name, values = ("$eq" if "$eq" in kind.operators else "$contains"), _listed(value)
        if name not in kind.operators:
            return None
    elif operator == "includes" and contains:
        words = [word for item in _listed(value) for word in str(item).split()]
        name, values = "$contains", _listed(value) if kind is operands.OPTIONS else words
    elif operator == "includes_string" and contains:
        name, values = "$contains", [value]
    else:
        return None
    found = (_operand(kind, item) for item in values)
    return [(name, operand) for operand in found if operand is not None]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _within(name: str, direction: int, value: Any) -> Mapping[str, Any]:
    days = int(value) if str(value).isascii() and str(value).isdigit() and len(str(value)) < 7 else None
    if days is None or days > _DAYS_LIMIT:
        return _NOTHING
    today = datetime.now(UTC).date()
    first, last = sorted((today, today + direction * timedelta(days)))
    # a time of the last day is within it
    return {name: {"$gte": first.isoformat(), "$lt": (last + timedelta(1)).isoformat()}}


def _operand(kind: Operands, value: Any) -> Any:
    """What a filter takes for the value of a condition, which may be text; None where it takes nothing."""
    given = _converted(kind, value)
    try:
        kind.read(given)
    except ValueError:
        return None
    return given


def _converted(kind: Operands, value: Any) -> Any:
    if kind is operands.FLAG:
        return {"true": True, "false": False}.get(str(value).lower(), value)
    if kind is operands.NUMBER:
        try:
            number = Decimal(str(value))
        except InvalidOperation:
            return None
        return number if number.is_finite() else None
    if kind is operands.DATE:
        return str(value)[:10]  # of a time its date, as a write takes it
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value
