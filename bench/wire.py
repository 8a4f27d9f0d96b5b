"""What goes over the wire: requests as prebuilt bytes, and what is read of an answer.

A request comes with the number of the car it writes and the value it gives it (0 and 0 where it writes none),
and with the word that its answer must be: its Upsert-Result or, where it has none, its status.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from random import choice, random
from urllib.parse import quote

from bench import cars

Request = tuple[bytes, int, int, str]
CREATED_SHARE = REFUSED_SHARE = 0.1
RECORDS_PATH = "/api/v2/custom_objects/{object_key}/records"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_OUTCOME = re.compile(rb"\r\nupsert-result: *(\w+)\r\n", re.IGNORECASE)
_STATUS = slice(len("HTTP/1.1 "), len("HTTP/1.1 200"))
_HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True)
class Address:
    """Who is sent to."""

    host: str
    port: int
    authorization: str


@dataclass(frozen=True)
class Errand:
    """What is sent: requests of one kind to an object, or to several that share the cars by their numbers."""

    kind: str
    object_key: str
    keys: int
    first_value: int = cars.FIRST_VALUE
    objects: int = 1
    paths: tuple[str, ...] = ()

    def object_of(self, key: int) -> str:
        """The object that has the car of that number."""
        return self.object_key % (key % self.objects) if self.objects > 1 else self.object_key


def requests(address: Address, errand: Errand) -> Iterator[Request]:
    """The requests of an errand, without end."""
    return KINDS[errand.kind](address, errand)


def _updates(address: Address, errand: Errand, method: str = "PATCH") -> Iterator[Request]:
    template, keys = _by_external_id(address, errand.object_key, method=method), errand.keys
    for value in count(errand.first_value):
        key = int(random() * keys) + 1
        yield template % (key, key, value), key, value, "updated"


def _mixed(address: Address, errand: Errand) -> Iterator[Request]:
    template, keys = _by_external_id(address, errand.object_key), errand.keys
    for value in count(errand.first_value):
        if random() < CREATED_SHARE:
            yield template % (value, value, value), value, value, "created"
        else:
            key = int(random() * keys) + 1
            yield template % (key, key, value), key, value, "updated"


def _refused(address: Address, errand: Errand) -> Iterator[Request]:
    template, keys = _by_external_id(address, errand.object_key), errand.keys
    broken = _by_external_id(address, errand.object_key, mileage='"of no car"')
    for value in count(errand.first_value):
        key = int(random() * keys) + 1
        if random() < REFUSED_SHARE:
            yield broken % (key, key), 0, 0, "422"
        else:
            yield template % (key, key, value), key, value, "updated"


def _creations(address: Address, errand: Errand) -> Iterator[Request]:
    """By an external_id that is new; the name is the object's to give."""
    path = f"{_records(errand.object_key)}?external_id={cars.external_id('%012d')}"
    template = _upsert(address, path, cars.body(None, "%012d"))
    for value in count(errand.first_value):
        yield template % (value, value), value, value, "created"


def _by_name(address: Address, errand: Errand) -> Iterator[Request]:
    path = f"{_records(errand.object_key)}?name={quote(cars.name('')).replace('%', '%%')}%012d"
    template, keys = _upsert(address, path, cars.body(cars.name("%012d"), "%012d")), errand.keys
    for value in count(errand.first_value):
        key = int(random() * keys) + 1
        yield template % (key, key, value), key, value, "updated"


def _spread(address: Address, errand: Errand) -> Iterator[Request]:
    template, keys, objects = _by_external_id(address, errand.object_key), errand.keys, errand.objects
    for value in count(errand.first_value):
        key = int(random() * keys) + 1
        yield template % (key % objects, key, key, value), key, value, "updated"


def _shows(address: Address, errand: Errand) -> Iterator[Request]:
    template, keys = _get(address, f"{_records(errand.object_key)}/%026d"), errand.keys
    while True:
        yield template % (int(random() * keys) + 1), 0, 0, "200"


def _visits(address: Address, errand: Errand) -> Iterator[Request]:
    wires = [_get(address, path) for path in errand.paths]
    while True:
        yield choice(wires), 0, 0, "200"


KINDS: dict[str, Callable[[Address, Errand], Iterator[Request]]] = {
    "update": _updates,
    "mixed": _mixed,
    "refused": _refused,
    "replace": partial(_updates, method="PUT"),
    "create": _creations,
    "by name": _by_name,
    "spread": _spread,
    "show": _shows,
    "visit": _visits,
}


def _records(object_key: str) -> str:
    return RECORDS_PATH.format(object_key=object_key)


def _by_external_id(
    address: Address, object_key: str, mileage: str = "%012d", method: str = "PATCH"
) -> bytes:
    """An upsert with places for the number of the car, the number again and the mileage."""
    path = f"{_records(object_key)}?external_id={cars.external_id('%012d')}"
    return _upsert(address, path, cars.body(cars.name("%012d"), mileage), method)


def _upsert(address: Address, path: str, body: str, method: str = "PATCH") -> bytes:
    """A whole request with places for numbers of 12 digits."""
    payload = body.encode()
    length = len(payload.replace(b"%012d", b"0" * 12))
    head = f"Content-Type: application/json\r\nContent-Length: {length}\r\n"
    return _head(method, address, path, head) + payload


def _get(address: Address, path: str) -> bytes:
    return _head("GET", address, path)


def _head(method: str, address: Address, path: str, more: str = "") -> bytes:
    return (
        f"{method} {path} HTTP/1.1\r\nHost: {address.host}:{address.port}\r\n"
        f"Authorization: {address.authorization}\r\n{more}\r\n"
    ).encode()


class Unclear(Exception):
    """An answer of no clear length."""


class Answers:
    """Reads answers in one pass. Most have the head of the last one, but for a date: that is tried first."""

    def __init__(self) -> None:
        self._length = 0
        self._head_end = 0
        self._known = slice(0, 0)
        self._bytes = b""
        self._status = b""
        self._word = ""

    def word(self, answer: bytes) -> str | None:
        """The outcome or the status of an answer; None while it is not complete. Raises Unclear."""
        if (
            len(answer) == self._length
            and answer[self._known] == self._bytes
            and answer[_STATUS] == self._status
            and answer.startswith(_HEAD_END, self._head_end)
        ):
            return self._word
        return self._parsed(answer)

    def _parsed(self, answer: bytes) -> str | None:
        head_end = answer.find(_HEAD_END)
        if head_end < 0:
            return None
        length = _LENGTH.search(answer, 0, head_end + 2)
        missing = head_end + len(_HEAD_END) + int(length[1]) - len(answer) if length else -1
        if length is None or missing < 0:
            raise Unclear
        if missing > 0:
            return None
        outcome = _OUTCOME.search(answer, 0, head_end + 2)
        self._length, self._head_end, self._status = len(answer), head_end, answer[_STATUS]
        # From one of the two headers to the end of the other.
        ends = [line.span() for line in (length, outcome) if line]
        self._known = slice(min(begin for begin, _ in ends), max(end for _, end in ends))
        self._bytes = answer[self._known]
        self._word = (outcome[1] if outcome and self._status == b"200" else self._status).decode("latin-1")
        return self._word
