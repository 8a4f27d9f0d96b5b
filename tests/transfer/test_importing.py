import asyncio
import codecs
import contextlib
import csv
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest
import typer
from typer.testing import CliRunner

from tests.support.harness import Api, Cluster, running
from upsert_svc.__main__ import app
from upsert_svc.api import routes
from upsert_svc.api.routes import TABLE
from upsert_svc.definitions.field_types import FIELD_TYPES
from upsert_svc.transfer import client, importing
from upsert_svc.transfer.cells import read_cell
from upsert_svc.transfer.client import TransferFailed
from upsert_svc.transfer.import_ledger import Files, State, kept_state
from upsert_svc.transfer.import_rows import RowRefused, TargetDefinition, of_cells, of_line

FIELDS = (
    {"key": "color", "type": "text"},
    {"key": "year", "type": "integer"},
    {"key": "price", "type": "decimal"},
    {"key": "electric", "type": "checkbox"},
    {"key": "built", "type": "date"},
    {"key": "extras", "type": "multiselect", "custom_field_options": [
        {"name": "Roof", "value": "roof"}, {"name": "Hook", "value": "hook"}]},
)  # fmt: skip
KINDS = {str(field["key"]): FIELD_TYPES[str(field["type"])].cell for field in FIELDS}
CAR = TargetDefinition("car", "external_id", KINDS)


