"""A field of every type, called by it, and values that it takes. A new field type has its entry here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support.harness import Api, FieldBody, record_of

OPTIONS = [{"name": "Red", "value": "red"}, {"name": "One", "value": "1"}]
PATTERN = "^(a+)+$"  # which takes an age where patterns are not matched in linear time


@dataclass(frozen=True)
class Sample:
    """Two values that a type takes, one that it does not, and what a field of it needs."""

    values: tuple[Any, Any]
    wrong: Any
    needs: FieldBody = field(default_factory=dict)


SAMPLES: Mapping[str, Sample] = {
    "text": Sample(("a", "b"), 5),
    "textarea": Sample(("a\nb", "c"), 5),
    "regexp": Sample(("aaa", "a"), "b", {"regexp_for_validation": PATTERN}),
    "checkbox": Sample((True, False), "true"),
    "date": Sample(("2024-02-29", "2026-01-01"), "2023-02-29"),
    "integer": Sample((1, 0), 1.5),
    "decimal": Sample((1.5, 7), "1.5"),
    "dropdown": Sample(("red", "1"), "blue", {"custom_field_options": OPTIONS}),
    "multiselect": Sample((["red"], ["1", "red"]), "red", {"custom_field_options": OPTIONS}),
    "json": Sample(({"a": {"b": 1}}, [None]), 10**15),
    # the values are the ids of records of the target, which are made with the object
    "lookup": Sample(("", ""), "x", {"relationship_target_type": "zen:custom_object:nowhere"}),
}


def definition(name: str, **more: Any) -> dict[str, Any]:
    """The body of a field of the type."""
    return {"key": name, "type": name, **SAMPLES[name].needs, **more}


@dataclass(frozen=True)
class Typed:
    """An object with a field of each type, and two values of each."""

    key: str
    values: Mapping[str, tuple[Any, Any]]


async def make_typed(api: Api, naming: Mapping[str, Any] | None = None) -> Typed:
    """Makes such an object, whose lookup names records of another one."""
    target = await api.new_object()
    ids = [record_of(await api.create(target, name=name))["id"] for name in ("a", "b")]
    targets = {"lookup": {"relationship_target_type": f"zen:custom_object:{target}"}}
    key = await api.new_object(
        *(definition(name, **targets.get(name, {})) for name in SAMPLES), naming=naming
    )
    values = {name: sample.values for name, sample in SAMPLES.items()}
    return Typed(key, {**values, "lookup": (ids[0], ids[1])})
