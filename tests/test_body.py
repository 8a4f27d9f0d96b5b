"""The strict reader of bodies: what it refuses, as what, and what it keeps exact."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upsert_svc import body
from upsert_svc.errors import BadRequest, RecordInvalid, UnsupportedMediaType


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


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
        (b'\xef\xbb\xbf{"a": 1}', "line 1 column 1"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8 (byte 0)"),
        ('{"a": 1}'.encode("utf-16-le"), "not valid JSON"),
        ('{"a": 1}'.encode("utf-32"), "not UTF-8"),
        (b'{"a": "\xff"}', "not UTF-8 (byte 7)"),
        (b'{"a": "\xed\xa0\x80"}', "not UTF-8"),
        (b'{"a": "\xc0\xaf"}', "not UTF-8"),
        (nested(21), "deeper than 20"),
        (nested(100_000), "deeper than 20"),
        (b"[" * 100_000, "deeper than 20"),
        (b'{"a":' * 100_000, "deeper than 20"),
    ],
)
def test_what_is_not_strict_json_is_a_bad_request_that_says_why(raw: bytes, said: str) -> None:
    with pytest.raises(BadRequest) as caught:
        body.parse(raw)
    assert said in str(caught.value.description)


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
    ],
)
def test_text_that_cannot_be_stored_is_refused_by_the_name_of_its_field(
    raw: bytes, field: str, said: str
) -> None:
    with pytest.raises(RecordInvalid) as caught:
        body.parse(raw)
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
    assert body.parse(raw) == value


def test_many_brackets_in_text_are_not_depth() -> None:
    assert body.parse(json.dumps({"a": "[{" * 1000}).encode()) == {"a": "[{" * 1000}


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "application/json",
        "Application/JSON; charset=UTF-8",
        'application/json;charset="utf-8"',
        "text/plain",
        "text/plain; charset=us-ascii",
        "application/json; odata=verbose",
    ],
)
def test_json_and_plain_text_are_taken(content_type: str) -> None:
    body.require_json(content_type.encode())
    body.require_json(content_type.encode(), b"identity")


@pytest.mark.parametrize(
    ("content_type", "encoding"),
    [
        ("application/xml", ""),
        ("application/x-www-form-urlencoded", ""),
        ("multipart/form-data; boundary=x", ""),
        ("application/jsonp", ""),
        ("application/json; charset=utf-16", ""),
        ("application/json; charset=latin1", ""),
        ("application/json", "gzip"),
        ("application/json", "identity, gzip"),
    ],
)
def test_other_media_types_and_encodings_are_refused(content_type: str, encoding: str) -> None:
    with pytest.raises(UnsupportedMediaType):
        body.require_json(content_type.encode(), encoding.encode())


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
    assert body.parse(json.dumps(value).encode()) == value


@given(st.binary(max_size=60))
def test_no_bytes_make_the_reader_fail(raw: bytes) -> None:
    try:
        body.parse(raw)
    except (BadRequest, RecordInvalid) as refused:
        json.dumps(refused.body()).encode("utf-8")
