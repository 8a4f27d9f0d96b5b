"""Requests that must be refused: what is sent, the status, a word that says what is wrong."""

import gzip
import json
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Bad:
    """One request to the upsert that must be refused."""

    name: str
    status: int
    said: str
    content: bytes = b'{"custom_object_record": {}}'
    query: str = "external_id=v1"
    headers: dict[str, str] = field(default_factory=dict)


def _record(inner: str) -> bytes:
    return b'{"custom_object_record": ' + inner.encode() + b"}"


def _fields(inner: str) -> bytes:
    return _record('{"custom_object_fields": ' + inner + "}")


def _twice(key: str) -> str:
    return f'{{"{key}": 1, "{key}": 1}}'


BAD_JSON = [
    Bad("no bytes", 400, "empty", b""),
    Bad("blanks", 400, "empty", b" \r\n\t "),
    Bad("null", 400, "custom_object_record", b"null"),
    Bad("a list", 400, "custom_object_record", b"[]"),
    Bad("a string", 400, "custom_object_record", b'"x"'),
    Bad("a number", 400, "custom_object_record", b"7"),
    Bad("true", 400, "custom_object_record", b"true"),
    Bad("no wrapper", 400, "custom_object_record", b'{"name": "x"}'),
    Bad("a wrapped list", 400, "custom_object_record", _record("[]")),
    Bad("a wrapped null", 400, "custom_object_record", _record("null")),
    Bad("cut short", 400, "line 1", b'{"custom_object_record": {"na'),
    Bad("a trailing comma", 400, "line 1", _record('{"name": "x",}')),
    Bad("two values", 400, "Extra data", _record("{}") * 2),
    Bad("single quotes", 400, "line 1", b"{'custom_object_record': {}}"),
    Bad("a comment", 400, "line 1", _record("{/* x */}")),
    Bad("a raw control character", 400, "control character", _record('{"name": "\x01"}')),
    Bad("a raw NUL", 400, "control character", _record('{"name": "\x00"}')),
    Bad("a leading zero", 400, "line 1", _fields('{"integer": 007}')),
    Bad("NaN", 400, "NaN", _fields('{"decimal": NaN}')),
    Bad("Infinity", 400, "Infinity", _fields('{"decimal": Infinity}')),
    Bad("-Infinity", 400, "-Infinity", _fields('{"decimal": -Infinity}')),
    Bad("5,000 digits", 400, "5000 digits", _fields('{"integer": ' + "9" * 5000 + "}")),
    Bad("5,000 decimals", 400, "5002 digits", _fields('{"decimal": 0.' + "9" * 5000 + "}")),
    Bad("an endless exponent", 400, "exponent", _fields('{"decimal": 1e99999999999999999999}')),
    Bad("deep lists", 400, "nested deeper", b"[" * 10_000),
    Bad("very deep lists", 400, "20000 values", b"[" * 100_000),
    Bad("deep lists that end", 400, "nested deeper", b"[" * 6_000 + b"]" * 6_000),
    Bad("deep objects", 400, "nested deeper", b'{"a":' * 10_000),
    Bad("65,000 decimals", 400, "20000 values", _fields('{"json": [' + ",".join(["0.1"] * 65_000) + "]}")),
    Bad("80,000 empty lists", 400, "20000 values", _fields('{"json": [' + ",".join(["[]"] * 80_000) + "]}")),
    Bad("a deep value", 400, "nested deeper", _fields('{"text": ' + "[" * 30 + "]" * 30 + "}")),
    Bad("a key twice", 400, "text is given twice", _fields('{"text": "a", "text": "b"}')),
    Bad("a key twice, once escaped", 400, "text is given twice", _fields(r'{"text": "a", "te\u0078t": "a"}')),
    Bad("the wrapper twice", 400, "given twice", b'{"custom_object_record": {}, "custom_object_record": {}}'),
    Bad("two byte order marks", 400, "line 1", b"\xef\xbb\xbf" * 2 + _record("{}")),
    Bad("a byte order mark alone", 400, "empty", b"\xef\xbb\xbf"),
    Bad("UTF-16", 400, "UTF-16", _record("{}").decode().encode("utf-16")),
    Bad("UTF-16 without a mark", 400, "UTF-16-LE", _record("{}").decode().encode("utf-16-le")),
    Bad("UTF-32", 400, "UTF-32", _record("{}").decode().encode("utf-32")),
    Bad("Latin-1", 400, "UTF-8", _record('{"name": "é"}').decode().encode("latin-1")),
    Bad("an overlong slash", 400, "UTF-8", b'{"custom_object_record": {"name": "\xc0\xaf"}}'),
    Bad("an encoded surrogate", 400, "UTF-8", b'{"custom_object_record": {"name": "\xed\xa0\x80"}}'),
    Bad("gzip unannounced", 400, "UTF-8", gzip.compress(_record("{}"))),
]

