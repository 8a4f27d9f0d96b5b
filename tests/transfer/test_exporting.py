import asyncio
import csv
import io
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jiter
import orjson
import psutil
import pytest
from typer.testing import CliRunner

from tests.support.harness import Api, Cluster, record_of, running
from tests.transfer.test_importing import Ran, delayed, imported, names
from upsert_svc.__main__ import app
from upsert_svc.transfer.cells import Kind
from upsert_svc.transfer.client import TransferFailed
from upsert_svc.transfer.export_rows import CsvLines, NdjsonLines
from upsert_svc.transfer.import_rows import TargetDefinition, of_cells

OPTIONS = [
    {"name": value, "value": value} for value in ("roof", "a;b", "; x", "[1]", '["roof"]', "é", '"', "0")
]
EVERY_TYPE: tuple[dict[str, Any], ...] = (
    {"key": "color", "type": "text"},
    {"key": "notes", "type": "textarea"},
    {"key": "plate", "type": "regexp", "regexp_for_validation": "^0*[0-9]+$"},
    {"key": "electric", "type": "checkbox"},
    {"key": "built", "type": "date"},
    {"key": "year", "type": "integer"},
    {"key": "price", "type": "decimal"},
    {"key": "worth", "type": "currency", "properties": {"currency": "JPY"}},
    {"key": "kind", "type": "dropdown", "custom_field_options": OPTIONS},
    {"key": "extras", "type": "multiselect", "custom_field_options": OPTIONS},
    {"key": "twin", "type": "lookup", "relationship_target_type": "zen:user"},
    {"key": "specs", "type": "json"},
)
NULLS = dict.fromkeys(str(field["key"]) for field in EVERY_TYPE)
# As JSON text, because the tests' own JSON would round the numbers.
AWKWARD: tuple[str, ...] = (
    '{"color": "say \\"hi\\", she; said", "notes": "one\\r\\ntwo\\nthree\\rfour\\n", "plate": "007"}',
    '{"color": "=1+1", "notes": "@cmd|\' /C calc\'!A0", "kind": "a;b", "extras": ["roof", "é"]}',
    '{"color": " \\t ", "notes": "Zoë 北京 🚗 e\\u0301 \\u2028 \\ufeff", "electric": false, "kind": "0"}',
    '{"color": "null", "notes": "-", "electric": true, "built": "0001-01-01", "year": -999999999999}',
    '{"price": 123456789012345.123456789012345, "year": 0, "extras": ["a;b"], "twin": "zen:1, \\"2\\""}',
    '{"price": -0.000000000000001, "extras": ["; x", "[1]", "\\""], "specs": {"a": [1.10, {"b": null}]}}',
    '{"price": 1.500, "extras": ["[1]"], "specs": "text; \\"quoted\\"", "kind": "[1]"}',
    '{"price": 0.0, "extras": ["[\\"roof\\"]"], "specs": false, "kind": "[\\"roof\\"]"}',
    '{"extras": ["roof"], "specs": [], "built": "9999-12-31", "color": "true", "notes": "1e5"}',
    '{"specs": [0.9999999999999999, {"a": 1e-30}, -123456789012345.67, 1E+2, -0.0], "worth": -1.500}',
    '{"specs": 99999999999999.001, "color": "\\\\N", "notes": "\\\\\\"", "plate": "000"}',
    '{"specs": "", "extras": [], "color": "#N/A", "notes": "\\n"}',
    "{}",
)
NESTED_NULLS = '{"specs": {"a": null, "b": {"c": null, "d": 1.0}}}'
EMPTY_TEXTS = '{"color": "", "notes": "", "specs": {"": ""}}'


async def exported(api: Api, object_key: str, *arguments: str, token: str = "", url: str = "") -> Ran:
    """Runs the command in a thread, which spares it the start of a process."""
    environment = {"UPSERT_SVC_URL": url or api.running.address, "UPSERT_SVC_TOKEN": token or api.token}
    command = ["export", object_key, *arguments]
    result = await asyncio.to_thread(CliRunner().invoke, app, command, env=environment)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ran(result.exit_code, result.stdout, result.stderr)


