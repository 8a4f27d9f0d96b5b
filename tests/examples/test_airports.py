import csv
import os
from pathlib import Path

import airportsdata
import pytest

from examples import airports
from examples.airports import Airport


@pytest.fixture(scope="module")
def world() -> list[Airport]:
    return list(airportsdata.load().values())


def test_an_airport_becomes_a_row_with_what_is_not_known_left_empty() -> None:
    airport = {
        "icao": "BIEG",
        "iata": "",
        "name": "Egilsstaðir Airport",
        "city": "Egilsstaðir",
        "subd": "",
        "country": "IS",
        "elevation": 75.6,
        "lat": 65.283302,
        "lon": -14.4014,
        "tz": "Atlantic/Reykjavik",
        "lid": "",
    }

    assert airports.row(airport) == {
        "icao": "BIEG",
        "name": "Egilsstaðir Airport",
        "iata": "",
        "city": "Egilsstaðir",
        "subdivision": "",
        "country": "IS",
        "elevation_ft": "76",
        "latitude": "65.283302",
        "longitude": "-14.4014",
        "timezone": "Atlantic/Reykjavik",
        "has_iata": "no",
    }


def test_every_country_of_the_data_is_an_option_once_and_no_field_takes_more_than_2000(
    world: list[Airport],
) -> None:
    options = {field["key"]: field.get("custom_field_options") for field in airports.fields(world)}

    countries = options.pop("country")
    assert countries is not None
    values = [option["value"] for option in countries]
    assert set(values) == {airport["country"] for airport in world}
    assert len(values) == len(set(values)) <= 2000
    assert set(options.values()) == {None}


def test_every_column_but_the_key_and_the_name_is_a_field_of_the_object(world: list[Airport]) -> None:
    keys = [field["key"] for field in airports.fields(world)]

    assert ["icao", "name", *keys] == list(airports.row(world[0]))
    assert {field["type"] for field in airports.fields(world)} == {
        "text",
        "dropdown",
        "integer",
        "decimal",
        "checkbox",
    }


def test_every_airport_has_a_code_of_its_own_and_a_name(world: list[Airport]) -> None:
    rows = [airports.row(airport) for airport in world]

    assert len(rows) > 28_000
    assert len({row["icao"] for row in rows}) == len(rows)
    assert all(row["name"] for row in rows)


def test_exactly_as_many_rows_are_edited_as_asked_and_they_are_spread_over_the_file(
    world: list[Airport],
) -> None:
    rows = [airports.row(airport) for airport in world]

    changed = [
        number
        for number, (old, new) in enumerate(zip(rows, airports.edited(rows), strict=True))
        if old != new
    ]

    assert len(changed) == airports.EDITS == 100
    assert changed[-1] - changed[0] > len(rows) // 2


def test_the_file_reads_back_as_it_was_written(world: list[Airport], tmp_path: Path) -> None:
    rows = [airports.row(airport) for airport in world[:500]]

    airports.write_csv(tmp_path / "airports.csv", rows)

    with (tmp_path / "airports.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.DictReader(file)) == rows


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="elsewhere ps is part of the system")
def test_the_memory_of_a_process_is_told_without_any_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert 10 < airports._resident_megabytes(os.getpid()) < 10_000