@dataclass(frozen=True)
class Ran:
    """What an import printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def counts(self) -> list[int]:
        """Created, updated, unchanged, refused."""
        return [int(part.split()[-2]) for part in self.out.split(" in ")[0].split(",")]


async def started(file: Path, object_key: str, key: str, url: str, token: str) -> asyncio.subprocess.Process:
    environment = os.environ | {"UPSERT_SVC_URL": url, "UPSERT_SVC_TOKEN": token}
    command = [sys.executable, "-m", "upsert_svc", "import", object_key, str(file), "--key", key]
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(*command, env=environment, stdout=pipe, stderr=pipe)


async def imported(
    api: Api,
    file: Path,
    object_key: str,
    key: str = "external_id",
    *,
    url: str = "",
    token: str = "",
    options: Sequence[str] = (),
) -> Ran:
    """Runs the command in a thread, which spares it the start of a process."""
    environment = {"UPSERT_SVC_URL": url or api.running.address, "UPSERT_SVC_TOKEN": token or api.token}
    arguments = ["import", object_key, str(file), "--key", key, *options]
    result = await asyncio.to_thread(CliRunner().invoke, app, arguments, env=environment)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ran(result.exit_code, result.stdout, result.stderr)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextlib.asynccontextmanager
async def delayed(
    address: str, delay: Callable[[], float], opened: list[str] | None = None
) -> AsyncIterator[str]:
    """Another address of a service, which every request reaches only after a delay (seconds).

    Notes in `opened` who connects.
    """
    host, port = address.removeprefix("http://").split(":")

    async def pipe(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, wait: Callable[[], float]
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                await asyncio.sleep(wait())
                writer.write(data)
        writer.close()

    serving: list[asyncio.Task[None]] = []

    async def passed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        service_reader, service_writer = await asyncio.open_connection(host, int(port))
        try:
            await asyncio.gather(pipe(reader, service_writer, delay), pipe(service_reader, writer, lambda: 0))
        finally:
            for end in (writer, service_writer):
                end.close()

    def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if opened is not None:
            opened.append(str(writer.get_extra_info("peername")))
        serving.append(asyncio.create_task(passed(reader, writer)))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


def refused(file: Path) -> list[dict[str, Any]]:
    path = file.with_name(f"{file.name}.refused.ndjson")
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def sent(upsert: Any) -> Any:
    return orjson.loads(upsert.record)


async def by_external_id(api: Api, object_key: str) -> dict[str, dict[str, Any]]:
    return {record["external_id"]: record for record in await api.records(object_key)}


# Conversions


@pytest.mark.parametrize(
    ("field_type", "cell", "written"),
    [
        ("integer", "007", b"7"),
        ("integer", " -12 ", b"-12"),
        ("integer", "+999999999999", b"999999999999"),
        ("integer", "2026.0", b"2026"),
        ("integer", "-007.000", b"-7"),
        ("integer", "2.026e3", b"2026"),
        ("integer", "1.23457E+11", b"123457000000"),
        ("currency", "-1.50", b"-1.50"),
        ("decimal", "0.1000", b"0.1000"),
        ("decimal", "123456789012345.123456789012345", b"123456789012345.123456789012345"),
        ("decimal", ".5", b"0.5"),
        ("decimal", "-1.5e3", b"-1500"),
        ("checkbox", "Yes", b"true"),
        ("checkbox", "1", b"true"),
        ("checkbox", "FALSE", b"false"),
        ("multiselect", "roof; hook;", b'["roof","hook"]'),
        ("date", "2026-02-03", b'"2026-02-03"'),
        ("dropdown", "0017", b'"0017"'),
        ("text", " Zoë ", '" Zoë "'.encode()),
    ],
)
def test_a_cell_becomes_the_json_value_of_its_field_type(field_type: str, cell: str, written: bytes) -> None:
    definition = TargetDefinition("car", "external_id", {"field": FIELD_TYPES[field_type].cell})

    upsert = of_cells(definition, ["external_id", "field"], ["A", cell])

    assert upsert.record == b'{"external_id":"A","custom_object_fields":{"field":%s}}' % written


@pytest.mark.parametrize(
    ("field_type", "cell"),
    [
        ("integer", "1.5"),
        ("integer", "1,000"),
        ("integer", "2026.01"),
        ("integer", "1.23457E+1"),
        ("integer", "2026e-1"),
        ("integer", "1e999"),
        ("integer", "٣"),
        ("decimal", "1,5"),
        ("decimal", "NaN"),
        ("decimal", "1e999"),
        ("checkbox", "maybe"),
    ],
)
def test_a_cell_that_cannot_be_converted_is_refused(field_type: str, cell: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        read_cell(cell, FIELD_TYPES[field_type].cell)


def test_every_cell_that_cannot_be_converted_is_named_in_the_reasons() -> None:
    with pytest.raises(RowRefused) as caught:
        of_cells(CAR, ["external_id", "year", "electric"], ["A", "old", "perhaps"])

    assert caught.value.reasons == {
        "year": ["year must be a whole number"],
        "electric": ["electric must be true or false, 1 or 0, yes or no"],
    }


def test_an_empty_cell_is_left_out() -> None:
    upsert = of_cells(CAR, ["external_id", "name", "color", "year"], ["A", "", "", "2026"])

    assert sent(upsert) == {"external_id": "A", "custom_object_fields": {"year": 2026}}


def test_a_key_column_that_is_a_field_is_both_the_identifier_and_a_field() -> None:
    upsert = of_cells(TargetDefinition("car", "year", KINDS), ["year", "name"], ["02026", "Ada"])

    assert upsert.identifier == "02026"
    assert sent(upsert) == {"name": "Ada", "external_id": "02026", "custom_object_fields": {"year": 2026}}


def test_a_key_column_that_is_no_field_is_only_the_identifier() -> None:
    upsert = of_cells(TargetDefinition("car", "vin", KINDS), ["vin", "name"], ["V-1", "Ada"])

    assert upsert.identifier == "V-1"
    assert sent(upsert) == {"name": "Ada", "external_id": "V-1", "custom_object_fields": {}}


def test_a_row_whose_external_id_is_another_than_its_key_is_refused() -> None:
    with pytest.raises(RowRefused) as caught:
        of_cells(TargetDefinition("car", "vin", KINDS), ["vin", "external_id"], ["V-1", "V-2"])

    assert caught.value.key == "V-1"
    assert caught.value.reasons == {
        "external_id": ["external_id differs from vin, which identifies the record"]
    }


@pytest.mark.parametrize(
    ("line", "column"),
    [
        ("[1]", "base"),
        ('{"external_id": "A"', "base"),
        ('{"external_id": "A", "external_id": "B"}', "base"),
        ('{"external_id": "A", "price": NaN}', "base"),
        ("[" * 100_000, "base"),
        ('{"external_id": "A", "name": "\\ud800"}', "base"),
        ('{"name": "Ada"}', "external_id"),
        ('{"external_id": null}', "external_id"),
        ('{"external_id": true}', "external_id"),
        ('{"external_id": "A", "wheels": 4}', "wheels"),
    ],
)
def test_an_ndjson_line_that_is_no_row_is_refused_with_the_reason(line: str, column: str) -> None:
    with pytest.raises(RowRefused) as caught:
        of_line(CAR, line)

    assert list(caught.value.reasons) == [column]


def test_ndjson_numbers_are_sent_digit_by_digit() -> None:
    line = '{"external_id": 17, "price": 0.12345678901234567890, "year": 12345678901234567890123}'

    upsert = of_line(CAR, line)

    assert upsert.identifier == "17"
    assert b'"price":0.12345678901234567890,"year":12345678901234567890123}' in upsert.record


@pytest.mark.parametrize(
    ("written", "identifier"),
    [("17", "17"), ("17.0", "17"), ("1.7e1", "17"), ("-0", "0"), ("-0.0", "0"), ("1700e-2", "17")],
)
def test_a_number_that_identifies_is_one_however_it_is_written(written: str, identifier: str) -> None:
    for key in ("external_id", "name", "sku", "year", "color"):
        upsert = of_line(TargetDefinition("car", key, KINDS), f'{{"{key}": {written}}}')
        assert upsert.identifier == identifier


@pytest.mark.parametrize("written", ["1.5", "1e-1", "1e999", "1" + "0" * 400])
def test_a_number_that_identifies_is_a_whole_one(written: str) -> None:
    with pytest.raises(RowRefused) as caught:
        of_line(CAR, f'{{"external_id": {written}}}')

    assert caught.value.reasons == {"external_id": ["external_id must be text or a whole number"]}


@pytest.mark.parametrize(
    ("key", "line", "record"),
    [
        ("name", '{"name": 42, "year": 1}', {"name": "42", "custom_object_fields": {"year": 1}}),
        ("sku", '{"sku": 17, "external_id": 17.0}', {"external_id": "17", "custom_object_fields": {}}),
        ("sku", '{"sku": 17, "external_id": null}', {"external_id": "17", "custom_object_fields": {}}),
        ("color", '{"color": 17.0}', {"external_id": "17", "custom_object_fields": {"color": "17"}}),
        ("year", '{"year": 17}', {"external_id": "17", "custom_object_fields": {"year": 17}}),
    ],
)
def test_numbers_of_ndjson_that_identify_are_sent_as_the_text_of_a_csv_cell(
    key: str, line: str, record: dict[str, Any]
) -> None:
    assert sent(of_line(TargetDefinition("car", key, KINDS), line)) == record


def test_a_key_of_an_integer_field_has_no_fraction() -> None:
    definition = TargetDefinition("car", "year", KINDS)

    identifiers = [
        of_cells(definition, ["year"], [cell]).identifier for cell in ("17.0", "017.", "17", "1.7e1")
    ]

    assert identifiers == ["17", "017", "17", "17"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"external_id": "A", "name": "\xff"}'.decode("utf-8", "surrogateescape"), "The line is not UTF"),
        ('{"external_id": "A", "name": "\\udcff"}', "A text has half a character, a lone surrogate"),
        (f'{{"external_id": "A", "name": {"[" * 400}{"]" * 400}}}', "The row is nested too deep"),
    ],
)  # fmt: skip
def test_it_is_told_apart_what_cannot_be_sent_as_text(line: str, reason: str) -> None:
    with pytest.raises(RowRefused) as caught:
        of_line(CAR, line)

    assert caught.value.reasons["base"][0].startswith(reason)


def test_a_key_that_is_half_a_character_is_refused() -> None:
    with pytest.raises(RowRefused, match="lone surrogate"):
        of_line(CAR, '{"external_id": "\\ud800"}')


# Whole imports


async def test_rows_of_empty_cells_are_skipped_as_blank_lines_are(api: Api, tmp_path: Path) -> None:
    car = await api.new_object(*FIELDS)
    (table := tmp_path / "cars.csv").write_text(
        '\n,,\nexternal_id,name,year\nA,Ada,1\n,,\n ,,\n\t\n   \n""\n,\n'
    )
    (lines := tmp_path / "cars.ndjson").write_text('{"external_id": "A"}\n  \t\n\n')

    runs = [await imported(api, table, car), await imported(api, lines, car)]

    assert [(ran.code, ran.counts) for ran in runs] == [(0, [1, 0, 0, 0]), (0, [0, 0, 1, 0])], runs


async def test_a_blank_before_a_quoted_cell_is_refused_and_one_between_the_quotes_is_kept(
    api: Api, tmp_path: Path
) -> None:
    car = await api.new_object(*FIELDS)
    file = tmp_path / "cars.csv"
    rows = ['A, "Jane",', 'B,  "Doe, Jane"', 'C, "Zo""e", "red"', 'D," ""Jane""", red', 'E, 5" pipe,']
    file.write_text("\n".join(["external_id,name,color", *rows, ""]))

    ran = await imported(api, file, car)

    assert (ran.code, ran.counts) == (3, [2, 0, 0, 3]), ran
    assert [(row["key"], row["reasons"]["base"]) for row in refused(file)] == [
        ("A", [r'A blank stands before the quotes of " \"Jane\""']),
        ("B", [r'A blank stands before the quotes of "  \"Doe"']),
        (
            "C",
            [rf"A blank stands before the quotes of {cell}" for cell in (r'" \"Zo\"\"e\""', r'" \"red\""')],
        ),
    ]
    records = await by_external_id(api, car)
    assert [records[key]["name"] for key in "DE"] == [' "Jane"', ' 5" pipe']


