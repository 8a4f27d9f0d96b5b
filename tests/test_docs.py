"""The pages say what is so: settings, routes, errors, links, paths, tests and commands are in the code."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from annotated_types import Ge, Le

from upsert_svc import errors
from upsert_svc.api import health
from upsert_svc.api.routes import TABLE
from upsert_svc.db import embedded
from upsert_svc.definitions import currencies
from upsert_svc.errors import ServiceError
from upsert_svc.jobs import worker
from upsert_svc.settings import EARLIER_NAMES, Settings

ROOT = Path(__file__).parents[1]
DECISIONS = ROOT / "docs" / "decisions"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "bench").glob("*.md")])
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))

METHODS = r"(?:GET|POST|PUT|PATCH|DELETE)"
# of the server, which refuses what never becomes a request
ANSWERED_BY_THE_SERVER = {(414, "BadRequest"), (431, "BadRequest")}
TOP_FOLDERS = ("upsert_svc/", "sql/", "tests/", "docs/", "bench/", "examples/")
PLACEHOLDER = re.compile(r"\b(NAME|NOUN|NNNN|FILE|KEY)\b|NNNN_|…|\{")


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def section(page: str, title: str) -> str:
    """The text under a heading, to the next one."""
    found = re.search(rf"^#+ {title}\n(.*?)(?=^#+ |\Z)", text_of(page), re.MULTILINE | re.DOTALL)
    assert found, f"{page} has no section {title}"
    return found[1]


def rows(text: str) -> list[list[str]]:
    """The cells of the rows of the tables, without their heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [re.split(r"(?<!\\)\|", line.strip("|")) for line in lines]
    rulers = {number for number, row in enumerate(cells) if set("".join(row)) <= set(" -:")}
    heads = {number - 1 for number in rulers}
    return [
        [cell.strip() for cell in row] for number, row in enumerate(cells) if number not in rulers | heads
    ]


def code(page: Path) -> list[str]:
    """What stands between backticks, on one line or over several."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [*lines, *(span.replace("\n", " ") for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", rest))]


# Settings


def documented_settings() -> list[tuple[list[str], list[str]]]:
    """The names of each row of the table of settings, and their earlier ones."""
    table = [row[0] for row in rows(section("docs/operations.md", "Settings"))]
    found = []
    for cell in table:
        now, _, earlier = cell.partition("earlier")
        found.append((re.findall(r"`(\w+)`", now), re.findall(r"`(\w+)`", earlier)))
    return found


def test_every_setting_is_documented_with_its_earlier_name() -> None:
    documented = {name: earlier for names, earlier in documented_settings() for name in names}
    for name in Settings.model_fields:
        earlier = [EARLIER_NAMES[name].upper()] if name in EARLIER_NAMES else []
        assert documented.get(name.upper()) == earlier, f"docs/operations.md on {name.upper()}"


def test_the_sum_of_the_connections_of_a_worker_is_told() -> None:
    settings, jobs = Settings(), worker.JOBS_AT_A_TIME + 1
    pools = settings.pool_size + settings.pool_size // 2 + 2 + settings.batch_connections
    assert f"at most these connections, {pools + jobs + 1} with" in section(
        "docs/operations.md", "The database"
    )


def _bounds(name: str) -> str | None:
    """The least and the most value of a setting that is a number, as the table says them."""
    field = Settings.model_fields.get(name.lower())
    if field is None or field.annotation not in (int, float):
        return None
    least = next(one.ge for one in field.metadata if isinstance(one, Ge))
    most = next(one.le for one in field.metadata if isinstance(one, Le))
    return f"{least:.15g} to {most:.15g}"


def test_every_number_is_documented_with_the_least_and_the_most_that_it_may_be() -> None:
    for names, _, documented, _ in rows(section("docs/operations.md", "Settings")):
        named = re.findall(r"`(\w+)`", names.partition("earlier")[0])
        bounds = [one for name in named if (one := _bounds(name)) is not None]
        assert documented == "; ".join(bounds if len(set(bounds)) > 1 else bounds[:1]), names


def test_every_documented_setting_is_one() -> None:
    known = {name.upper() for name in Settings.model_fields}
    known.add(embedded.BINDIR_VARIABLE.removeprefix("UPSERT_SVC_"))
    assert {name for names, _ in documented_settings() for name in names} <= known


def test_every_setting_that_is_a_number_or_a_rate_is_told_as_the_bound_that_it_is() -> None:
    told = set(re.findall(r"`([A-Z_]+)`", section("docs/operations.md", "What can grow, and its bound")))
    for name, field in Settings.model_fields.items():
        if field.annotation in (int, float) or "rate_limit" in name:
            assert name.upper() in told, name.upper()
    assert told <= {name.upper() for name in Settings.model_fields}


# Routes


def _operations(line: str) -> Iterator[tuple[str, str]]:
    """The methods and paths that a line of the contract names; a path without a method has the last one's."""
    methods: list[str] = []
    for span in re.findall(r"`([^`]+)`", line):
        named = re.match(rf"({METHODS}(?:, {METHODS})*) (\S+)", span)
        if named is not None:
            methods = named[1].split(", ")
        path = named[2] if named else span if span.startswith(("…/", "/")) and methods else None
        if path is not None:
            yield from ((method, path) for method in methods)


