"""The strict reader of bodies: what it refuses, as what, and what it keeps exact."""

import contextlib
import json
import time
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from upsert_svc import json_body
from upsert_svc.errors import (
    BadRequest,
    RecordInvalid,
)


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def many(value: str, count: int) -> bytes:
    return f"[{','.join([value] * count)}]".encode()


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "empty"),
        (b" \n\t", "empty"),
        (b"{", "line 1 column 2"),
        (b'{"a": 1,}', "line 1 column"),
        (b"{'a': 1}", "line 1 column"),
        (b'{"a": 1} x', "Extra data"),
        (b'{"a": 1}{"a": 1}', "Extra data"),
        (b'"\x01"', "control character"),
        (b'{"a": 01}', "not valid JSON"),
        (b'{"a": +1}', "not valid JSON"),
        (b'{"a": .5}', "not valid JSON"),
        (b'{"a": 0x10}', "not valid JSON"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b"[Infinity]", "Infinity is not a JSON number"),
        (b"[-Infinity]", "-Infinity is not a JSON number"),
        (b'{"a": 1, "a": 1}', "the key a is given twice"),
        (b'[{"b": {"a": 1, "\\u0061": 2}}]', "the key a is given twice"),
        (b'{"\\ud800": 1, "\\ud800": 2}', "given twice"),
        (b"1" * 5000, "5000 digits"),
        (b"-" + b"1" * 5000, "5001 digits"),
        (b"0." + b"1" * 5000, "5002 digits"),
        (b"1e99999999999999999999", "exponent"),
        (b"-1e-99999999999999999999", "exponent"),
        (b"\xef\xbb\xbf", "empty"),
        (b'\xef\xbb\xbf{"a": 1,}', "line 1 column"),
        (b'\xef\xbb\xbf\xef\xbb\xbf{"a": 1}', "line 1 column 1"),
        (b' \xef\xbb\xbf{"a": 1}', "line 1 column 2"),
        (b'[\xef\xbb\xbf{"a": 1}]', "line 1 column 2"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8: it seems to be UTF-16"),
        ('{"a": 1}'.encode("utf-16-le"), "not UTF-8: it seems to be UTF-16-LE"),
        ("{}".encode("utf-16-be"), "not UTF-8: it seems to be UTF-16-BE"),
        ('["é"]'.encode("utf-32"), "not UTF-8: it seems to be UTF-32"),
        ('{"a": 1}'.encode("utf-32-be"), "not UTF-8: it seems to be UTF-32-BE"),
        ('{"a": "é"}'.encode("latin-1"), "not UTF-8 (byte 7)"),
        (b'{"a": "\xff"}', "not UTF-8 (byte 7)"),
        (b'{"a": "\xed\xa0\x80"}', "not UTF-8"),
        (b'{"a": "\xc0\xaf"}', "not UTF-8"),
        (nested(21), "deeper than 20"),
        (nested(9_000), "deeper than 20"),
        (b"[" * 19_000, "deeper than 20"),
        (b'{"a":' * 19_000, "deeper than 20"),
        (nested(100_000), "at most 20000 values"),
        (b"[" * 100_000, "at most 20000 values"),
        (b'{"a":' * 100_000, "at most 20000 values"),
        (many("0.1", 20_000), "at most 20000 values"),
        (many("[]", 10_000), "at most 20000 values"),
        (many('","', 20_000), "at most 20000 values"),
        (many("[" * 15 + "]" * 15, 2_000), "at most 20000 values"),
    ],
)
def test_what_is_not_strict_json_is_a_bad_request_that_says_why(raw: bytes, said: str) -> None:
    with pytest.raises(BadRequest) as caught:
        json_body.parse(raw)
    assert said in str(caught.value.description)


def test_a_byte_order_mark_stands_before_a_body_and_not_before_a_part_of_one() -> None:
    marked = '\ufeff{"a": "\ufeffé"}'.encode()
    assert json_body.parse(marked) == {"a": "\ufeffé"}
    with pytest.raises(BadRequest, match="line 1 column 1"):
        json_body.parse(marked, around=1)