async def test_any_white_space_before_a_quoted_cell_is_a_blank(api: Api, tmp_path: Path) -> None:
    car = await api.new_object(*FIELDS)
    file = tmp_path / "cars.csv"
    spaces = [*"\t\u00a0\u2003\u3000\x0b\x0c\x85", " \t", "\t ", "\u00a0 \t"]
    rows = [f'{number},{space}"Jane",' for number, space in enumerate(spaces)]
    kept = [f'"Q{number}","{space}""Jane""",' for number, space in enumerate(spaces)]
    file.write_bytes("\n".join(["external_id,name,color", *rows, *kept, '"L","\n""Jane""",', ""]).encode())

    ran = await imported(api, file, car)

    assert (ran.code, ran.counts) == (3, [len(spaces) + 1, 0, 0, len(spaces)]), ran
    assert [row["reasons"]["base"] for row in refused(file)] == [
        [f"A blank stands before the quotes of {json.dumps(space + chr(34) + 'Jane' + chr(34))}"]
        for space in spaces
    ]
    records = await by_external_id(api, car)
    assert [records[f"Q{number}"]["name"] for number in range(len(spaces))] == [
        f'{space}"Jane"' for space in spaces
    ]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", codecs.BOM_UTF16_LE + "external_id,name\nA,Ada\n".encode("utf-16-le"), "a.csv is UTF-16,"),
        ("a.csv", codecs.BOM_UTF16_BE + "external_id,name\nA,Ada\n".encode("utf-16-be"), "a.csv is UTF-16,"),
        ("a.csv", "external_id,name\nA,Ada\n".encode("utf-16-le"), "a.csv is UTF-16,"),
        ("a.csv", "external_id,name\nA,北京\n".encode("utf-16-be"), "a.csv is UTF-16,"),
        ("a.ndjson", '{"external_id":"A"}\n'.encode("utf-16"), "a.ndjson is UTF-16,"),
        ("a.ndjson", '{"external_id":"A"}\n'.encode("utf-16-le"), "a.ndjson is UTF-16,"),
        *(
            (f"a.{suffix}", f"{empty}{text}\n".encode(encoding), f"a.{suffix} is UTF-16,")
            for encoding in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
            for empty in ("\n", "\n\n", "\r\n", " \n", "\t\n\n")
            for suffix, text in (("csv", "external_id,name\nA,Ada"), ("ndjson", '{"external_id":"A"}'))
        ),
        ("a.csv", "external_id,größe\nA,1\n".encode("cp1252"), "The header is not UTF-8; it may be Latin-1"),
        ("a.csv", b"PK\x03\x04\x14\x00", "a.csv is a spreadsheet or a ZIP archive"),
        ("a.csv", b"external_id,\x1b[31mname\x07\nA,Ada\n", r'Unknown columns: "\x1b[31mname\x07";'),
        ("a.csv", b"external_id, name\nA,Ada\n", 'Unknown columns: " name";'),
        ("a.csv", b"external_id,name,\nA,Ada,\n", 'Unknown columns: "";'),
        ("a.csv", b"external_id , name\nA,Ada\n", 'external_id; it has "external_id ", " name"'),
        ("a.csv", b"external_id;name\nA;Ada\n", 'it has "external_id;name"; cells are separated by commas'),
        ("a.csv", b"external_id,name\rA,Ada\rB,Bo\r", "a.csv has lines that end with a carriage return"),
        ("a.jsonl", b'{"external_id":"A"}\r{"external_id":"B"}\r', "a.jsonl has lines that end with"),
    ],
)  # fmt: skip
async def test_a_file_that_is_no_text_in_utf_8_or_has_another_header_is_told_in_one_line(
    api: Api, tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    car = await api.new_object(*FIELDS)
    (file := tmp_path / name).write_bytes(content)

    ran = await imported(api, file, car)

    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1), ran
    assert said in ran.err
    assert ran.err.strip().isprintable()
    assert await api.records(car) == []
    assert names(tmp_path) == [name]


async def test_what_stands_before_a_line_that_is_no_csv_is_written(api: Api, tmp_path: Path) -> None:
    car = await api.new_object(*FIELDS)
    file = tmp_path / "cars.csv"
    broken = {
        'B,"Bo\nC,Cy\n': "a quote is not closed",
        "B,B\ro\nC,Cy\n": "a carriage return (CR) stands alone",
    }

    for rows, said in broken.items():
        file.write_bytes(f"external_id,name\nA,Ada\n{rows}".encode())
        ran = await imported(api, file, car)

        assert (ran.code, ran.err.startswith(f"Line 3 is not CSV: {said}")) == (1, True), ran
    assert set(await by_external_id(api, car)) == {"A"}