def _matching(path: str) -> set[str]:
    """The paths of the route table that a path of the contract stands for."""
    bare = re.sub(r"\{\w+\}", "{}", path.partition("?")[0])
    table = {re.sub(r"\{\w+\}", "{}", route): route for route in [*TABLE, *health.ENDPOINTS]}
    if bare.startswith("…"):
        return {route for shape, route in table.items() if shape.endswith(bare.removeprefix("…"))}
    return {route for shape, route in table.items() if shape in (bare, f"/api/v2{bare}")}


DOCUMENTED = [pair for line in text_of("docs/api.md").splitlines() for pair in _operations(line)]


def test_every_route_and_method_is_in_the_contract() -> None:
    documented = {(method, route) for method, path in DOCUMENTED for route in _matching(path)}
    operations = {(method, path) for path, methods in TABLE.items() for method in methods}
    assert operations - documented == set()


def test_every_operation_of_the_contract_is_a_route() -> None:
    operations = {(method, path) for path, methods in TABLE.items() for method in methods}
    operations |= {("GET", path) for path in health.ENDPOINTS}
    for method, path in DOCUMENTED:
        assert any((method, route) in operations for route in _matching(path)), f"{method} {path}"


def test_the_currencies_that_were_withdrawn_and_are_taken_are_named() -> None:
    named = re.search(r"withdrawn lately \(([^)]+)\)", section("docs/api.md", "Field types"))
    assert named is not None
    assert set(re.findall(r"[A-Z]{3}", named[1])) == currencies.WITHDRAWN


# Errors


def classes(of: type[ServiceError] = ServiceError) -> Iterator[type[ServiceError]]:
    for subclass in of.__subclasses__():
        if subclass.__module__ == errors.__name__:
            yield subclass
            yield from classes(subclass)


def test_the_error_table_has_every_error_and_no_other() -> None:
    documented: set[tuple[int, str]] = set()
    for status, words, *_ in rows(section("docs/api.md", "Errors")):
        statuses, names = re.findall(r"\d{3}", status), re.findall(r"`([A-Z][^`]+)`", words)
        documented |= {(int(one), name) for one, name in zip(statuses, names, strict=True)}
    known = {(error.status, error.error) for error in classes()}
    assert documented == known | ANSWERED_BY_THE_SERVER


def test_the_tree_of_errors_is_drawn_as_the_classes_are() -> None:
    drawn: dict[str, tuple[str, int]] = {}
    parent, parent_status = "", 0
    for nested, names, status in re.findall(
        r"(│   )?[├└]── (\w+(?:, \w+)*)(?: (\d{3}))?", inspect.getdoc(errors) or ""
    ):
        for name in names.split(", "):
            drawn[name] = (parent, parent_status) if nested else ("ServiceError", int(status))
        # only the left column has branches
        if not nested and name == "BadRequest":
            parent, parent_status = name, int(status)
    assert drawn == {error.__name__: (error.__bases__[0].__name__, error.status) for error in classes()}


# Links, paths, commands


@every_page
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" in link:
            continue
        path, _, heading = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} leads nowhere"
        if heading:
            titles = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert heading in anchors, f"{link} leads to no heading"


def _exists(path: str, page: Path) -> bool:
    beginnings = (ROOT, page.parent, ROOT / "upsert_svc")
    if any(next(beginning.glob(path), None) for beginning in beginnings):
        return True
    return "/" not in path and any(next((ROOT / top).rglob(path), None) for top in TOP_FOLDERS)


@every_page
def test_every_path_of_a_file_exists(page: Path) -> None:
    spans = [span for span in code(page) if not PLACEHOLDER.search(span) and " " not in span]
    paths = [
        span.rstrip("/")
        for span in spans
        if not span.startswith(("/", "-"))
        and (span.startswith(TOP_FOLDERS) or re.fullmatch(r"[\w./*-]+\.(py|sql|md|svg|toml)", span))
    ]
    assert [path for path in paths if not _exists(path, page)] == []


@every_page
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    named = {span for span in code(page) if re.fullmatch(r"test_[a-z0-9_]+", span)}
    written = {
        name
        for file in (ROOT / "tests").rglob("*.py")
        for name in re.findall(r"def (test_\w+)", file.read_text(encoding="utf-8"))
    }
    assert named - written == set()


TARGETS = set(re.findall(r"^([a-z]+):", text_of("Makefile"), re.MULTILINE))


@every_page
def test_every_make_target_that_a_page_names_exists(page: Path) -> None:
    named = {target for span in code(page) for target in re.findall(r"(?:^|[ ,;])make ([a-z]+)", span)}
    assert named - TARGETS == set()


def test_make_lists_every_target() -> None:
    listed = set(re.findall(r"^([a-z]+):[^#\n]*## ", text_of("Makefile"), re.MULTILINE))
    assert listed == TARGETS


def test_the_index_lists_every_decision_by_its_title() -> None:
    index = {
        link: title
        for title, link in re.findall(r"\[([^]]+)\]\((\d{4}-[^)]+)\)", text_of("docs/decisions/README.md"))
    }
    titles = {
        file.name: file.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        for file in DECISIONS.glob("[0-9]*.md")
    }
    assert set(index) == set(titles)
    assert all(titles[name].startswith(title) for name, title in index.items())