async def started(
    api: Api, object_key: str, *arguments: str, url: str = "", stdout: int = asyncio.subprocess.PIPE
) -> asyncio.subprocess.Process:
    environment = os.environ | {
        "UPSERT_SVC_URL": url or api.running.address,
        "UPSERT_SVC_TOKEN": api.token,
        "PYTHONUNBUFFERED": "",  # what stands in a buffer at the end is written then
    }
    command = [sys.executable, "-m", "upsert_svc", "export", object_key, *arguments]
    stderr = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(*command, env=environment, stdout=stdout, stderr=stderr)


async def filled(api: Api, object_key: str, fields: Sequence[str]) -> None:
    for number, text in enumerate(fields):
        record = {"name": f"No. {number}", "custom_object_fields": orjson.Fragment(text)}
        path = f"/custom_objects/{object_key}/records?external_id=0{number}"
        headers = {"Content-Type": "application/json"}
        response = await api.client.put(
            path, content=orjson.dumps({"custom_object_record": record}), headers=headers
        )
        record_of(response)


async def many(api: Api, count: int) -> str:
    """An object with so many records, made in the database."""
    car = await api.new_object({"key": "color", "type": "text"}, {"key": "year", "type": "integer"})
    record_of(await api.upsert(car, {"name": "Car 0"}, external_id="0"))
    async with api.running.sql() as connection:
        await connection.execute(
            """
            insert into records (account_id, object_id, created_by_user_id, updated_by_user_id,
                                 definition_version, naming, record_id, name, external_id, fields)
            select r.account_id, r.object_id, r.created_by_user_id, r.updated_by_user_id,
                   r.definition_version, r.naming, '0' || lpad(n::text, 25, '0'), 'Car ' || n, n::text,
                   jsonb_build_object('year', n, 'color', repeat('x', 500))
              from records r join objects o using (account_id, object_id), generate_series(1, $2::integer) n
             where o.key = $1
            """,
            car,
            count - 1,
        )
    return car


async def stored(api: Api, object_key: str) -> list[tuple[str, ...]]:
    """What the database holds of an object's records, to the digit."""
    async with api.running.sql() as connection:
        rows = await connection.fetch(
            "select external_id, name, fields::text from records join objects using (account_id, object_id)"
            " where objects.key = $1 order by external_id",
            object_key,
        )
    return [tuple(row) for row in rows]


def without_nulls(rows: Sequence[tuple[str, ...]]) -> list[tuple[Any, ...]]:
    """A field that was sent as null may be stored as such or not at all, which is the same."""
    found = []
    for external_id, name, fields in rows:
        values = jiter.from_json(fields.encode(), float_mode="decimal")
        found.append((external_id, name, {key: value for key, value in values.items() if value is not None}))
    return found


# Round trips


@pytest.mark.parametrize("suffix", ["csv", "ndjson"])
async def test_what_was_exported_is_unchanged_when_it_is_imported_again(
    api: Api, tmp_path: Path, suffix: str
) -> None:
    car = await api.new_object(*EVERY_TYPE)
    await filled(api, car, [*AWKWARD, EMPTY_TEXTS])
    before = await stored(api, car)
    file = tmp_path / f"cars.{suffix}"

    ran = await exported(api, car, "--output", str(file))
    again = await imported(api, file, car)

    total = len(AWKWARD) + 1
    assert ran.code == 0, ran
    assert ran.out.startswith(f"{total} records in ")
    assert names(tmp_path) == [file.name]
    assert (again.code, again.counts) == (0, [0, 0, total, 0]), again
    assert await stored(api, car) == before


@pytest.mark.parametrize("suffix", ["csv", "ndjson"])
@pytest.mark.parametrize("replace", [False, True])
async def test_what_was_exported_makes_the_same_records_in_another_object(
    api: Api, tmp_path: Path, suffix: str, replace: bool
) -> None:
    car, copy = await api.new_object(*EVERY_TYPE), await api.new_object(*EVERY_TYPE)
    await filled(api, car, AWKWARD)
    file, options = tmp_path / f"cars.{suffix}", ["--replace"] if replace else []

    await exported(api, car, "--output", str(file))
    ran = await imported(api, file, copy, options=options)

    assert (ran.code, ran.counts) == (0, [len(AWKWARD), 0, 0, 0]), ran
    assert without_nulls(await stored(api, copy)) == without_nulls(await stored(api, car))