async def test_names_of_files_are_told_without_what_a_terminal_would_act_on(api: Api, tmp_path: Path) -> None:
    car = await api.new_object(*FIELDS)
    (file := tmp_path / "\x1b[31m\u202ecars.csv").write_text("external_id,name\nA,\n")

    ran = await imported(api, file, car)
    missing = await imported(api, tmp_path / "\x1b[2J.csv", car)

    assert ran.err == f"The refused rows and why: {tmp_path}/\\x1b[31m\\u202ecars.csv.refused.ndjson\n"
    assert missing.err == f"{tmp_path}/\\x1b[2J.csv: No such file or directory\n"


async def test_a_csv_file_with_a_bom_and_non_ascii_text_is_taken_and_then_unchanged(
    api: Api, tmp_path: Path
) -> None:
    car = await api.new_object(*FIELDS)
    file = tmp_path / "cars.csv"
    rows = 'external_id,name,color,price,electric,built,extras\r\nÄ 1&x=2,"Zoë, ""Blüte""",a\r\n'
    rows = rows.replace("a\r\n", '"rot\r\nblau",1.10,yes,2026-02-03,roof;hook\r\n')
    file.write_bytes(codecs.BOM_UTF8 + rows.encode())

    first, second = await imported(api, file, car), await imported(api, file, car)

    assert (first.code, first.counts) == (0, [1, 0, 0, 0]), first
    assert (second.code, second.counts) == (0, [0, 0, 1, 0])
    [record] = await api.records(car)
    assert (record["external_id"], record["name"]) == ("Ä 1&x=2", 'Zoë, "Blüte"')
    assert record["custom_object_fields"] == {
        "color": "rot\r\nblau",
        "year": None,
        "price": 1.1,
        "electric": True,
        "built": "2026-02-03",
        "extras": ["roof", "hook"],
    }
    assert names(tmp_path) == ["cars.csv"]


@pytest.mark.parametrize("suffix", ["csv", "ndjson"])
async def test_decimals_are_stored_exactly_from_either_format(api: Api, tmp_path: Path, suffix: str) -> None:
    car = await api.new_object(*FIELDS)
    exact = "123456789012345.123456789012345"
    file = tmp_path / f"cars.{suffix}"
    file.write_text(
        f"external_id,name,price\nA,Ada,{exact}\n"
        if suffix == "csv"
        else f'{{"external_id": "A", "name": "Ada", "price": {exact}}}\n\n'
    )

    ran = await imported(api, file, car)

    assert (ran.code, ran.counts) == (0, [1, 0, 0, 0]), ran
    text = (await api.client.get(f"/custom_objects/{car}/records")).text
    assert orjson.loads(text)["custom_object_records"][0]["custom_object_fields"]["price"] == float(exact)
    assert f'"price":{exact}' in text.replace('": ', '":')
    assert Decimal(exact) != Decimal(float(exact))


async def test_rows_are_upserted_by_unique_name_and_the_external_id_is_an_attribute(
    api: Api, tmp_path: Path
) -> None:
    car = await api.new_object(*FIELDS, naming={"is_unique": True})
    await api.upsert(car, {"custom_object_fields": {"year": 1}}, name="straße")
    file = tmp_path / "cars.jsonl"
    file.write_text('{"name": "STRASSE", "external_id": "A", "year": 2}\n{"name": "Ada", "color": null}\n')

    ran = await imported(api, file, car, "name")

    assert (ran.code, ran.counts) == (0, [1, 1, 0, 0]), ran
    records = {record["name"]: record for record in await api.records(car)}
    assert set(records) == {"STRASSE", "Ada"}
    assert records["STRASSE"]["external_id"] == "A"
    assert records["STRASSE"]["custom_object_fields"]["year"] == 2


async def test_the_fields_of_an_object_are_known_from_all_their_pages(api: Api, tmp_path: Path) -> None:
    wide = await api.new_object(*({"key": f"field_{n}", "type": "integer"} for n in range(100)))
    file = tmp_path / "wide.csv"
    file.write_text("external_id,name,field_0,field_99\nA,Ada,1,2\n")

    ran = await imported(api, file, wide)

    assert (ran.code, ran.counts) == (0, [1, 0, 0, 0]), ran


async def test_refused_rows_are_written_with_their_line_numbers_and_reasons(api: Api, tmp_path: Path) -> None:
    car = await api.new_object(*FIELDS)
    file = tmp_path / "cars.csv"
    cars = ["external_id,name,year,built", "A,Ada,2026,", "B,Bo,old,", ",Cy,1,", '"D\nD",,1,', "E,Eve,1,x"]
    file.write_bytes("\n".join([*cars, "F", "", "G,Gus,1,2026-01-01"]).encode() + b"\nH,\xff,1,\n")

    ran = await imported(api, file, car)

    assert (ran.code, ran.counts) == (3, [2, 0, 0, 6]), ran
    assert [(row["line"], row["key"], row["status"], row["reasons"]) for row in refused(file)] == [
        (3, "B", None, {"year": ["year must be a whole number"]}),
        (4, None, None, {"external_id": ["external_id cannot be blank"]}),
        (5, "D\nD", 422, {"name": ["Name cannot be blank"]}),
        (7, "E", 422, {"built": ["built must be a date, YYYY-MM-DD"]}),
        (8, "F", None, {"base": ["The row has 1 cells, the header has 4"]}),
        (11, "H", None, {"base": ["The row is not UTF-8; it may be Latin-1 or Windows-1252"]}),
    ]
    assert set(await by_external_id(api, car)) == {"A", "G"}