@pytest.mark.parametrize(
    ("raw", "field", "said"),
    [
        (b'{"a": "\\u0000"}', "a", "U+0000"),
        (b'{"a": ["x", "\\ud800"]}', "a", "surrogate"),
        (b'{"a": "\\udc00\\ud800"}', "a", "surrogate"),
        (b'{"a": {"b": "\\u0000"}}', "b", "U+0000"),
        (b'{"a\\u0000": 1}', "a\\u0000", "U+0000"),
        (b'{"a\\ud800": 1}', "a\\ud800", "surrogate"),
        (b'"\\u0000"', "base", "U+0000"),
        (b'{"a": {"b": ["x", {"c": "\\u0000"}]}}', "c", "a.b[1].c: Text"),
        (
            b'{"custom_object_record": {"custom_object_fields": {"specs": {"a": [1, {"deep": "\\ud800"}]}}}}',
            "specs",
            "specs.a[1].deep: Text",
        ),
        (
            b'{"custom_object_fields": {"specs": {"a": [{"\\u0000": 1}]}}}',
            "specs",
            "specs.a[0].\\u0000: Text",
        ),
    ],
)
def test_text_that_cannot_be_stored_is_refused_by_the_name_of_its_field(
    raw: bytes, field: str, said: str
) -> None:
    with pytest.raises(RecordInvalid) as caught:
        json_body.parse(raw)
    details = dict(caught.value.details or {})
    assert list(details) == [field]
    assert said in details[field][0].description
    json.dumps(caught.value.body()).encode("utf-8")


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b'{"a": 0.1}', {"a": Decimal("0.1")}),
        (b"[12345678901234.123456789012345]", [Decimal("12345678901234.123456789012345")]),
        (b"[1e400]", [Decimal("1E+400")]),
        (b"9223372036854775808", 9223372036854775808),
        (b'"\\ud83d\\ude00"', "😀"),
        ('"é😀"'.encode(), "é😀"),
        (b"null", None),
        (nested(20), json.loads(nested(20))),
    ],
)
def test_values_are_read_exactly(raw: bytes, value: Any) -> None:
    assert json_body.parse(raw) == value


@pytest.mark.parametrize(
    "text", ["[{" * 20_000, "," * 30_000, '"[,' * 10_000, '\\"[,' * 10_000, "\\" * 30_001]
)
def test_what_stands_in_text_is_neither_depth_nor_a_value(text: str) -> None:
    assert json_body.parse(json.dumps({"a": text, text: 1}).encode()) == {"a": text, text: 1}


@pytest.mark.parametrize(
    "raw",
    [
        many("0.1", 19_998),
        many("[]", 9_999),
        json.dumps({f"key {n}": "é" for n in range(9_999)} | {"last": ["\\"] * 9_998}).encode(),
    ],
    ids=["numbers", "lists", "texts"],
)
def test_as_many_values_as_a_body_may_have_are_read(raw: bytes) -> None:
    assert json_body.parse(raw) == json.loads(raw, parse_float=Decimal)


@pytest.mark.parametrize(
    "raw",
    [
        many("0.1", 65_000),
        many("{}", 87_000),
        many("[" * 17 + "]" * 17, 7_000),
        json.dumps({f"k{n}": 1 for n in range(17_000)}).encode(),
        b'{"\\u00e9": 1, ' + json.dumps({f"k{n}": 1 for n in range(17_000)}).encode()[1:-1] + b",}",
        b'["' + b'\\"' * 130_000,
    ],
    ids=["decimals", "objects", "deep lists", "keys", "keys and a comma", "quotes"],
)
def test_no_body_of_a_request_holds_up_the_others(raw: bytes) -> None:
    started = time.process_time()
    with contextlib.suppress(BadRequest):
        json_body.parse(raw)
    assert time.process_time() - started < 0.1


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.text(st.characters(exclude_characters="\0", codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcé"), inner, max_size=4),
    max_leaves=15,
)


@given(json_values)
def test_strict_json_is_read_as_any_reader_reads_it(value: Any) -> None:
    assert json_body.parse(json.dumps(value).encode()) == value


@given(st.binary(max_size=60))
def test_no_bytes_make_the_reader_fail(raw: bytes) -> None:
    try:
        json_body.parse(raw)
    except (BadRequest, RecordInvalid) as refused:
        json.dumps(refused.body()).encode("utf-8")


# The two readers


SPACES = st.sampled_from(["", "", "", " ", "\n", "\t\r "])
ODD_NUMBERS = [
    "0", "-0", "-0.0", "0e0", "1E5", "1e+05", "1.50", "1e-7", "1E+400", "-1e-400", "100e-2", "1e99999",
    "1e999999999999999999", "9007199254740993", "9223372036854775807", "-9223372036854775809",
    "18446744073709551616", "5e-324", "1.7976931348623157e308", "123456789012345678901234567890",
    "0.123456789012345678901234567890",
]  # fmt: skip
PLAIN_NUMBERS = r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,5})?"
NUMBERS = st.sampled_from(ODD_NUMBERS) | st.from_regex(PLAIN_NUMBERS, fullmatch=True)


