"""The filters of a search, compiled from JSON to SQL conditions of a closed set of fragments.

A filter is an object of comparisons, all of which must hold: `{"field": {"$operator": value}}`, and of lists
of filters under `$and` and `$or` (docs/api.md, "Search"). Refuses what is none with BadRequest: says where.

Every value and every field's key is a parameter. A missing value is equal to nothing and contains nothing, so
that `$noteq`, `$notin` and `$notcontains` are the exact opposites of `$eq`, `$in` and `$contains`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from upsert_svc.definitions import operands
from upsert_svc.definitions.field_types import (
    FIELD_TYPES,
    FieldDefinition,
    custom_object_of,
    lookup_identifier,
)
from upsert_svc.definitions.operands import Operands
from upsert_svc.errors import BadRequest, TooManyValues

COMPARISON_LIMIT = 100
VALUE_LIMIT = 100
CUSTOM_FIELDS = "custom_object_fields."

# what stands in a record's fields, without what its object's definition has removed since
_LIVE = (
    "(case when o.removals is null then r.fields"
    " else live_fields(r.fields, r.definition_version, o.removals) end)"
)
_ORDERING = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_OPPOSITES = {"$noteq": "$eq", "$notin": "$in", "$notcontains": "$contains"}


class Arguments:
    """The arguments of a statement, each with its place in the text."""

    def __init__(self, *first: object) -> None:
        self.values: list[object] = [*first]

    def add(self, value: object, cast: str) -> str:
        """The text that stands for a value of a type."""
        self.values.append(value)
        return f"${len(self.values)}::{cast}"


Condition = Callable[[Arguments], str]  # the SQL of a condition, whose values it adds to the arguments


class _Compared(NamedTuple):
    """What is compared: its SQL, its kind, and the object that it points to, whose records have names."""

    expression: str
    kind: Operands
    target: str | None = None


STANDARD: Mapping[str, tuple[str, Operands]] = {
    "id": ("r.record_id", operands.ID),
    "name": ("r.name", operands.TEXT),
    "external_id": ("r.external_id", operands.TEXT),
    "created_at": ("date_trunc('second', r.created_at)", operands.MOMENT),  # as they are answered
    "updated_at": ("date_trunc('second', r.updated_at)", operands.MOMENT),
    "created_by_user_id": ("r.created_by_user_id", operands.USER),
    "updated_by_user_id": ("r.updated_by_user_id", operands.USER),
    "created_by_user": ("r.created_by_user_id", operands.USER),  # as Zendesk's filters call them
    "updated_by_user": ("r.updated_by_user_id", operands.USER),
}


class FilterCompiler:
    """Compiles a filter over the records of one object, as `r`, whose definition's row is `o`.

    Of an account it finds what lookups name, as a write does.
    """

    def __init__(
        self, fields: Mapping[str, FieldDefinition], arguments: Arguments, account_id: int | None = None
    ) -> None:
        self._fields = fields
        self._arguments = arguments
        self._account_id = account_id
        self._comparisons = 0

    def condition(self, filter_: Any, place: str = "filter") -> str:
        """The SQL condition of a filter; its values are added to the arguments. Raises BadRequest."""
        if not isinstance(filter_, dict) or not filter_:
            raise BadRequest(f"{place} must be a JSON object with a comparison, $and or $or")
        entries = (self._entry(name, value, f"{place}.{name}") for name, value in filter_.items())
        return _joined("and", entries)

    def _entry(self, name: str, value: Any, place: str) -> str:
        if name in ("$and", "$or"):
            if not isinstance(value, list) or not value:
                raise BadRequest(f"{place} must be a list of filters")
            parts = (self.condition(part, f"{place}[{number}]") for number, part in enumerate(value))
            return _joined(name.removeprefix("$"), parts)
        compared = self._compared(name, place)
        if not isinstance(value, dict) or not value:
            raise BadRequest(f'{place} must be a comparison, like {{"$eq": …}}')
        return _joined(
            "and",
            (
                self._comparison(compared, operator, operand, f"{place}.{operator}")
                for operator, operand in value.items()
            ),
        )

    def _compared(self, name: str, place: str) -> _Compared:
        """What a name stands for."""
        if name in STANDARD:
            return _Compared(*STANDARD[name])
        field = self._fields.get(name.removeprefix(CUSTOM_FIELDS)) if name.startswith(CUSTOM_FIELDS) else None
        if field is None or not field.active:
            raise BadRequest(f"{place}: there is no such field; fields are written as {CUSTOM_FIELDS}KEY")
        kind = FIELD_TYPES[field.type].operands
        if kind is None:
            raise BadRequest(f"{place}: a field of type {field.type} takes no operators")
        key = self._arguments.add(field.key, "text")
        if kind.is_json:
            return _Compared(f"({_LIVE} -> {key})", kind)
        text = f"({_LIVE} ->> {key})"
        return _Compared(
            text if kind.sql_type == "text" else f"{text}::{kind.sql_type}",
            kind,
            custom_object_of(field.relationship_target_type),
        )

    def _comparison(self, compared: _Compared, operator: str, operand: Any, place: str) -> str:
        expression, kind, _ = compared
        if operator not in kind.operators:
            raise BadRequest(f"{place}: the operators here are {', '.join(kind.operators)}")
        self._comparisons += 1
        if self._comparisons > COMPARISON_LIMIT:
            raise BadRequest(f"A filter has at most {COMPARISON_LIMIT} comparisons")
        if operator == "$exists":
            if not isinstance(operand, bool):
                raise BadRequest(f"{place} must be true or false")
            return f"{expression} is {'not ' if operand else ''}null"
        if operator in _OPPOSITES:
            return f"({self._positive(compared, _OPPOSITES[operator], operand, place)}) is not true"
        return f"({self._positive(compared, operator, operand, place)}) is true"

    def _positive(self, compared: _Compared, operator: str, operand: Any, place: str) -> str:
        expression, kind, target = compared
        if operator == "$in":
            if not isinstance(operand, list):
                raise BadRequest(f"{place} must be a list")
            if len(operand) > VALUE_LIMIT:
                raise TooManyValues(place, VALUE_LIMIT)
            values = [_read(kind, value, place) for value in operand]
            return f"{expression} = any ({self._any_of(values, kind, target)})"
        if operator == "$eq" and operand is None:
            return f"{expression} is null"
        read = _read(kind, operand, place)
        value = self._found(read, target) or self._arguments.add(read, kind.sql_type)
        if operator == "$eq":
            return f"{expression} = {value}"
        if operator in _ORDERING:
            return f"{expression} {_ORDERING[operator]} {value}"
        if kind.is_json:
            return f"{expression} ? {value}"
        once = f"(select name_key({value}))"  # not for each record
        return f"strpos(name_key({expression}), {once}) > 0"

    def _any_of(self, values: Sequence[Any], kind: Operands, target: str | None) -> str:
        """The array of the values, with the ids of what they name in their place."""
        found = [self._found(value, target) for value in values]
        plain = [value for value, name in zip(values, found, strict=True) if name is None]
        array = self._arguments.add(plain, f"{kind.sql_type}[]")
        names = [name for name in found if name is not None]
        return f"{array} || array[{', '.join(names)}]" if names else array

    def _found(self, value: Any, target: str | None) -> str | None:
        """The id of the record that a lookup's value names otherwise, null where there is none.

        It is looked for once, and not for each record.
        """
        if target is None or self._account_id is None:
            return None
        by, identifier = lookup_identifier(value)
        if by == "record_id":
            return None
        account, key, by_, named = (
            self._arguments.add(argument, kind)
            for argument, kind in (
                (self._account_id, "integer"),
                (target, "text"),
                (by, "text"),
                (identifier, "text"),
            )
        )
        of_object = (
            f"select t.object_id from objects t"  # noqa: S608 - of arguments alone
            f" where t.account_id = {account} and t.key = {key} and t.deleted_at is null"
        )
        return f"(select find_record({account}, ({of_object}), {by_}, {named}))"


def compile_filter(
    filter_: Any, fields: Mapping[str, FieldDefinition], account_id: int | None = None
) -> Condition:
    """The condition that a filter stands for; it raises BadRequest when it is asked for."""
    return lambda arguments: FilterCompiler(fields, arguments, account_id).condition(filter_)


def contained_in_name(filter_: Any) -> str | None:
    """A text that the names of all records have in them for which the filter holds; the longest there is."""
    if not isinstance(filter_, dict):
        return None
    parts: list[str | None] = []
    for name, value in filter_.items():
        if name == "name" and isinstance(value, dict):
            contained = value.get("$contains")
            parts.append(contained if isinstance(contained, str) else None)
        elif name == "$and" and isinstance(value, list):
            parts += [contained_in_name(part) for part in value]
    return max((part for part in parts if part), key=len, default=None)


def is_of_name_alone(filter_: Any) -> bool:
    """Whether a filter only says what the name contains."""
    if not isinstance(filter_, dict) or filter_.keys() != {"name"}:
        return False
    comparison = filter_["name"]
    return isinstance(comparison, dict) and comparison.keys() == {"$contains"}


def _joined(word: str, parts: Iterable[str]) -> str:
    return f"({f' {word} '.join(parts)})"


def _read(kind: Operands, value: Any, place: str) -> Any:
    try:
        return kind.read(value)
    except ValueError:
        raise BadRequest(f"{place} must be {kind.expected}") from None