@pytest.mark.parametrize("suffix", ["csv", "ndjson"])
async def test_rows_name_the_place_of_a_number_in_a_document_and_take_whole_numbers_with_a_fraction(
    api: Api, tmp_path: Path, suffix: str
) -> None:
    car = await api.new_object(*FIELDS, {"key": "specs", "type": "json"})
    file = tmp_path / f"cars.{suffix}"
    specs = ('{"a": [0.9999999999999999]}', '{"a": [1, {"deep": 12345678901234567890}]}', "1e-31")
    rows = [*zip("ABC", ("2026.0", "2.026e3", "2026"), specs, strict=True)]
    day = "2026-02-03t09:10:11z"
    if suffix == "csv":
        with file.open("w", newline="") as target:
            csv.writer(target).writerow(["external_id", "name", "year", "built", "specs"])
            csv.writer(target).writerows([key, "x", year, day, document] for key, year, document in rows)
    else:
        line = '{{"external_id": "{}", "name": "x", "year": {}, "built": "{}", "specs": {}}}\n'
        file.write_text("".join(line.format(key, year, day, document) for key, year, document in rows))

    ran = await imported(api, file, car)

    assert (ran.code, ran.counts) == (3, [1, 0, 0, 2]), ran
    reasons = [row["reasons"]["specs"][0].partition(" must")[0] for row in refused(file)]
    assert reasons == ["specs.a[1].deep", "specs"]
    (record,) = await api.records(car)
    fields = record["custom_object_fields"]
    assert (fields["year"], fields["built"], fields["specs"]) == (
        2026,
        "2026-02-03",
        {"a": [0.9999999999999999]},
    )


async def test_no_refused_file_is_left_once_all_rows_are_taken(api: Api, tmp_path: Path) -> None:
    car = await api.new_object(*FIELDS)
    file = tmp_path / "cars.csv"
    file.write_text("external_id,name,year\nA,Ada,old\n")
    assert (await imported(api, file, car)).code == 3
    assert len(refused(file)) == 1

    file.write_text("external_id,name,year\nA,Ada,2026\n")
    ran = await imported(api, file, car)

    assert ran.code == 0
    assert names(tmp_path) == ["cars.csv"]


async def test_a_row_larger_than_a_request_may_be_is_refused(api: Api, tmp_path: Path) -> None:
    car = await api.new_object(*FIELDS)
    file = tmp_path / "cars.ndjson"
    rows: list[Mapping[str, Any]] = [
        {"external_id": "A", "name": "Ada", "color": "x" * 300_000},
        {"external_id": "B", "name": "Bo", "color": "x" * 2_000_000},
        {"external_id": "C" * 100_000, "name": "Cy"},
        {"external_id": "D" * 3000, "name": "Di"},
        {"external_id": "E", "name": "Eve"},
    ]
    file.write_bytes(b"\n".join(map(orjson.dumps, rows)))

    ran = await imported(api, file, car)

    assert (ran.code, ran.counts) == (3, [1, 0, 0, 4]), ran
    assert [(row["line"], row["status"]) for row in refused(file)] == [
        (1, 413),
        (2, None),
        (3, None),
        (4, 422),
    ]


async def test_of_rows_with_one_key_the_later_wins(api: Api, tmp_path: Path) -> None:
    car = await api.new_object(*FIELDS)
    file = tmp_path / "cars.csv"
    lines = [f"{key},Car {key},{number}" for number in range(20) for key in ("A", "B", "C")]
    file.write_text("\n".join(["external_id,name,year", *lines]))

    shrinking = iter(range(100, 0, -1))  # so that rows sent at one time would arrive in another order
    async with delayed(api.running.address, lambda: next(shrinking) / 1000) as url:
        ran = await imported(api, file, car, url=url)

    assert (ran.code, ran.counts) == (0, [3, 57, 0, 0]), ran
    years = [record["custom_object_fields"]["year"] for record in await api.records(car)]
    assert years == [19, 19, 19]


@pytest.mark.parametrize(
    ("text", "key", "said"),
    [
        ("external_id,name,wheels,doors\n", "external_id", "Unknown columns: wheels, doors"),
        ("external_id,Name, wheels\n", "external_id", "; write name for Name, because columns count"),
        ("EXTERNAL_ID,name\n", "external_id", "it has EXTERNAL_ID, name; write external_id for EXTERNAL_ID"),
        ("external_id,name,name\n", "external_id", "names name more than once"),
        ("name\nAda\n", "external_id", "no column external_id"),
        ("", "external_id", "no header"),
        ("\n,,\n \n", "external_id", "no header"),
        ("external_id,name\nA,Ada\nB,\"B\"o\nC,Cy\n", "external_id", "Line 3 is not CSV"),
        ("name\nAda\n", "name", "needs unique names"),
    ],
)  # fmt: skip
async def test_a_file_that_cannot_be_imported_is_one_line_of_complaint(
    api: Api, tmp_path: Path, text: str, key: str, said: str
) -> None:
    car = await api.new_object(*FIELDS)
    file = tmp_path / "cars.csv"
    file.write_text(text)

    ran = await imported(api, file, car, key)

    assert (ran.code, ran.out) == (1, ""), ran
    assert said in ran.err
    assert ran.err.count("\n") == 1


async def test_what_is_missing_is_one_line_of_complaint(api: Api, tmp_path: Path) -> None:
    car = await api.new_object(*FIELDS)
    file = tmp_path / "cars.csv"
    file.write_text("external_id,name\nA,Ada\n")
    (text := tmp_path / "cars.txt").write_text("")

    complaints = {
        "no object no_such_object": await imported(api, file, "no_such_object"),
        "did not take the token: 401": await imported(api, file, car, token="no-such-token"),
        "no upsert service answers; the path of the API, /api/v2, is no part of --url: 404": await imported(
            api, file, car, url=f"{api.running.address}/api/v3"
        ),
        f"No answer about the fields of {car} in 3 tries": await imported(
            api, file, car, url="http://127.0.0.1:9"
        ),
        "not an http": await imported(api, file, car, url="localhost:8080"),
        "No such file": await imported(api, tmp_path / "missing.csv", car),
        "must end in": await imported(api, text, car),
        "--key must name a column": await imported(api, file, car, " "),
        "OBJECT must be the key": await imported(api, file, ""),
        "directory": await imported(api, tmp_path, car),
    }

    for words, ran in complaints.items():
        assert (ran.code, ran.out) == (1, ""), ran
        assert words in ran.err
        assert ran.err.count("\n") == 1


NO_UTF8 = os.fsdecode(b"\xff")
NO_KEYS = ("a/b", "../car", "..", "car?x=1", "a b", "k\u00e4fer", "car\n", "\x1b[2J", "a" * 101, NO_UTF8)


