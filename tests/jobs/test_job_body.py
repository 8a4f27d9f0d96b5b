"""The body of a job taken apart: the same as a parser of JSON reads, and piece by piece."""

import json
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upsert_svc import json_body
from upsert_svc.errors import BadRequest, RecordInvalid, TooManyValues
from upsert_svc.jobs import job_body
from upsert_svc.jobs.job_body import ITEM_LIMIT, JobRequest
from upsert_svc.jobs.job_items import TOO_LARGE

LIMIT = 256 * 1024
MEBIBYTE = 1024 * 1024


class Watch:
    """Counts the pieces, and keeps the time of the longest."""

    def __init__(self) -> None:
        self.pieces = 0
        self.longest = 0.0
        self._begun = time.process_time()

    async def __call__(self) -> None:
        now = time.process_time()
        self.pieces += 1
        self.longest = max(self.longest, now - self._begun)
        self._begun = now


async def parse(raw: bytes, watch: Callable[[], Any] | None = None) -> tuple[JobRequest, list[str]]:
    return await job_body.parse(raw, watch or Watch(), item_limit_bytes=LIMIT)


def job_of(items: str, **more: Any) -> bytes:
    rest = "".join(f", {json.dumps(name)}: {json.dumps(value)}" for name, value in more.items())
    return f'{{"job": {{"action": "create", "items": {items}{rest}}}}}'.encode()


async def test_items_are_kept_to_the_character() -> None:
    items = ['{"name":  "a, ]}\\"", "x": [1.50, 2]}', "12345678901234567890123", "0.10", '"\\\\"', "null"]
    listed = " ,\n".join(items)
    request, ignored = await parse(job_of(f"[ {listed}\t]", photo=[1, [2]], more={"a": {"b": "]"}}))
    assert [str(item, "utf-8") for item in request.items] == items
    assert (request.action, ignored) == ("create", ["photo", "more"])


@pytest.mark.parametrize(
    "raw",
    [
        b'{"more": [[1], "]"], "job": {"x": {"a": 1, "b": [2]}, "items": [1, 2], "action": "create"}}',
        b'{"job": {"\\u0069tems": [1,2], "action": "create"}}',
        b' {"job":{"items":[1,2],"z":[],"action":"create"},"items":[3]} ',
        b'{"job": {"other": ["items", [3, 4]], "items": [1,2], "action": "create"}}',
    ],
)
async def test_items_are_found_wherever_they_stand(raw: bytes) -> None:
    request, _ = await parse(raw)
    assert [*request.items] == [b"1", b"2"]


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "empty"),
        (b"[]", "must be a JSON object"),
        (b"{}", "key job"),
        (b'{"job": []}', "job must be a JSON object"),
        (b'{"job": {"action": "create"}}', "items must be a list"),
        (job_of("[]"), "items must be a list"),
        (job_of("[ \n]"), "items must be a list"),
        (job_of('{"a": [1]}'), "items must be a list"),
        (job_of("[1]").replace(b"create", b"burn"), "action must be one of"),
        (job_of("[1,]"), "items[1]: The body is empty"),
        (job_of("[1,,2]"), "items[1]: The body is empty"),
        (job_of("[1 2]"), "items[0]: The body is not valid JSON: Extra data"),
        (job_of('[{"a": 1, "a": 2}]'), "items[0]: The body is not valid JSON: the key a is given twice"),
        (job_of("[1, {'a': 1}]"), "items[1]: The body is not valid JSON"),
        (job_of("[NaN]"), "NaN is not a JSON number"),
        (job_of('["\xff"]').decode().encode("latin-1"), "not UTF-8"),
        (job_of(f"[{'[' * 18}{']' * 18}]"), "nested deeper than 20"),
        (job_of("[{]]"), "not valid JSON"),
        (job_of("[1}"), "not valid JSON"),
        (job_of("[1]]"), "not valid JSON"),
        (job_of("[1]")[:-1], "not valid JSON"),
        (job_of("[1]") + b"x", "Extra data"),
        (job_of('["a'), "not valid JSON"),
        (job_of("[1], \"items\": [2]"), "the key items is given twice"),
        (job_of("[1]").replace(b"create", b"\x01"), "control character"),
        (job_of("[1]", other=[1]).replace(b"[1]}", b"[1,]}"), "not valid JSON"),
        (job_of("[1]", other="x" * LIMIT), "bytes beside the items"),
        (job_of("[1]", other=["x" * LIMIT]), "bytes beside the items"),
        (b"[" * 16 * MEBIBYTE, "bytes beside the items"),
        (b'{"job": {"items": [' + b"[" * MEBIBYTE, "bytes beside the items"),
        (b'{"job": {"items": ["' + b"\\" * MEBIBYTE, "bytes beside the items"),
        (b'{"job": {' + b'"a": [], ' * 30_000, "at most 20000 values"),
    ],
)  # fmt: skip
async def test_what_is_no_job_is_a_bad_request_that_says_why(raw: bytes, said: str) -> None:
    with pytest.raises(BadRequest) as caught:
        await parse(raw)
    assert said in str(caught.value.description)