BAD_MEDIA = [
    Bad("gzip", 415, "compressed", gzip.compress(_record("{}")), headers={"Content-Encoding": "gzip"}),
    Bad("a form", 415, "json", b"name=x", headers={"Content-Type": "application/x-www-form-urlencoded"}),
    Bad("a multipart form", 415, "json", headers={"Content-Type": "multipart/form-data; boundary=x"}),
    Bad("XML", 415, "json", b"<x/>", headers={"Content-Type": "text/xml"}),
    Bad("another charset", 415, "UTF-8", headers={"Content-Type": "application/json; charset=utf-16"}),
    Bad("too large", 413, "262144", b" " * (256 * 1024 + 1)),
]

BAD_TEXT = [
    Bad("NUL in a value", 422, "text", _fields(r'{"text": "a\u0000b"}')),
    Bad("NUL in a key", 422, r"te\\u0000xt", _fields(r'{"te\u0000xt": "a"}')),
    Bad("NUL in the name", 422, "name", _record(r'{"name": "\u0000"}')),
    Bad("NUL in an ignored attribute", 422, "photo", _record(r'{"photo": "\u0000"}')),
    Bad("marks in a value", 422, "combining marks", _fields('{"text": "' + "\u0301\u0323" * 51 + '"}')),
    Bad("escaped marks in a value", 422, "combining marks", _fields('{"text": "' + r"\u0301" * 101 + '"}')),
    Bad("half a pair in a value", 422, "text", _fields(r'{"text": "\ud800"}')),
    Bad("the other half", 422, "text", _fields(r'{"text": "\udc00x"}')),
    Bad("half a pair in a key", 422, r"\\ud800", _fields(r'{"\ud800": 1}')),
    Bad("half a pair in a list", 422, "text", _fields(r'{"text": [["\ud83d"]]}')),
]