@pytest.mark.parametrize("command", ["import", "export"])
@pytest.mark.parametrize("key", NO_KEYS)
async def test_an_object_that_no_key_can_be_is_told_as_such(tmp_path: Path, command: str, key: str) -> None:
    (file := tmp_path / "cars.csv").write_text("external_id,name\nA,Ada\n")
    options = [str(file), "--key", "external_id"] if command == "import" else ["--output", str(file)]

    ran = await asyncio.to_thread(CliRunner().invoke, app, [command, key, *options, "--token", "t"])

    assert (ran.exit_code, ran.stdout) == (1, ""), ran
    assert ran.stderr.startswith("OBJECT must be the key of an object")
    assert ran.stderr.count("\n") == 1
    assert names(tmp_path) == ["cars.csv"]


async def test_a_key_that_is_no_utf_8_is_one_line_of_complaint(tmp_path: Path) -> None:
    (file := tmp_path / "cars.ndjson").write_text('{"external_id": "A"}\n')

    options = ["import", "car", str(file), "--key", NO_UTF8, "--token", "t"]
    ran = await asyncio.to_thread(CliRunner().invoke, app, options)

    assert (ran.exit_code, ran.stderr) == (1, "--key must name a column, in UTF-8\n"), ran
    assert names(tmp_path) == ["cars.ndjson"]


async def test_paths_of_any_bytes_are_imported_resumed_and_exported(api: Api, tmp_path: Path) -> None:
    car = await api.new_object(*FIELDS)
    latin1 = [os.fsdecode(name) for name in (b"f\xfcr", b"z\xfcge.csv", b"st\xf6rung.ndjson", b"\xe4.ndjson")]
    (folder := tmp_path / latin1[0]).mkdir()
    (file := folder / latin1[1]).write_text(
        "external_id,name\n" + "".join(f"{n},Car {n}\n" for n in range(400)) + "bad,\n"
    )
    refused_rows = folder / latin1[2]

    async with delayed(api.running.address, lambda: 0.02) as slow:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "upsert_svc", "import", car, latin1[1], "--key", "external_id",
            "--concurrency", "1", "--refused", latin1[2], cwd=folder,
            env=os.environ | {"UPSERT_SVC_URL": slow, "UPSERT_SVC_TOKEN": api.token},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        state = file.with_name(f"{file.name}.import-state")
        for _ in range(1500):
            if state.exists() or process.returncode is not None:
                break
            await asyncio.sleep(0.02)
        if process.returncode is None:
            process.kill()
        _, err = await process.communicate()
        assert err == b""
        resumed = await imported(
            api, file, car, url=slow, options=["--refused", str(refused_rows), "--concurrency", "1"]
        )
    out = await asyncio.to_thread(
        CliRunner().invoke, app, ["export", car, "--output", str(folder / latin1[3])],
        env={"UPSERT_SVC_URL": api.running.address, "UPSERT_SVC_TOKEN": api.token},
    )  # fmt: skip

    assert (resumed.code, sum(resumed.counts), resumed.counts[3]) == (3, 401, 1), resumed
    assert "Going on behind line" in resumed.err
    assert resumed.err.splitlines()[-1].isprintable()
    assert (out.exit_code, out.exception) == (0, None), out
    assert names(folder) == sorted(latin1[1:])
    assert (folder / latin1[3]).read_text().count("\n") == 400


async def test_a_process_that_fails_says_so_without_a_traceback(tmp_path: Path) -> None:
    process = await started(tmp_path / "cars.csv", "car", "vin", "http://127.0.0.1:9", "token")

    out, err = await process.communicate()

    assert (process.returncode, out) == (1, b"")
    assert err.decode() == f"{tmp_path / 'cars.csv'}: No such file or directory\n"


# Interruptions and a service that is busy


async def test_an_import_that_was_killed_goes_on_and_its_refused_file_is_whole(
    api: Api, tmp_path: Path
) -> None:
    car = await api.new_object(*FIELDS)
    file = tmp_path / "cars.csv"
    total, delays = 4000, [0.3]
    lines = [f"{n},Car {n},{'old' if n % 10 == 0 else n}" for n in range(total)]
    file.write_text("\n".join(["external_id,name,year", *lines]))
    state = tmp_path / "cars.csv.import-state"

    def is_under_way() -> bool:
        return state.exists() and orjson.loads(state.read_bytes())["counts"]["refused"] > 0

    async with delayed(api.running.address, lambda: delays[0]) as url:
        process = await started(file, car, "external_id", url, api.token)
        while process.returncode is None and not is_under_way():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        delays[0] = 60
        again = await imported(api, file, car, url=url)
        process.send_signal(signal.SIGKILL)
        await process.wait()
        settled = orjson.loads(state.read_bytes())
        with (tmp_path / "cars.csv.refused.ndjson.part").open("ab") as part:
            part.write(b'{"line": ')  # as if killed in the middle of a line
        delays[0] = 0
        ran = await imported(api, file, car, url=url)

    assert (again.code, again.err) == (1, f"{file} is being imported already\n")
    assert settled["counts"]["refused"] > 0
    assert 0 < settled["line"] < total
    assert ran.code == 3, ran
    assert sum(ran.counts) == total
    assert f"Going on behind line {settled['line']}" in ran.err
    assert [row["line"] for row in refused(file)] == [n + 2 for n in range(0, total, 10)]
    assert len(await api.records(car)) == total * 9 // 10
    assert names(tmp_path) == ["cars.csv", "cars.csv.refused.ndjson"]


async def test_a_cell_that_no_field_takes_is_refused_with_its_row(api: Api, tmp_path: Path) -> None:
    car = await api.new_object(*FIELDS)
    file = tmp_path / "cars.csv"
    file.write_text(f"external_id,name\n1,{'x' * 200_000}\n2,Car\n")
    ran = await imported(api, file, car)
    assert (ran.code, ran.counts) == (3, [1, 0, 0, 1]), ran


