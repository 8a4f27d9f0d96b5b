"""A file whose rows look up each other goes in whole, whatever their order."""

import asyncio
import random
import signal
from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest

from tests.support.harness import Api
from tests.transfer.test_importing import delayed, imported, names, refused, started
from upsert_svc.transfer import import_sending

CHAIN = [("0", "")] + [(str(n), f"external_id:{n - 1}") for n in range(1, 50)]


async def new_tree(api: Api) -> str:
    """An object whose records name their parents."""
    key = await api.new_object({"key": "size", "type": "integer"})
    field = {"key": "parent", "type": "lookup", "relationship_target_type": f"zen:custom_object:{key}"}
    answer = await api.client.post(
        f"/custom_objects/{key}/fields", json={"custom_object_field": {**field, "title": "Parent"}}
    )
    assert answer.status_code == 201, answer.text
    return key


def write(file: Path, rows: Sequence[tuple[str, ...]]) -> None:
    lines = [",".join([*row, ""][:3]) for row in rows]
    file.write_text("\n".join(["external_id,parent,size,name", *(f"{line},No. {line[0]}" for line in lines)]))


def shuffled() -> list[tuple[str, str]]:
    rows = CHAIN.copy()
    random.Random(7).shuffle(rows)
    return rows


@pytest.mark.parametrize("rows", [CHAIN, CHAIN[::-1], shuffled()], ids=["down", "up", "shuffled"])
async def test_a_chain_goes_in_by_the_first_run_in_any_order(
    api: Api, tmp_path: Path, rows: list[tuple[str, str]]
) -> None:
    tree = await new_tree(api)
    write(file := tmp_path / "tree.csv", rows)

    first, second = await imported(api, file, tree), await imported(api, file, tree)

    assert (first.code, first.counts) == (0, [50, 0, 0, 0]), first
    assert (second.code, second.counts) == (0, [0, 0, 50, 0]), second
    assert names(tmp_path) == ["tree.csv"]


async def test_a_row_whose_lookup_is_never_found_is_refused_once_and_the_others_are_taken(
    api: Api, tmp_path: Path
) -> None:
    tree = await new_tree(api)
    file = tmp_path / "tree.csv"
    write(file, [("1", "external_id:none"), ("2", "external_id:1"), ("3", "external_id:4"), ("4", "")])

    ran = await imported(api, file, tree)

    assert (ran.code, ran.counts) == (3, [2, 0, 0, 2]), ran
    missing = {"parent": ["parent names a record that does not exist"]}
    assert [(row["line"], row["key"], row["status"], row["reasons"]) for row in refused(file)] == [
        (2, "1", 422, missing),
        (3, "2", 422, missing),
    ]


async def test_later_rows_of_the_key_of_a_row_that_waits_are_sent_behind_it(api: Api, tmp_path: Path) -> None:
    tree = await new_tree(api)
    file = tmp_path / "tree.csv"
    rows = [("A", "external_id:Z", "1"), ("A", "", "2"), ("B", "external_id:none", "1"), ("B", "", "2")]
    write(file, [*rows, ("C", "external_id:B", "1"), ("Z", "", "1"), ("A", "", "3")])

    ran = await imported(api, file, tree)

    assert (ran.code, ran.counts) == (3, [4, 2, 0, 1]), ran
    records = {record["external_id"]: record for record in await api.records(tree)}
    sizes = {key: record["custom_object_fields"]["size"] for key, record in records.items()}
    assert sizes == {"A": 3, "B": 2, "C": 1, "Z": 1}
    assert records["A"]["custom_object_fields"]["parent"] == records["Z"]["id"]
    assert [row["line"] for row in refused(file)] == [4]


async def test_where_too_many_rows_wait_they_are_tried_meanwhile_and_the_second_run_takes_the_rest(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    down, up = await new_tree(api), await new_tree(api)
    write(down_file := tmp_path / "down.csv", CHAIN)
    write(up_file := tmp_path / "up.csv", CHAIN[::-1])
    monkeypatch.setattr(import_sending, "WAITING_LIMIT_BYTES", 10_000)

    whole = await imported(api, down_file, down)
    part = await imported(api, up_file, up, options=["--concurrency", "1"])
    rest = await imported(api, up_file, up, options=["--concurrency", "1"])

    assert (whole.code, whole.counts) == (0, [50, 0, 0, 0]), whole
    created, _, _, missing = part.counts
    assert (part.code, created + missing) == (3, 50), part
    assert (rest.code, rest.counts) == (0, [missing, 0, created, 0]), rest


async def test_rows_that_waited_when_the_import_was_killed_are_sent_when_it_goes_on(
    api: Api, tmp_path: Path
) -> None:
    tree, total = await new_tree(api), 4000
    file = tmp_path / "tree.csv"
    write(file, [("0", f"external_id:{total - 1}"), ("0", "", "7"), *((str(n), "") for n in range(1, total))])
    state, delays = tmp_path / "tree.csv.import-state", [0.3]

    def is_under_way() -> bool:
        return state.exists() and orjson.loads(state.read_bytes())["line"] > 100

    async with delayed(api.running.address, lambda: delays[0]) as url:
        process = await started(file, tree, "external_id", url, api.token)
        while process.returncode is None and not is_under_way():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        delays[0] = 60
        process.send_signal(signal.SIGKILL)
        await process.wait()
        settled = orjson.loads(state.read_bytes())
        delays[0] = 0
        ran = await imported(api, file, tree, url=url)

    assert [line for _, line in settled["waiting"]] == [1, 2]
    assert (ran.code, sum(ran.counts)) == (0, total + 1), ran
    records = {record["external_id"]: record for record in await api.records(tree)}
    fields = records["0"]["custom_object_fields"]
    assert (len(records), fields["parent"], fields["size"]) == (total, records[str(total - 1)]["id"], 7)
    assert names(tmp_path) == ["tree.csv"]
