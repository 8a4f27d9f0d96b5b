"""The registry of field types has everything that a type needs, wherever it is needed."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import asyncpg
import httpx
import pytest

from tests.support.every_type import EVERY_TYPE, definitions
from tests.support.harness import Api, Cluster, problems_of, running
from upsert_svc import migrations
from upsert_svc.db import statements
from upsert_svc.definitions import field_types
from upsert_svc.definitions.field_types import FIELD_TYPES, FieldDefinition, types_that
from upsert_svc.definitions.validator import FieldValidator
from upsert_svc.errors import BadRequest
from upsert_svc.search.filters import Arguments, FilterCompiler
from upsert_svc.transfer import cells

DOCS = Path(__file__).parents[2] / "docs"
every_type = pytest.mark.parametrize("name", FIELD_TYPES)
OPERANDS: Mapping[str, Any] = {"$exists": True, "$in": [], "$notin": []}
OPERAND_OF_TYPE: Mapping[str, Any] = {
    "text": "x",
    "numeric": 1,
    "date": "2026-01-01",
    "boolean": True,
    "jsonb": "x",
}


@pytest.fixture(scope="module")
async def key(api: Api) -> str:
    """An object with a field of each type."""
    return await api.new_object(*definitions())


def rows(page: str, section: str) -> list[list[str]]:
    """The cells of each row of the tables of a section."""
    text = (DOCS / page).read_text()
    begin = re.search(rf"^#+ {section}\n", text, re.MULTILINE)
    assert begin, f"{page} has no section {section}"
    body = re.split(r"^#+ ", text[begin.end() :], maxsplit=1, flags=re.MULTILINE)[0]
    return [line.strip("| ").split(" | ") for line in body.splitlines() if line.startswith("|")]


@every_type
def test_a_type_may_be_stored(name: str) -> None:
    schema = (statements.DIRECTORY / "schema.sql").read_text()
    check = re.search(r"fields_type_check check \(type in \(([^)]*)\)", schema)
    assert check
    assert f"'{name}'" in check[1], f"the constraint fields_type_check lacks {name}"


@every_type
def test_a_type_is_documented_with_its_values(name: str) -> None:
    documented = {word for row in rows("api.md", "Field types") for word in re.findall(r"`(\w+)`", row[0])}
    assert name in documented, f'docs/api.md, "Field types", lacks {name}'


@every_type
def test_a_type_is_documented_with_its_operators(name: str) -> None:
    kind = FIELD_TYPES[name].operands
    operators = next((row[1] for row in rows("api.md", "Search") if re.search(rf"\b{name}\b", row[0])), "")
    assert set(re.findall(r"\$\w+", operators)) == set(kind.operators if kind else ())


@every_type
def test_a_cell_of_a_type_is_of_a_known_kind(name: str) -> None:
    assert FIELD_TYPES[name].cell in get_args(cells.Kind)
    documented = {word for row in rows("import-and-export.md", "Values") for word in row[0].split(", ")}
    assert name in documented or FIELD_TYPES[name].cell == "text", f"import-and-export.md lacks {name}"


@every_type
def test_a_refusal_says_what_a_value_of_the_type_must_be(name: str) -> None:
    assert FIELD_TYPES[name].expected(FieldDefinition("f", name)).startswith("must ")


@every_type
def test_a_type_takes_null_and_the_operators_that_it_has(name: str) -> None:
    definition = FieldDefinition("f", name)
    assert FieldValidator([definition]).validate({"f": None}) == {"f": None}
    kind = FIELD_TYPES[name].operands
    assert kind is not None
    for operator in kind.operators:
        compiler = FilterCompiler({"f": definition}, Arguments())
        operand = OPERANDS.get(operator, OPERAND_OF_TYPE.get(kind.sql_type))
        assert compiler.condition({"custom_object_fields.f": {operator: operand}})


def test_what_a_search_for_words_looks_into_is_text() -> None:
    assert types_that(lambda field_type: field_type.is_searched) == ["text", "textarea", "regexp"]


@every_type
async def test_a_field_of_the_type_is_made_written_cleared_and_refuses_what_is_wrong(
    api: Api, key: str, name: str
) -> None:
    made = (await api.client.get(f"/custom_objects/{key}/fields/{name}")).json()["custom_object_field"]
    assert (made["key"], made["type"]) == (name, name)
    for value in [sent for sent, _ in EVERY_TYPE[name].pairs()] + ["null"]:
        response = await write(api, key, name, value)
        assert response.status_code == 200, (value, response.text)
    for value in EVERY_TYPE[name].bad:
        assert list(problems_of(await write(api, key, name, value))) == [name], value


async def write(api: Api, key: str, name: str, value: str) -> httpx.Response:
    """The upsert of one value, given as JSON text."""
    return await api.client.patch(
        f"/custom_objects/{key}/records?external_id={name}",
        content=f'{{"custom_object_record": {{"name": "x", "custom_object_fields": {{"{name}": {value}}}}}}}',
    )


def test_every_type_has_a_sample_in_the_tests() -> None:
    assert EVERY_TYPE.keys() == FIELD_TYPES.keys()


def test_a_filter_on_a_type_without_operators_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = field_types.FieldType(FIELD_TYPES["text"].schema, FIELD_TYPES["text"].expected, "text")
    monkeypatch.setitem(dict_of_types(), "picture", entry)
    compiler = FilterCompiler({"f": FieldDefinition("f", "picture")}, Arguments())
    with pytest.raises(BadRequest, match=r"filter\.custom_object_fields\.f: .* picture takes no operators"):
        compiler.condition({"custom_object_fields.f": {"$eq": "x"}})


def dict_of_types() -> dict[str, field_types.FieldType]:
    assert isinstance(FIELD_TYPES, dict)
    return FIELD_TYPES


async def test_a_database_of_other_types_is_refused_at_the_start(cluster: Cluster) -> None:
    url = await cluster.new_database()
    connection = await asyncpg.connect(url)
    await connection.execute("alter table fields drop constraint fields_type_check")
    await connection.execute(
        "alter table fields add constraint fields_type_check check (type in ('text', 'picture'))"
    )
    await connection.close()
    with pytest.raises(migrations.MigrationError, match=r"different field types: .*picture"):
        await migrations.migrate(url)


async def test_a_type_that_a_later_version_made_is_a_503(cluster: Cluster) -> None:
    async with running(await cluster.new_database()) as service:
        api = Api(service, await service.token())
        async with api.client, service.sql() as connection:
            key = await api.new_object({"key": "f", "type": "text"})
            await connection.execute("alter table fields drop constraint fields_type_check")
            await connection.execute("update fields set type = 'picture' where key = 'f'")
            response = await api.upsert(key, {"name": "x"}, external_id="v1")
            assert (response.status_code, response.json()["error"]) == (503, "ServiceUnavailable")
            assert "no field type picture" in response.json()["description"]
