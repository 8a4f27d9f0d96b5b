"""The named statements: how they are loaded, that each is valid in the real schema, that each is used."""

import re
from pathlib import Path

import pytest

import upsert_svc
from tests.support.harness import Running
from upsert_svc.db import statements
from upsert_svc.db.pools import SERVICE_ROLE

FILES = sorted(path.stem for path in statements.DIRECTORY.glob("*.sql"))
STATEMENTS = [
    pytest.param(noun, statement, id=f"{noun}.{name}")
    for noun in FILES
    if noun not in ("schema", "fragments")
    for name, statement in statements.load(noun).by_name.items()
]
_SOURCE = "\n".join(path.read_text() for path in Path(upsert_svc.__file__).parent.rglob("*.py"))


def test_parameters_are_bound_by_name_in_the_order_of_their_first_appearance() -> None:
    statement = statements._parse("find", "select :b::jsonb, :a where x = :b and y ::text > '12:30';\n")
    assert statement.text == "select $1::jsonb, $2 where x = $1 and y ::text > '12:30'"
    assert statement(a=1, b=2) == (statement.text, 2, 1)


@pytest.mark.parametrize("values", [{}, {"a": 1}, {"a": 1, "b": 2, "c": 3}])
def test_a_missing_or_unknown_parameter_is_a_type_error(values: dict[str, int]) -> None:
    statement = statements._parse("find", "select :a, :b")
    with pytest.raises(TypeError, match="find takes"):
        statement(**values)


def test_an_unknown_statement_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no statement lost"):
        _ = statements.load("records").lost


@pytest.mark.parametrize(("noun", "statement"), STATEMENTS)
async def test_every_statement_is_valid_under_the_role_that_runs_it(
    service: Running, noun: str, statement: statements.Statement
) -> None:
    async with service.sql() as connection:
        if noun != "tokens":  # those the owner runs
            await connection.execute(f"set session authorization {SERVICE_ROLE}")
        prepared = await connection.prepare(statement.text)
        assert len(prepared.get_parameters()) == len(statement.parameters)


@pytest.mark.parametrize(("noun", "statement"), STATEMENTS)
def test_every_statement_is_used(noun: str, statement: statements.Statement) -> None:
    assert re.search(rf"SQL\.{statement.name}\b", _SOURCE), f"{noun}.{statement.name} is not used"


def test_a_fragment_is_put_in_where_its_name_stands_in_a_comment() -> None:
    assert statements._complete("select /*record_columns*/ /*order*/") == (
        f"select {statements.fragments()['record_columns']} /*order*/"
    )


@pytest.mark.parametrize("name", statements.fragments())
def test_every_fragment_is_used_more_than_once(name: str) -> None:
    texts = [path.read_text() for path in statements.DIRECTORY.glob("*.sql") if path.stem != "fragments"]
    assert sum(text.count(f"/*{name}*/") for text in texts) > 1