async def test_more_items_than_a_job_may_have_are_refused_with_the_limit() -> None:
    assert len((await parse(job_of(json.dumps([0] * ITEM_LIMIT))))[0].items) == ITEM_LIMIT
    for count in (ITEM_LIMIT + 1, 1_000_000):
        with pytest.raises(TooManyValues):
            await parse(job_of(json.dumps([0] * count)))


async def test_text_that_cannot_be_stored_is_refused() -> None:
    with pytest.raises(RecordInvalid):
        await parse(job_of('[{"name": "\\u0000"}]'))


async def test_an_item_that_no_request_could_carry_is_left_out() -> None:
    text, numbers = json.dumps("x" * LIMIT), json.dumps([0] * 20_000)
    request, _ = await parse(job_of(f"[1, {text}, 2, {numbers}, 3]"))
    assert request.items == [b"1", TOO_LARGE, b"2", TOO_LARGE, b"3"]


LARGE = {
    "one list": "[" + ",".join(["0.1"] * 4_000_000) + "]",
    "decimals": ",".join(["[" + ",".join(["0.1"] * 40_000) + "]"] * 100),
    "decimals within the limit": ",".join(["[" + ",".join(["0.12345678"] * 14_000) + "]"] * 100),
    "lists": ",".join(["[" + ",".join(["[]"] * 50_000) + "]"] * 100),
    "deep lists": ",".join(["[" + ",".join(["[" * 15 + "]" * 15] * 5_000) + "]"] * 100),
    "texts": ",".join(['["' + '","'.join(["a"] * 40_000) + '"]'] * 100),
    "quotes": ",".join([json.dumps('"' * 80_000)] * 100),
    "keys": ",".join(["{" + ",".join(f'"{n}":1' for n in range(18_000)) + "}"] * 80),
    "items": ",".join(["[]"] * 5_000_000),
}


@pytest.mark.parametrize("name", LARGE)
async def test_no_piece_of_a_large_job_holds_up_the_others(name: str) -> None:
    raw, watch = job_of(f"[{LARGE[name]}]"), Watch()
    assert len(raw) < 17 * MEBIBYTE
    try:
        request, _ = await parse(raw, watch)
    except TooManyValues:
        assert name == "items"
    else:
        assert len(request.items) == {"one list": 1, "keys": 80}.get(name, 100)
    assert watch.pieces > 1
    assert watch.longest < 0.25


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.decimals(allow_nan=False, allow_infinity=False, places=3).map(float)
    | st.text(st.characters(exclude_characters="\0", codec="utf-8") | st.sampled_from('"\\[]{},')),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('ab"\\[]{},é'), inner, max_size=4),
    max_leaves=15,
)


@settings(deadline=None)
@given(
    items=st.lists(json_values, min_size=1, max_size=6),
    beside=st.dictionaries(st.text("abcdef"), json_values, max_size=3),
    around=st.dictionaries(st.text("abcdef"), json_values, max_size=3),
    is_ascii=st.booleans(),
    indent=st.sampled_from([None, 1]),
    slice_bytes=st.integers(1, 40),
)
async def test_every_body_is_read_as_any_reader_reads_it(
    items: list[Any], beside: Any, around: Any, is_ascii: bool, indent: int | None, slice_bytes: int
) -> None:
    body = around | {"job": beside | {"action": "update", "items": items}}
    raw = json.dumps(body, ensure_ascii=is_ascii, indent=indent).encode()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(job_body, "_SLICE_BYTES", slice_bytes)
        request, ignored = await parse(raw)
    expected = json.loads(raw, parse_float=Decimal)
    assert [json_body.parse(bytes(item)) for item in request.items] == expected["job"]["items"]
    assert ignored == [*around, *beside]


@settings(deadline=None)
@given(
    raw=st.lists(
        st.sampled_from(
            [
                *(
                    b"{",
                    b"}",
                    b"[",
                    b"]",
                    b",",
                    b":",
                    b'"',
                    b"\\",
                    b" ",
                    b"1",
                    b"0.1",
                    b"null",
                    b"\xff",
                    b"\x00",
                ),
                *(b'"job"', b'"action"', b'"create"', b'"items"'),
                *(b'{"job":{"action":"create","items":[', b"]}}"),
            ]
        ),
        max_size=25,
    ).map(b"".join),
    slice_bytes=st.integers(1, 40),
)
async def test_no_bytes_make_it_fail_and_what_it_takes_is_json(raw: bytes, slice_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(job_body, "_SLICE_BYTES", slice_bytes)
        try:
            request, _ = await parse(raw)
        except (BadRequest, RecordInvalid):
            return
    body = json_body.parse(raw)
    assert [json_body.parse(bytes(item)) for item in request.items] == body["job"]["items"]