async def test_ndjson_keeps_even_empty_texts_and_nested_nulls_where_rows_replace(
    api: Api, tmp_path: Path
) -> None:
    car, copy = await api.new_object(*EVERY_TYPE), await api.new_object(*EVERY_TYPE)
    await filled(api, car, [EMPTY_TEXTS, NESTED_NULLS])
    file = tmp_path / "cars.ndjson"

    await exported(api, car, "--output", str(file))
    ran = await imported(api, file, copy, options=["--replace"])
    again = await imported(api, file, car, options=["--replace"])

    assert (ran.code, ran.counts) == (0, [2, 0, 0, 0]), ran
    assert (again.code, again.counts) == (0, [0, 0, 2, 0]), again
    assert await stored(api, copy) == await stored(api, car)
    assert '"a": null' in (await stored(api, copy))[1][2]


async def test_csv_tells_how_many_texts_it_could_not_tell_from_null(api: Api, tmp_path: Path) -> None:
    car = await api.new_object(*EVERY_TYPE)
    await filled(api, car, [EMPTY_TEXTS, "{}"])

    as_csv = await exported(api, car, "--output", str(tmp_path / "cars.csv"))
    as_ndjson = await exported(api, car, "--output", str(tmp_path / "cars.jsonl"))

    assert as_csv.err == "2 empty texts became empty cells, as nulls do; NDJSON keeps them apart\n"
    assert as_ndjson.err == ""


async def test_rows_that_replace_empty_what_they_leave_out(api: Api, tmp_path: Path) -> None:
    car = await api.new_object(*EVERY_TYPE)
    await filled(api, car, ['{"color": "red", "year": 2026}'])
    file = tmp_path / "cars.csv"
    file.write_text("external_id,color,year\n00,,2027\n")

    kept = await imported(api, file, car)
    [patched] = await api.records(car)
    replaced = await imported(api, file, car, options=["--replace"])
    [record] = await api.records(car)

    assert (kept.counts, replaced.counts) == ([0, 1, 0, 0], [0, 1, 0, 0])
    assert patched["custom_object_fields"]["color"] == "red"
    assert record["name"] == "No. 0"
    assert record["custom_object_fields"] == NULLS | {"year": 2027}


async def test_numbered_names_are_written_and_not_sent_back(api: Api, tmp_path: Path) -> None:
    car = await api.new_object(
        {"key": "color", "type": "text"}, naming={"autoincrement_enabled": True, "autoincrement_prefix": "C-"}
    )
    for external_id in ("A", "B"):
        record_of(await api.upsert(car, {}, external_id=external_id))
    file = tmp_path / "cars.ndjson"

    await exported(api, car, "--output", str(file))
    ran = [await imported(api, file, car, options=options) for options in ([], ["--replace"])]

    assert [orjson.loads(line)["name"] for line in file.read_bytes().splitlines()] == ["C-1", "C-2"]
    assert [(each.code, each.counts) for each in ran] == [(0, [0, 0, 2, 0])] * 2


async def test_records_of_unique_names_go_there_and_back_without_external_ids(
    api: Api, tmp_path: Path
) -> None:
    car = await api.new_object({"key": "color", "type": "text"}, naming={"is_unique": True})
    for name in ("Straße", "=A", ' "B"'):
        record_of(await api.upsert(car, {}, name=name))
    file = tmp_path / "cars.csv"

    ran = await exported(api, car, "--output", str(file))
    again = await imported(api, file, car, "name")

    said = "3 records have no external_id; import the file with --key name, which finds them too\n"
    assert (ran.code, ran.err) == (0, said)
    assert (again.code, again.counts) == (0, [0, 0, 3, 0]), again