def test_a_state_of_another_source_or_without_its_refused_rows_is_not_used(tmp_path: Path) -> None:
    files = Files(tmp_path / "cars.csv", tmp_path / "refused.ndjson")
    kept = State({"size": 1}, offset=10, line=2, refused_bytes=5)
    files.state.write_bytes(orjson.dumps(kept))

    assert kept_state({"size": 1}, files) == State({"size": 1})  # the refused rows are gone
    files.part.write_bytes(b"12345")
    assert kept_state({"size": 1}, files) == kept
    assert kept_state({"size": 2}, files) == State({"size": 2})
    files.state.write_bytes(b'{"source": {"siz')
    assert kept_state({"size": 1}, files) == State({"size": 1})


_PAGE = {"custom_object_fields": [], "meta": {"after_cursor": None}}
FIELDS_PAGE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (
    len(orjson.dumps(_PAGE)),
    orjson.dumps(_PAGE),
)
CREATED = b"HTTP/1.1 200 OK\r\nUpsert-Result: created\r\nContent-Length: 2\r\n\r\n{}"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 2\r\n\r\n{}"
LIMITED = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 2\r\n\r\n{}"
HANGS_UP = b""


async def scripted(answers: Sequence[bytes]) -> tuple[asyncio.Server, list[float]]:
    """A server that answers upserts as scripted, the last answer for ever; and the times of the upserts."""
    times: list[float] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        answer = FIELDS_PAGE
        if head.startswith(b"PATCH"):
            await reader.readuntil(b"}}")
            answer = answers[min(len(times), len(answers) - 1)]
            times.append(asyncio.get_running_loop().time())
        writer.write(answer.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    return await asyncio.start_server(serve, "127.0.0.1", 0), times


def address(server: asyncio.Server) -> str:
    return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_busy_service_is_asked_again_no_sooner_than_it_wishes(api: Api, tmp_path: Path) -> None:
    file = tmp_path / "cars.csv"
    file.write_text("external_id,name\nA,Ada\n")
    server, times = await scripted([BUSY, LIMITED, HANGS_UP, CREATED])

    async with server:
        ran = await imported(api, file, "car", url=address(server))

    assert (ran.code, ran.counts) == (0, [1, 0, 0, 0]), ran
    assert len(times) == 4
    assert times[1] - times[0] >= 1


async def test_an_import_gives_up_on_an_answer_that_would_come_to_every_row(api: Api, tmp_path: Path) -> None:
    file = tmp_path / "cars.csv"
    file.write_text("external_id,name\nA,Ada\n")
    server, times = await scripted([CREATED.replace(b"Upsert-Result", b"X-Other")])

    async with server:
        ran = await imported(api, file, "car", url=address(server))

    assert (ran.code, len(times)) == (1, 1), ran
    assert "line 2 but did not say Upsert-Result" in ran.err


async def test_an_answer_without_end_is_not_kept(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cars.csv"
    file.write_text("external_id,name\nA,Ada\n")
    monkeypatch.setattr(client, "_ANSWER_LIMIT_BYTES", 1000)
    server, times = await scripted(
        [CREATED.replace(b"Length: 2\r\n\r\n", b"Length: 2002\r\n\r\n" + b"x" * 2000)]
    )

    async with server:
        ran = await imported(api, file, "car", url=address(server))

    assert (ran.code, len(times)) == (1, 1), ran
    assert "its answer has no end" in ran.err


async def test_no_redirect_is_followed_and_no_proxy_of_the_environment_used(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cars.csv"
    file.write_text("external_id,name\nA,Ada\n")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    location = b"Found\r\nLocation: http://127.0.0.1:9/\r\n"
    server, times = await scripted([CREATED.replace(b"200 OK\r\n", b"307 " + location)])

    async with server:
        ran = await imported(api, file, "car", url=address(server))

    assert (ran.code, ran.err) == (1, "The service refused line 2: 307 Found\n"), ran
    assert len(times) == 1


async def test_what_is_not_http_is_one_line_of_complaint(api: Api, tmp_path: Path) -> None:
    file = tmp_path / "cars.csv"
    file.write_text("external_id,name\nA,Ada\n")

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.com ready\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        ran = await imported(api, file, "car", url=address(server))

    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1), ran
    assert "in 3 tries: http://127.0.0.1:" in ran.err


async def test_a_sender_keeps_its_connection(api: Api, tmp_path: Path) -> None:
    car = await api.new_object(*FIELDS)
    file = tmp_path / "cars.csv"
    file.write_text("external_id,name\n" + "".join(f"{n},Car {n}\n" for n in range(500)))
    opened: list[str] = []

    async with delayed(api.running.address, lambda: 0, opened) as url:
        ran = await imported(api, file, car, url=url)

    assert (ran.code, ran.counts) == (0, [500, 0, 0, 0]), ran
    assert 0 < len(opened) <= 32


@pytest.mark.parametrize(
    "url",
    [
        "http://", "http://127.0.0.1:99999", "http://a:b@127.0.0.1", "http://127.0.0.1/?a=b", "http://[::1",
        "http://a..b", "http://.local", "http://xn--a", f"http://{'a' * 64}", f"http://{'ä' * 64}.de",
        "http://h\0", "http://h\n", "http://\x1b[2J", f"http://{NO_UTF8}", f"http://h/{NO_UTF8}", "http://a:b:c",
        "http://h/\0", " ", "http://..",
    ],
)  # fmt: skip
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(TransferFailed) as refusal:
        client._address(url)
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize(
    "url", ["http://käfer.de", "http://a_b:80", "http://[::1]:8080", "https://h.", "http://1.2"]
)
def test_an_address_of_any_name_of_a_host_is_taken(url: str) -> None:
    assert client._address(url)


@pytest.mark.parametrize("end", ["", "/", "/api/v2", "/api/v2/"])
def test_an_address_may_have_a_path_and_that_of_the_api(end: str) -> None:
    assert client._address(f"https://example.com:8443/upserts{end}") == "https://example.com:8443/upserts"
    assert client._address(f"http://localhost:8080{end}") == "http://localhost:8080"


async def test_the_address_of_the_api_itself_is_taken(api: Api, tmp_path: Path) -> None:
    car = await api.new_object(*FIELDS)
    (file := tmp_path / "cars.csv").write_text("external_id,name\nA,Ada\n")

    ran = await imported(api, file, car, url=f"{api.running.address}/api/v2")

    assert (ran.code, ran.counts) == (0, [1, 0, 0, 0]), ran


@pytest.mark.parametrize("command", ["import", "export"])
def test_the_help_tells_what_every_option_is_for(command: str) -> None:
    options = typer.main.get_group(app).commands[command].params
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).stdout

    for option in options:
        text = str(getattr(option, "help", ""))
        assert text
        assert text in shown, f"{option.name} of {command}: {text}"


async def test_memory_does_not_grow_with_the_file(api: Api, tmp_path: Path) -> None:
    file = tmp_path / "cars.ndjson"
    row = b'{"external_id": "A", "wheels": "%s"}\n' % (b"x" * 1000)
    with file.open("wb") as big:
        for _ in range(60):
            big.write(row * 1000)  # 60 MB of rows that are refused at once, for want of a field wheels
    car = await api.new_object(*FIELDS)

    process = await started(file, car, "external_id", api.running.address, api.token)
    peak = 0
    while process.returncode is None and psutil.pid_exists(process.pid):
        try:
            peak = max(peak, psutil.Process(process.pid).memory_info().rss)
        except psutil.NoSuchProcess:
            break
        await asyncio.sleep(0.05)
    out, _ = await process.communicate()

    assert b"60000 refused" in out
    assert 0 < peak < 130_000_000


# Many rows in a request


async def test_rows_go_one_by_one_to_a_service_that_takes_no_more(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fewer = {path: methods for path, methods in TABLE.items() if not path.endswith("/create_or_update_many")}
    monkeypatch.setattr(routes, "TABLE", fewer)
    async with running(await cluster.new_database()) as service:
        api = Api(service, await service.token())
        car = await api.new_object(*FIELDS)
        file = tmp_path / "cars.csv"
        file.write_text(
            "external_id,name,year\n" + "".join(f"{n},Car {n},{n}\n" for n in range(300)) + "x,X,old\n"
        )
        ran = await imported(api, file, car)
        await api.client.aclose()
    assert (ran.code, ran.counts) == (3, [300, 0, 0, 1]), ran
    assert refused(file)[0]["key"] == "x"


async def test_what_was_not_answered_before_the_connection_was_lost_is_sent_again(
    api: Api, tmp_path: Path
) -> None:
    car = await api.new_object(*FIELDS)
    file = tmp_path / "cars.csv"
    file.write_text("external_id,name,year\n" + "".join(f"{n},Car {n},{n}\n" for n in range(3000)))
    async with cutting(api.running.address, after_bytes=9000, times=5) as url:
        ran = await imported(api, file, car, url=url)
    assert (ran.code, sum(ran.counts), ran.counts[3]) == (0, 3000, 0), ran
    assert len(await api.records(car)) == 3000


async def test_lines_that_tell_of_no_row_are_passed_over_and_the_rows_are_sent_again(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lies: list[Any] = [
        {"index": 99, "status": 200, "result": "created"},
        {"index": -1, "status": 200, "result": "created"},
        {"index": "0", "status": 200, "result": "created"},
        {"index": [0], "status": 200, "result": "created"},
        {"index": 0, "status": [200], "result": "created"},
        {"index": 0, "status": 200, "result": {}},
        {"index": 0, "status": 418},
        {"index": 1, "status": 422, "details": {"name": [{"description": "A sentence alone"}]}},
        [1],
        "text",
    ]
    told = [client.Answer(200, "OK", {}, b"\n".join(map(orjson.dumps, lies)) + b'\n{"index": 2, "sta')]
    ask = client.ServiceClient.lines

    async def lines(self: client.ServiceClient, request: client.Request) -> client.Answer | None:
        return told.pop() if told else await ask(self, request)

    monkeypatch.setattr(client.ServiceClient, "lines", lines)
    car = await api.new_object(*FIELDS)
    file = tmp_path / "cars.csv"
    file.write_text("external_id,name\n1,One\n2,Two\n3,Three\n")
    # one key in each request, were they sent by four
    monkeypatch.setattr(importing, "REQUESTS", 1)
    ran = await imported(api, file, car)
    assert (ran.code, ran.counts) == (3, [2, 0, 0, 1]), ran
    assert refused(file)[0]["reasons"] == {"name": ["A sentence alone"]}


async def test_an_answer_to_many_rows_that_has_no_end_ends_the_import(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    car = await api.new_object(*FIELDS)
    file = tmp_path / "cars.csv"
    file.write_text("external_id,name\n" + "".join(f"{n},Car {n}\n" for n in range(500)))
    monkeypatch.setattr(client, "_ANSWER_LIMIT_BYTES", 8000)
    ran = await imported(api, file, car)
    assert ran.code == 1
    assert "its answer has no end" in ran.err


async def test_a_rate_limit_is_waited_for_and_every_row_is_taken(cluster: Cluster, tmp_path: Path) -> None:
    async with running(await cluster.new_database(), rate_limit_token="8/second") as service:
        api = Api(service, await service.token())
        car = await api.new_object()
        file = tmp_path / "cars.csv"
        file.write_text("external_id,name\n" + "".join(f"{n},Car {n}\n" for n in range(1500)))
        ran = await imported(api, file, car)
        await api.client.aclose()
    assert ran.code == 0, ran
    assert (ran.counts[3], sum(ran.counts)) == (0, 1500), ran


@contextlib.asynccontextmanager
async def cutting(address: str, *, after_bytes: int, times: int) -> AsyncIterator[str]:
    """Another address of a service, which cuts off the first few large answers in their middle."""
    host, port = address.removeprefix("http://").split(":")
    left = [times]

    async def passed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        service_reader, service_writer = await asyncio.open_connection(host, int(port))

        async def there() -> None:
            with contextlib.suppress(ConnectionError):
                while data := await reader.read(65536):
                    service_writer.write(data)
            service_writer.close()

        async def back() -> None:
            size = 0
            with contextlib.suppress(ConnectionError):
                while data := await service_reader.read(4096):
                    size += len(data)
                    if size > after_bytes and left[0]:
                        left[0] -= 1
                        break
                    writer.write(data)
            writer.close()
            service_writer.close()

        await asyncio.gather(there(), back())

    server = await asyncio.start_server(passed, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    assert not left[0], "no answer was cut off"