def _escaped(text: str) -> str:
    """Every character as the escapes of its UTF-16."""
    units = text.encode("utf-16-be", "surrogatepass")
    return '"' + "".join(f"\\u{units[i]:02x}{units[i + 1]:02X}" for i in range(0, len(units), 2)) + '"'


STORABLE = st.text(max_size=6)
STRINGS = st.one_of(
    STORABLE.map(json.dumps),
    STORABLE.map(lambda text: json.dumps(text, ensure_ascii=False)),
    STORABLE.map(_escaped),
    st.sampled_from(
        ['"\\/"', '"\\ud83d\\ude00"', '"\\ud800"', '"\\udc00\\ud800"', '"\\u0000"', '"\x7f"', '"\u2028"']
    ),
)


def _spaced(opening: str, items: list[str], closing: str, space: str) -> str:
    return f"{space}{opening}{space}{f'{space},{space}'.join(items)}{space}{closing}{space}"


def _containers(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pairs = st.tuples(STRINGS, SPACES, inner).map(lambda pair: f"{pair[0]}{pair[1]}:{pair[1]}{pair[2]}")
    arrays = st.builds(_spaced, st.just("["), st.lists(inner, max_size=4), st.just("]"), SPACES)
    objects = st.builds(_spaced, st.just("{"), st.lists(pairs, max_size=4), st.just("}"), SPACES)
    return arrays | objects


DOCUMENTS = st.recursive(
    NUMBERS | STRINGS | st.sampled_from(["true", "false", "null"]), _containers, max_leaves=12
).map(str.encode)

GARBAGE = [
    b"NaN", b"Infinity", b"-", b"+", b".", b"e5", b"00", b"0x1", b"1_0", b",", b":", b"[", b"]", b"{", b"}",
    b'"', b"'", b"\\", b"\\u", b"\\ud83d", b"//", b"truee", b'"a":1,"a":2', b'"a":1,"\\u0061":2',
    b"\xef\xbb\xbf", b"\x00", b"\x01", b"\x0b", b"\xa0", b"\xff", b"\xc0\x80",
    b"\xed\xa0\x80", b"\xf4\x90\x80\x80",
]  # fmt: skip


@st.composite
def garbled(draw: st.DrawFn) -> bytes:
    """A document with bytes flipped, put in, taken out or cut off."""
    raw = bytearray(draw(DOCUMENTS))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(raw)))
        match draw(st.sampled_from(["flip", "put in", "take out", "cut off"])):
            case "flip" if place < len(raw):
                raw[place] ^= 1 << draw(st.integers(0, 7))
            case "take out":
                del raw[place : place + draw(st.integers(1, 3))]
            case "cut off":
                del raw[place:]
            case _:
                raw[place:place] = draw(st.sampled_from(GARBAGE) | st.binary(min_size=1, max_size=2))
    return bytes(raw)


@settings(deadline=None)
@given(raw=DOCUMENTS | garbled())
@example(raw=b"[" * 150 + b"]" * 150)
@example(raw=b"[1" + b"0" * 4298 + b", -1" + b"0" * 4298 + b"]")
def test_what_the_fast_reader_takes_the_slow_one_reads_alike(raw: bytes) -> None:
    try:
        fast = json_body._parsed(raw)
    except ValueError:
        return
    assert repr(json_body._parsed_slowly(raw)) == repr(fast)  # which tells 1 from True, and 1.0 from 1.00


@given(value=json_values, indent=st.sampled_from([None, 1]), is_ascii=st.booleans())
def test_the_fast_reader_takes_what_clients_write(value: Any, indent: int | None, is_ascii: bool) -> None:
    raw = json.dumps(value, indent=indent, ensure_ascii=is_ascii).encode()
    assert repr(json_body._parsed(raw)) == repr(value)


@pytest.mark.parametrize("raw", [b"1" * 2200 + b"." + b"1" * 2200, b"0." + b"1" * 4299])
def test_a_number_is_too_long_by_its_whole_length(raw: bytes) -> None:
    with pytest.raises(BadRequest):
        json_body.parse(raw)


@pytest.mark.parametrize("number", [b"9" * 4299, b"0." + b"9" * 4297], ids=["whole", "parts"])
def test_long_numbers_do_not_hold_up_the_worker(number: bytes) -> None:
    raw = b"[" + b",".join([number] * (250_000 // len(number))) + b"]"
    started = time.process_time()
    json_body.parse(raw)
    assert time.process_time() - started < 0.2


# How it arrives