async def test_records_that_an_import_would_not_find_are_counted(api: Api, tmp_path: Path) -> None:
    car = await api.new_object()
    for name in ("Ada", "Bo"):
        assert (await api.create(car, name=name)).status_code == 201

    ran = await exported(api, car, "--output", str(tmp_path / "cars.csv"))

    assert (ran.code, ran.err) == (0, "2 records have no external_id, by which an import would find them\n")


# What is written


async def test_a_csv_has_name_external_id_and_the_active_fields_by_position(api: Api, tmp_path: Path) -> None:
    car = await api.new_object(*({"key": key, "type": "text"} for key in ("first", "second", "third")))
    await filled(api, car, ['{"first": "1", "second": "2", "third": "3"}'])
    path = f"/custom_objects/{car}/fields"
    third = (await api.client.get(f"{path}/third")).json()["custom_object_field"]["id"]
    await api.client.put(f"{path}/reorder", json={"custom_object_field_ids": [str(third)]})
    await api.client.patch(f"{path}/first", json={"custom_object_field": {"active": False}})
    file = tmp_path / "cars.csv"

    await exported(api, car, "--output", str(file))

    assert file.read_bytes() == b"name,external_id,third,second\r\nNo. 0,00,3,2\r\n"


async def test_the_standard_output_takes_ndjson_and_nothing_else(api: Api) -> None:
    car = await api.new_object({"key": "price", "type": "decimal"}, {"key": "specs", "type": "json"})
    await filled(api, car, ['{"price": 1.50, "specs": {"a": 2.0}}', "{}"])

    ran = await exported(api, car)

    assert (ran.code, ran.out) == (
        0,
        '{"name":"No. 0","external_id":"00","price":1.50,"specs":{"a":2.0}}\n'
        '{"name":"No. 1","external_id":"01","price":null,"specs":null}\n',
    )
    assert ran.err.startswith("2 records in ")


async def test_a_format_may_be_named(api: Api, tmp_path: Path) -> None:
    car = await api.new_object()
    await filled(api, car, ["{}"])

    out = await exported(api, car, "--format", "csv")
    file = await exported(api, car, "--format", "ndjson", "--output", str(tmp_path / "cars.txt"))

    assert out.out.splitlines() == ["name,external_id", "No. 0,00"]
    assert file.code == 0
    assert (tmp_path / "cars.txt").read_text() == '{"name":"No. 0","external_id":"00"}\n'


async def test_an_object_without_records_is_a_header(api: Api, tmp_path: Path) -> None:
    car = await api.new_object({"key": "color", "type": "text"})

    ran = await exported(api, car, "--output", str(tmp_path / "cars.csv"))
    await exported(api, car, "--output", str(tmp_path / "cars.ndjson"))

    assert ran.out.startswith("0 records in ")
    assert (tmp_path / "cars.csv").read_text() == "name,external_id,color\n"
    assert (tmp_path / "cars.ndjson").read_text() == ""


async def test_every_record_of_every_page_is_written_once(api: Api, tmp_path: Path) -> None:
    car = await many(api, 1201)
    file = tmp_path / "cars.csv"

    ran = await exported(api, car, "--output", str(file))

    with file.open(newline="") as lines:
        ids = [row["external_id"] for row in csv.DictReader(lines)]
    assert ran.out.startswith("1201 records in ")
    assert sorted(ids, key=int) == [str(number) for number in range(1201)]


async def test_a_filter_names_lookups_and_users_as_a_search_does(api: Api) -> None:
    people = await api.new_object(naming={"is_unique": True})
    target = {"type": "lookup", "relationship_target_type": f"zen:custom_object:{people}"}
    cars = await api.new_object({"key": "owner", **target})
    for name in ("Ann", "Bob"):
        record_of(await api.create(people, name=name, external_id=f"P{name}"))
        fields = {"owner": f"name:{name}"}
        record = record_of(
            await api.upsert(cars, {"name": name, "custom_object_fields": fields}, external_id=name)
        )
    user = record["updated_by_user_id"]
    owner = "custom_object_fields.owner"
    for filter_, expected in (
        ({owner: {"$eq": "external_id:PAnn"}}, ["Ann"]),
        ({owner: {"$in": ["name:ann", "external_id:PBob", "external_id:nobody"]}}, ["Ann", "Bob"]),
        ({owner: {"$notin": ["name:ann"]}}, ["Bob"]),
        ({"$or": [{owner: {"$noteq": "name:Ann"}}, {"$and": [{owner: {"$eq": "name:nobody"}}]}]}, ["Bob"]),
        ({"updated_by_user": {"$eq": user}, "created_by_user": {"$in": [user]}}, ["Ann", "Bob"]),
        ({"created_by_user": {"$noteq": user}}, []),
    ):
        ran = await exported(api, cars, "--filter", orjson.dumps(filter_).decode())
        names = [orjson.loads(line)["name"] for line in ran.out.splitlines()]
        assert (ran.code, names) == (0, expected), filter_


