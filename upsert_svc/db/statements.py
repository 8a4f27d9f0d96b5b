"""The SQL of the service: loads sql/*.sql into named statements, their fragments and parameters checked."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_PACKAGED = Path(__file__).parents[1] / "_sql"
DIRECTORY = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[2] / "sql"

_BLOCK = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)
_FRAGMENT = re.compile(r"^-- fragment: (\w+)\n(?:--.*\n)*", re.MULTILINE)
_INCLUDED = re.compile(r"/\*(\w+)\*/")
_PARAMETER = re.compile(r"(?<![:\w]):([a-z_]+)\b")


@dataclass(frozen=True)
class Statement:
    """One statement, its parameters bound to $1, $2, … in the order of their first appearance."""

    name: str
    text: str
    parameters: tuple[str, ...]

    def __call__(self, **values: object) -> tuple[object, ...]:
        """The text and its arguments, ready to be unpacked into a call of the driver.

        Raises TypeError when a parameter is missing or unknown.
        """
        if values.keys() != set(self.parameters):
            raise TypeError(f"{self.name} takes {self.parameters}, not {tuple(values)}")
        return (self.text, *(values[parameter] for parameter in self.parameters))


class Statements:
    """The statements of one file as attributes."""

    def __init__(self, statements: Mapping[str, Statement]) -> None:
        self.by_name = dict(statements)

    def __getattr__(self, name: str) -> Statement:
        try:
            return self.by_name[name]
        except KeyError:
            raise AttributeError(f"no statement {name}") from None


def _parse(name: str, block: str) -> Statement:
    parameters = tuple(dict.fromkeys(_PARAMETER.findall(block)))
    text = _PARAMETER.sub(lambda match: f"${parameters.index(match[1]) + 1}", block)
    return Statement(name, text.strip().rstrip(";"), parameters)


@cache
def load(noun: str) -> Statements:
    """The statements of sql/{noun}.sql: blocks that begin with a line `-- name: …`."""
    blocks = _blocks(_BLOCK, DIRECTORY / f"{noun}.sql")
    return Statements({name: _parse(name, _complete(block)) for name, block in blocks.items()})


@cache
def fragments() -> Mapping[str, str]:
    """The pieces of sql/fragments.sql, which statements include by a comment of their name: /*name*/."""
    blocks = _blocks(_FRAGMENT, DIRECTORY / "fragments.sql")
    return {name: block.strip() for name, block in blocks.items()}


def _blocks(beginning: re.Pattern[str], file: Path) -> dict[str, str]:
    """The blocks of a file by the name in the line that each begins with."""
    _, *parts = beginning.split(file.read_text(encoding="utf-8"))
    return dict(zip(parts[::2], parts[1::2], strict=True))


def _complete(block: str) -> str:
    """A block with the fragments that it names; other comments stay as they are."""
    return _INCLUDED.sub(lambda match: fragments().get(match[1], match[0]), block)
