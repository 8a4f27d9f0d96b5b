"""The requests as they are sent, and what is read of an answer."""

import json
import re
from itertools import islice

import pytest

from bench import cars
from bench.wire import KINDS, Address, Answers, Errand, Unclear, requests

HERE = Address("127.0.0.1", 8080, "Basic abc")
FIRST = cars.FIRST_VALUE


def answer(status: str = "200 OK", length: int = 4, body: str = "{..}", outcome: str = "updated") -> bytes:
    told = f"upsert-result: {outcome}\r\n" if outcome else ""
    head = f"HTTP/1.1 {status}\r\ndate: today\r\nContent-Length: {length}\r\n{told}x-request-id: 1\r\n\r\n"
    return (head + body).encode()


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"show", "visit", "spread"}))
def test_a_request_is_as_long_as_it_says(kind: str) -> None:
    for request, _, _, _ in islice(requests(HERE, Errand(kind, "car", 100)), 50):
        head, _, body = request.partition(b"\r\n\r\n")
        length = re.search(rb"Content-Length: (\d+)", head)
        assert length is not None
        assert int(length[1]) == len(body)
        assert "custom_object_fields" in json.loads(body)["custom_object_record"]


def test_an_update_names_a_standing_car_and_gives_it_a_value_of_its_own() -> None:
    sent = list(islice(requests(HERE, Errand("update", "car", 5)), 100))
    assert [value for _, _, value, _ in sent] == list(range(FIRST, FIRST + 100))
    assert {key for _, key, _, _ in sent} == {1, 2, 3, 4, 5}
    for request, key, value, expected in sent:
        assert f"?external_id=VIN-{key:012d} ".encode() in request
        assert f'"mileage":{value},'.encode() in request
        assert expected == "updated"


def test_of_the_mixed_some_create_a_car_that_never_stood() -> None:
    created = [
        (request, key, value)
        for request, key, value, expected in islice(requests(HERE, Errand("mixed", "car", 5)), 500)
        if expected == "created"
    ]
    assert 10 < len(created) < 150
    assert all(key == value >= FIRST and b"VIN-%d " % key in request for request, key, value in created)


def test_of_the_refused_some_carry_a_value_of_a_wrong_type_and_write_nothing() -> None:
    broken = [one for one in islice(requests(HERE, Errand("refused", "car", 5)), 500) if one[3] == "422"]
    assert 10 < len(broken) < 150
    assert all(b'"mileage":"' in request and key == value == 0 for request, key, value, _ in broken)


def test_an_upsert_by_name_is_sent_as_a_query() -> None:
    request, key, _, _ = next(requests(HERE, Errand("by name", "unique_car", 5)))
    assert request.startswith(b"PATCH /api/v2/custom_objects/unique_car/records?name=Car%%20%012d " % key)


def test_a_spread_car_is_found_in_the_object_that_has_it() -> None:
    errand = Errand("spread", "car_9_3_%d", 9, objects=3)
    for request, key, _, _ in islice(requests(HERE, errand), 20):
        assert f"/custom_objects/car_9_3_{key % 3}/records?".encode() in request
        assert errand.object_of(key) == f"car_9_3_{key % 3}"


@pytest.mark.parametrize(
    ("received", "word"),
    [
        pytest.param(answer(), "updated", id="an outcome"),
        pytest.param(answer(outcome=""), "200", id="no outcome"),
        pytest.param(answer("422 Unprocessable Content", outcome=""), "422", id="a refusal"),
        pytest.param(answer("503 Service Unavailable"), "503", id="an outcome counts on a 200 alone"),
        pytest.param(answer(body="{."), None, id="half a body"),
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-", None, id="half a head"),
    ],
)
def test_the_word_of_an_answer_is_its_outcome_or_its_status(received: bytes, word: str | None) -> None:
    answers = Answers()
    for _ in range(2):  # as the first of its kind, and as one whose head is known
        assert answers.word(received) == word


def test_a_known_head_is_no_excuse_for_another_answer() -> None:
    answers = Answers()
    assert answers.word(answer()) == "updated"
    assert answers.word(answer(outcome="created")) == "created"
    assert answers.word(answer()) == "updated"
    assert answers.word(answer("500 No")) == "500"  # of the same length
    longer_head = answer().replace(b"\r\n\r\n{..}", b"\r\nx: y\r\n\r\n{..}")
    assert answers.word(longer_head[: len(answer())]) is None
    assert answers.word(longer_head) == "updated"


@pytest.mark.parametrize("received", [answer(body="{..}{"), b"HTTP/1.1 200 OK\r\n\r\n"])
def test_an_answer_of_no_clear_length_is_none(received: bytes) -> None:
    with pytest.raises(Unclear):
        Answers().word(received)