async def test_a_filter_chooses_the_records(api: Api) -> None:
    car = await many(api, 450)
    filter_ = '{"custom_object_fields.year": {"$gt": 99, "$lte": 349}}'

    ran = await exported(api, car, "--filter", filter_)

    years = sorted(orjson.loads(line)["year"] for line in ran.out.splitlines())
    assert (ran.code, years) == (0, list(range(100, 350)))


@pytest.mark.parametrize(
    ("values", "cell"),
    [
        (["a", "b"], "a;b"),
        (["a;b"], '["a;b"]'),
        ([" a"], '[" a"]'),
        (["[1]"], "[1]"),
        (['["a"]'], '["[\\"a\\"]"]'),
        ([], "[]"),
    ],
)
def test_a_list_is_written_so_that_the_import_reads_that_very_list(values: list[str], cell: str) -> None:
    kinds: dict[str, Kind] = {"extras": "list"}
    record = {"name": "Ada", "external_id": "A", "custom_object_fields": {"extras": values}}

    [cells] = csv.reader(io.StringIO(CsvLines(kinds).of([record]).decode(), newline=""))
    upsert = of_cells(TargetDefinition("car", "external_id", kinds), ["name", "external_id", "extras"], cells)

    assert cells[2] == cell
    assert orjson.loads(upsert.record)["custom_object_fields"] == {"extras": values}


def test_records_with_other_fields_than_the_object_had_are_refused() -> None:
    record = {"name": "Ada", "external_id": "A", "custom_object_fields": {"year": 1, "color": None}}

    with pytest.raises(TransferFailed, match="changed during the export"):
        NdjsonLines({"year": "integer"}).of([record])


# What goes wrong


