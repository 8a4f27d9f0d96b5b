"""How a query is read: the fast path for plain ones says what the library says; pages and lists in it."""

from urllib.parse import parse_qsl

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from upsert_svc import json_body
from upsert_svc.api import requests
from upsert_svc.api.requests import comma_separated, page_request
from upsert_svc.errors import BadRequest, RecordInvalid, ServiceError
from upsert_svc.paging import PageRequest

ODD = [
    "=", "==", "&", "&&", ";", "+", "%20", "%26", "%3D", "%", "%2", "%zz", "%c3%a9", "%ff", "%ed%a0%80",
    "%00", "\0", "é", "😀", "[", "]", "#", "?", " ", "/", "\n", "a", "external_id", "v-1.0:x_Y",
]  # fmt: skip
PLAIN = st.lists(
    st.from_regex(r"[\w.:-]+=[\w.:-]*", fullmatch=True, alphabet=st.characters(codec="ascii")), max_size=12
)


def _with(odd: str, query: str, place: int) -> str:
    place = min(place, len(query))
    return query[:place] + odd + query[place:]


QUERIES = st.one_of(
    st.builds(_with, st.sampled_from(["", *ODD]), PLAIN.map("&".join), st.integers(0, 40)).map(str.encode),
    st.lists(st.sampled_from(ODD), max_size=30).map(lambda pieces: "".join(pieces).encode()),
    st.text("ab=&.+", max_size=40).map(str.encode),
    st.binary(max_size=20),
)
Read = list[tuple[str, str]] | type[ServiceError]


def as_the_library_reads(raw: bytes) -> Read:
    try:
        pairs = parse_qsl(raw.decode(), keep_blank_values=True, errors="strict", max_num_fields=200)
    except ValueError:
        return BadRequest
    return RecordInvalid if any(json_body.unstorable(name + value) for name, value in pairs) else pairs


def as_read(raw: bytes) -> Read:
    try:
        return requests._pairs(raw)
    except ServiceError as error:
        return type(error)


@given(raw=QUERIES)
@example(raw=b"")
@example(raw=b"&")
@example(raw=b"=")
@example(raw=b"a")
@example(raw=b"a=1\n")
@example(raw=b"a+b=1")
@example(raw=b"a=b+c&d=%41")
@example(raw=b"external_id=v1&dry_run=true&external_id=v2")
@example(raw=b"=1&a==&&b")
def test_a_query_is_read_as_the_library_reads_it(raw: bytes) -> None:
    assert as_read(raw) == as_the_library_reads(raw)


@pytest.mark.parametrize("pair", [b"a=1", b"a", b"a=%31", b"a=\xc3\xa9", b""])
@pytest.mark.parametrize("count", [1, 9, 10, 11, 12, 199, 200, 201, 300])
def test_a_query_of_many_parameters_is_read_as_the_library_reads_it(pair: bytes, count: int) -> None:
    raw = b"&".join([pair] * count)
    assert as_read(raw) == as_the_library_reads(raw)
    assert (as_read(raw) is BadRequest) == (count > 200)


@pytest.mark.parametrize("size", ["0", "-1", "101", "1000000000", "abc", "1.5", "1e2", " 5", "٥", "+5", "²"])
def test_a_page_has_1_to_100_items(size: str) -> None:
    with pytest.raises(BadRequest, match=r"page\[size\] must be a number from 1 to 100"):
        page_request({"page[size]": size})


@pytest.mark.parametrize(("size", "items"), [("", 100), ("1", 1), ("100", 100), ("007", 7)])
def test_a_page_size_in_its_bounds_is_taken(size: str, items: int) -> None:
    assert page_request({"page[size]": size}) == PageRequest(size=items)


def test_a_page_lies_after_or_before_but_not_both() -> None:
    with pytest.raises(BadRequest, match="cannot be used together"):
        page_request({"page[after]": "x", "page[before]": "x"})
    assert page_request({"page[after]": "", "page[before]": "x"}) == PageRequest(
        cursor="x", is_backwards=True
    )


def test_a_filter_takes_a_hundred_values() -> None:
    assert comma_separated({}, "filter[ids]") is None
    assert comma_separated({"filter[ids]": "a,,b"}, "filter[ids]") == ["a", "b"]
    assert len(comma_separated({"filter[ids]": ",".join("x" * 100)}, "filter[ids]") or []) == 100
    with pytest.raises(BadRequest, match=r"filter\[ids\] takes at most 100 values"):
        comma_separated({"filter[ids]": ",".join("x" * 101)}, "filter[ids]")
