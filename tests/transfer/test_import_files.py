"""No file is lost or overwritten that was not named for it, and what cannot be written is told beforehand."""

import os
import stat
from pathlib import Path

import orjson
import pytest

from tests.support.harness import Api
from tests.transfer.test_exporting import exported
from tests.transfer.test_importing import Ran, imported, names
from upsert_svc.transfer.files import open_part
from upsert_svc.transfer.import_ledger import is_of_refused_part

CARS = "external_id,name\nA,Ada\nB,\n"  # the second row is refused


async def refused_to(api: Api, file: Path, refused: Path | str, car: str = "") -> Ran:
    car = car or await api.new_object()
    ran = await imported(api, file, car, options=["--refused", str(refused)])
    if ran.code == 1:
        assert (ran.out, ran.err.count("\n")) == ("", 1), ran
        assert await api.records(car) == []
    return ran


def write(file: Path, text: str) -> None:
    file.write_text(text)


def text_of(file: Path) -> str:
    return file.read_text()


def is_device(path: str) -> bool:
    return stat.S_ISCHR(os.stat(path).st_mode)


@pytest.fixture
def cars(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    file = tmp_path / "folder" / "cars.csv"
    file.write_text(CARS)
    return file


@pytest.mark.parametrize("kind", ["the file", "by another path", "a symbolic link", "a hard link"])
async def test_refused_rows_never_replace_the_file_they_come_from(api: Api, cars: Path, kind: str) -> None:
    link = cars.with_name("link.csv")
    if kind == "a symbolic link":
        link.symlink_to(cars)
    elif kind == "a hard link":
        link.hardlink_to(cars)
    by_another_path = f"{cars.parent}/../{cars.parent.name}/./{cars.name}"
    refused = {"the file": str(cars), "by another path": by_another_path}.get(kind, str(link))
    before = names(cars.parent)

    ran = await refused_to(api, cars, refused)

    assert (ran.code, "is the file to import" in ran.err) == (1, True), ran
    assert text_of(cars) == CARS
    assert names(cars.parent) == before


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("notes.txt", "buy milk\n"),
        ("notes.ndjson", '{"line":"of a poem"}\n'),
        ("refused.ndjson.part", '{"some":"thing"}'),
        ("cars.csv.refused.ndjson", "buy milk"),
        ("cars.csv.import-state", "New York\n"),
        ("cars.csv.import-state.new", "New York, too\n"),
    ],
)
async def test_a_file_that_no_import_wrote_is_never_overwritten(
    api: Api, cars: Path, name: str, text: str
) -> None:
    (other := cars.with_name(name)).write_text(text)
    refused = other if name.startswith("notes") else cars.with_name("refused.ndjson")
    if name.startswith("cars.csv.refused"):
        refused = other

    ran = await refused_to(api, cars, refused)

    assert (ran.code, ran.err) == (
        1,
        f"{other} holds something else, which would be lost; move it, or name another\n",
    )
    assert (text_of(cars), other.read_text()) == (CARS, text)
    assert names(cars.parent) == sorted(["cars.csv", name])


@pytest.mark.parametrize("name", ["cars.csv.import-state", "cars.csv.import-state.new"])
async def test_refused_rows_do_not_go_where_the_import_takes_its_notes(
    api: Api, cars: Path, name: str
) -> None:
    ran = await refused_to(api, cars, cars.with_name(name))

    assert (ran.code, "is where the import takes notes" in ran.err) == (1, True), ran
    assert names(cars.parent) == ["cars.csv"]


async def test_refused_rows_of_an_earlier_import_and_an_empty_file_are_replaced(api: Api, cars: Path) -> None:
    (refused := cars.with_name("refused.ndjson")).touch()
    car = await api.new_object()

    runs = [await refused_to(api, cars, refused, car) for _ in range(2)]

    assert [ran.code for ran in runs] == [3, 3]
    assert [orjson.loads(line)["line"] for line in refused.read_bytes().splitlines()] == [3]
    write(cars, "external_id,name\nA,Ada\n")
    assert (await refused_to(api, cars, refused, car)).code == 0
    assert names(cars.parent) == ["cars.csv"]


async def test_a_link_to_refused_rows_stays_a_link(api: Api, cars: Path) -> None:
    (link := cars.with_name("link.ndjson")).symlink_to(cars.parent.parent / "refused.ndjson")

    ran = await refused_to(api, cars, link)

    assert (ran.code, ran.err) == (3, f"The refused rows and why: {link}\n")
    assert link.is_symlink()
    assert names(cars.parent.parent) == ["folder", "refused.ndjson"]


@pytest.mark.parametrize("name", ["some-dir", "some-dir/", "pipe", "device", "loop", "part-is-a-folder", ""])
async def test_what_is_no_file_takes_no_refused_rows(api: Api, cars: Path, name: str) -> None:
    folder = cars.parent
    (folder / "some-dir").mkdir()
    (folder / "part-is-a-folder.part").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "device").symlink_to(os.devnull)
    (folder / "loop").symlink_to(folder / "loop")
    before = names(folder)

    ran = await refused_to(api, cars, f"{folder}/{name}" if name else "")

    assert (ran.code, "is not a file" in ran.err) == (1, True), ran
    assert names(folder) == before
    assert is_device(os.devnull)


async def test_a_folder_that_is_missing_or_not_writable_is_told_before_anything_is_sent(
    api: Api, cars: Path
) -> None:
    missing = cars.parent / "missing" / "x.ndjson"
    long = cars.parent / ("x" * 254)

    runs = {path: await refused_to(api, cars, path) for path in (missing, long)}

    assert [ran.code for ran in runs.values()] == [1, 1]
    assert all(ran.err.startswith(f"{path}: ") for path, ran in runs.items()), runs
    assert names(cars.parent) == ["cars.csv"]


async def test_two_imports_do_not_write_into_one_refused_file(api: Api, cars: Path) -> None:
    (other := cars.with_name("other.csv")).write_text(CARS)
    refused = cars.with_name("refused.ndjson")
    part = cars.with_name("refused.ndjson.part")

    with open_part(part, is_of_refused_part):
        ran = await refused_to(api, other, refused)

    assert (ran.code, ran.err) == (1, f"{part} is being written already\n")


async def test_an_import_that_fails_leaves_nothing_behind(api: Api, cars: Path) -> None:
    write(cars, "external_id,name,wheels\nA,Ada,4\n")

    assert (await refused_to(api, cars, cars.with_name("refused.ndjson"))).code == 1

    assert names(cars.parent) == ["cars.csv"]


@pytest.mark.parametrize("kind", ["a file", "a link"])
async def test_an_export_does_not_overwrite_what_stands_where_its_partial_file_would(
    api: Api, tmp_path: Path, kind: str
) -> None:
    car = await api.new_object()
    (notes := tmp_path / "notes").write_text("name: of a song\n")
    part = tmp_path / "cars.csv.part"
    part.symlink_to(notes) if kind == "a link" else notes.rename(part)
    before = names(tmp_path)

    ran = await exported(api, car, "--output", str(tmp_path / "cars.csv"))

    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1), ran
    assert str(part) in ran.err
    assert part.read_text() == "name: of a song\n"
    assert names(tmp_path) == before


async def test_an_export_into_a_missing_folder_names_the_file_that_was_given(
    api: Api, tmp_path: Path
) -> None:
    file = tmp_path / "missing" / "cars.csv"

    ran = await exported(api, await api.new_object(), "--output", str(file))

    assert (ran.code, ran.err) == (1, f"{file}: No such file or directory\n")