BAD_VALUES = [
    Bad("fields as a list", 422, "custom_object_fields", _fields("[]")),
    Bad("fields as text", 422, "custom_object_fields", _fields('"x"')),
    Bad("a name that is no text", 422, "name", _record('{"name": 5}')),
    Bad("a blank name", 422, "name", _record('{"name": " "}')),
    Bad("a name of 10,000 characters", 422, "name", _record(json.dumps({"name": "x" * 10_000}))),
    Bad("a name of 256 astral characters", 422, "name", _record(json.dumps({"name": "😀" * 256}))),
    Bad("an external_id that is no text", 422, "external_id", _record('{"external_id": 5}')),
    Bad("another external_id", 422, "external_id", _record('{"external_id": "v2"}')),
    Bad("an unknown field", 422, "wheels", _fields('{"wheels": 4}')),
    Bad("a field called __proto__", 422, "__proto__", _fields('{"__proto__": {"admin": true}}')),
    Bad("a field called constructor", 422, "constructor", _fields('{"constructor": 1}')),
    Bad("1e400", 422, "decimal", _fields('{"decimal": 1e400}')),
    Bad("1e131071", 422, "decimal", _fields('{"decimal": 1e131071}')),
    Bad("1e-400", 422, "decimal", _fields('{"decimal": 1e-400}')),
    Bad("an exponent past every context", 422, "decimal", _fields('{"decimal": 1e99999999}')),
    Bad("2^53 + 1", 422, "integer", _fields('{"integer": 9007199254740993}')),
    Bad("2^63", 422, "integer", _fields('{"integer": 9223372036854775808}')),
    Bad("300 digits", 422, "integer", _fields('{"integer": ' + "9" * 300 + "}")),
    Bad("a fraction for an integer", 422, "integer", _fields('{"integer": 2026.5}')),
    Bad("an integer of a billion zeros", 422, "integer", _fields('{"integer": 1e999999999}')),
    Bad("a fraction of a billion zeros", 422, "integer", _fields('{"integer": 1e-999999999}')),
    Bad(
        "a document with a number of a billion zeros",
        422,
        "json.a[0]",
        _fields('{"json": {"a": [1e999999999]}}'),
    ),
    Bad("a document with next to nothing", 422, "json.a[0]", _fields('{"json": {"a": [1e-999999999]}}')),
    Bad("the day zero", 422, "date", _fields('{"date": "0000-00-00"}')),
    Bad("the 30th of February", 422, "date", _fields('{"date": "2024-02-30"}')),
    Bad("an option of its own", 422, "dropdown", _fields('{"dropdown": "blue"}')),
    Bad("a catastrophic match", 422, "regexp", _fields(json.dumps({"regexp": "a" * 30_000 + "!"}))),
    Bad("5,000 unknown fields", 422, "4,980 more", _fields(json.dumps({f"f{n}": 1 for n in range(5000)}))),
    Bad("a field of a long name", 422, "f" * 199 + "…", _fields(json.dumps({"f" * 200_000: 1}))),
    Bad("a key of 100,000 characters twice", 400, "f" * 199 + "…", _fields(_twice("f" * 100_000))),
    Bad(
        "text of 200,000 characters for a pattern",
        422,
        "32 KB",
        _fields(json.dumps({"regexp": "a" * 200_000})),
    ),
]

BAD_QUERIES = [
    Bad("no identifier", 400, "external_id", query=""),
    Bad("two identifiers", 400, "together", query="external_id=v1&name=Ford"),
    Bad("both empty", 400, "external_id", query="external_id=&name="),
    Bad("an identifier twice", 400, "given twice", query="external_id=v1&external_id=v1"),
    Bad("an identifier twice, once empty", 400, "given twice", query="name=&name=Ford"),
    Bad("NUL in an identifier", 422, "external_id", query="external_id=%00"),
    Bad("marks in an identifier", 422, "combining marks", query="external_id=" + "%CC%81" * 101),
    Bad("NUL beside it", 422, "x", query="external_id=v1&x=%00"),
    Bad("no UTF-8", 400, "UTF-8", query="external_id=%ff"),
    Bad("an encoded surrogate", 400, "UTF-8", query="external_id=%ed%a0%80"),
    Bad("an overlong external_id", 422, "external_id", query="external_id=" + "x" * 256),
    Bad("an overlong name", 422, "name", query="name=" + "%F0%9F%98%80" * 256),
    Bad("a blank name", 422, "name", query="name=%20"),
    Bad("a dry run that is neither", 400, "dry_run", query="external_id=v1&dry_run=yes"),
    Bad("a thousand parameters", 400, "parameters", query="external_id=v1" + "&a=1" * 1000),
]

BAD_HEADERS = [
    Bad("a tag without quotes", 400, "If-Match", headers={"If-Match": "v1"}),
    Bad("a tag without its end", 400, "If-Match", headers={"If-Match": '"v1", "v2'}),
    Bad("ten thousand quotes", 400, "If-None-Match", headers={"If-None-Match": '"' * 10_001}),
    Bad("a key of no characters", 400, "Idempotency-Key", headers={"Idempotency-Key": ""}),
    Bad("a key of 256 characters", 400, "Idempotency-Key", headers={"Idempotency-Key": "x" * 256}),
]

CATALOGUE = BAD_JSON + BAD_MEDIA + BAD_TEXT + BAD_VALUES + BAD_QUERIES + BAD_HEADERS