async def test_what_cannot_be_exported_is_one_line_of_complaint_and_leaves_the_file_alone(
    api: Api, tmp_path: Path
) -> None:
    car, named = await api.new_object(), await api.new_object({"key": "name", "type": "text"})
    (file := tmp_path / "cars.csv").write_text("of yesterday")
    (folder := tmp_path / "folder.csv").mkdir()
    output = ["--output", str(file)]

    complaints = {
        "no object no_such_object": await exported(api, "no_such_object", *output),
        "401 Couldn't authenticate you": await exported(api, car, *output, token="no-such-token"),
        "in 3 tries": await exported(api, car, *output, url="http://127.0.0.1:9"),
        "not an http": await exported(api, car, *output, url="localhost:8080"),
        "No such file": await exported(api, car, "--output", str(tmp_path / "none" / "cars.csv")),
        "names neither csv nor ndjson": await exported(api, car, "--output", str(tmp_path / "cars.txt")),
        "is a directory": await exported(api, car, "--output", str(folder)),
        "has a field name": await exported(api, named, *output),
        "--filter is not a JSON object": await exported(api, car, *output, "--filter", "[1]"),
        "400 ": await exported(api, car, *output, "--filter", '{"color": {"$eq": 1}}'),
    }

    for words, ran in complaints.items():
        assert (ran.code, ran.out) == (1, ""), ran
        assert words in ran.err
        assert ran.err.count("\n") == 1
    assert file.read_text() == "of yesterday"
    assert names(tmp_path) == ["cars.csv", "folder.csv"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("count", [1, 1000])
async def test_a_full_disk_behind_the_standard_output_is_told_in_one_line(api: Api, count: int) -> None:
    car = await many(api, count)
    full = os.open("/dev/full", os.O_WRONLY)

    process = await started(api, car, stdout=full)
    os.close(full)
    _, err = await process.communicate()

    assert (process.returncode, err) == (1, b"The standard output: No space left on device\n")


@pytest.mark.parametrize("path", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
async def test_a_pipe_is_no_file_to_export_to(api: Api, path: str) -> None:
    process = await started(api, "car", "--output", path, "--format", "csv")
    out, err = await process.communicate()

    said = f"{path} is not a file; without --output the records go to the standard output\n"
    assert (process.returncode, out, err.decode()) == (1, b"", said)


async def test_a_link_stays_a_link(api: Api, tmp_path: Path) -> None:
    car = await api.new_object()
    (tmp_path / "folder").mkdir()
    (link := tmp_path / "cars.csv").symlink_to(tmp_path / "folder" / "real.csv")

    ran = await exported(api, car, "--output", str(link))

    assert ran.code == 0, ran
    assert link.is_symlink()
    assert names(tmp_path / "folder") == ["real.csv"]


@pytest.mark.parametrize(
    ("sign", "left"),
    [(signal.SIGKILL, ["cars.csv", "cars.csv.part"]), (signal.SIGINT, ["cars.csv"])],
)
async def test_an_export_that_was_interrupted_leaves_the_old_file_and_the_next_one_begins_anew(
    api: Api, tmp_path: Path, sign: signal.Signals, left: list[str]
) -> None:
    car = await many(api, 3000)
    (file := tmp_path / "cars.csv").write_text("of yesterday")
    part = tmp_path / "cars.csv.part"

    def is_begun() -> bool:
        return part.exists() and part.stat().st_size > 0

    async with delayed(api.running.address, lambda: 60 if is_begun() else 0.05) as url:
        process = await started(api, car, "--output", str(file), url=url)
        while process.returncode is None and not is_begun():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        twin = await exported(api, car, "--output", str(file))
        process.send_signal(sign)
        _, err = await process.communicate()

    assert (twin.code, twin.err) == (1, f"{part} is being written already\n")
    assert process.returncode
    assert b"Traceback" not in err
    assert names(tmp_path) == left
    assert file.read_text() == "of yesterday"
    ran = await exported(api, car, "--output", str(file))
    assert (ran.code, len(file.read_text().splitlines())) == (0, 3001)
    assert names(tmp_path) == ["cars.csv"]


async def test_a_busy_service_is_asked_again_and_nothing_is_written_twice(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with running(await cluster.new_database(), rate_limit_token="6/second") as limited:
        unlimited = Api(limited, await limited.token())
        async with unlimited.client:
            car = await many(unlimited, 950)
            file = tmp_path / "cars.ndjson"
            ran = await exported(unlimited, car, "--output", str(file), token=await limited.token())

    ids = [orjson.loads(line)["external_id"] for line in file.read_bytes().splitlines()]
    assert ran.code == 0, ran
    assert sorted(ids, key=int) == [str(number) for number in range(950)]


@pytest.mark.parametrize("count", [1, 1000])
async def test_a_reader_that_went_away_ends_the_export_without_a_traceback(api: Api, count: int) -> None:
    car = await many(api, count)
    reading, writing = os.pipe()
    os.close(reading)

    process = await started(api, car, stdout=writing)
    os.close(writing)
    _, err = await process.communicate()

    assert (process.returncode, err) == (1, b"The standard output was closed before the end\n")


async def test_memory_does_not_grow_with_the_object(api: Api, tmp_path: Path) -> None:
    car = await many(api, 60_000)  # 35 MB

    process = await started(api, car, "--output", str(tmp_path / "cars.ndjson"))
    peak = 0
    while process.returncode is None:
        try:
            peak = max(peak, psutil.Process(process.pid).memory_info().rss)
        except psutil.NoSuchProcess:
            break
        await asyncio.sleep(0.05)
    out, _ = await process.communicate()

    assert out.startswith(b"60000 records in ")
    assert 0 < peak < 110_000_000
