"""Requests that no HTTP client would write: broken framing, odd paths, bodies too large or too slow."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.hostile.targets import Target, aimed
from tests.hostile.wire import Wire, answer
from tests.support.harness import Api, Cluster, record_of, running
from upsert_svc.http.protocol import BoundedHttp

BODY = b'{"custom_object_record": {}}'
LIST = "/api/v2/custom_objects"


def upsert(wire: Wire, target: Target, *headers: bytes | str) -> bytes:
    return wire.head("PATCH", f"/api/v2{target.records}?external_id=v1", *headers)


@pytest.mark.parametrize(
    "headers",
    [
        ["Content-Length: 28", "Content-Length: 5"],
        ["Content-Length: 28", "Content-Length: 28"],
        ["Content-Length: 28", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Content-Length: 28"],
        ["Content-Length: -1"],
        ["Content-Length: +28"],
        ["Content-Length: abc"],
        ["Content-Length: 99999999999999999999999"],
        ["Transfer-Encoding: xchunked"],
        ["Transfer-Encoding: chunked"],
        [b"X-A: a\x00b", "Content-Length: 28"],
        ["X-A", "Content-Length: 28"],
        ["X-A : b", "Content-Length: 28"],
        ["X-A: a\r\n b", "Content-Length: 28"],
        [b"Content-Type: \xff\xfe", "Content-Length: 28"],
    ],
)
async def test_broken_framing_is_refused_and_nothing_is_written(
    wire: Wire, target: Target, headers: list[bytes | str]
) -> None:
    before = await target.state()
    renaming = b'{"custom_object_record": {"name": "Smuggled"}}'
    status, _ = await wire.exchange(upsert(wire, target, *headers) + renaming)
    assert 400 <= status < 500
    assert await target.state() == before


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\x01\x02\r\n\r\n",
        bytes.fromhex("16030100a5010000a10303"),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /api/v2/custom_objects HTTP/9.9\r\nHost: a\r\n\r\n",
        b"GET /api/v2/custom_objects/\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /api/v2/custom_objects?a=\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /api/v2/custom objects HTTP/1.1\r\nHost: a\r\n\r\n",
        b"FOO /api/v2/custom_objects HTTP/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_refused(wire: Wire, sent: bytes) -> None:
    status, _ = await wire.exchange(sent)
    assert status == 400


@pytest.mark.parametrize("path", [b"/", b"/api/v2/custom_objects?"])
async def test_a_request_line_over_the_limit_is_refused(wire: Wire, path: bytes) -> None:
    status, answered = await wire.exchange(b"GET " + path + b"a" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    assert status == 414
    assert b"The request line is too long" in answered


@pytest.mark.parametrize(
    "path",
    [
        "/api/v2/../../etc/passwd",
        "/api/v2/%2e%2e/%2e%2e/etc/passwd",
        "//api/v2/custom_objects",
        "/api/v2//custom_objects",
        "/api/v2/custom_objects/..",
        "/api/v2/custom_objects/%2e%2e",
        "/api/v2/custom_objects/%00",
        "/api/v2/custom_objects/a%00.json",
        "/api/v2/custom_objects/%",
        "/api/v2/custom_objects/%zz",
        "/api/v2/custom_objects/%ff",
        "/api/v2/custom_objects/%c0%ae%c0%ae",
        "/api/v2/custom_objects/%ed%a0%80",
        "/api/v2/custom_objects/%0d%0aSet-Cookie:x=1",
        "/api/v2/custom_objects/a;b",
        "/api/v2/custom_objects/a\\..\\b",
        "/api/v2/custom_objects/'%20or%201=1%20--",
        "/api/v2/custom_objects/" + "a" * 60_000,
        "/api/v2/custom_objects/%00/records",
        "/api/v2/custom_objects/%00/records/count",
        "/api/v2/custom_objects/%00/fields",
        "/api/v2/custom_objects/%00/limits/field_limit",
        "/api/v2/custom_objects/{key}/fields/%00",
        "/api/v2/custom_objects/{key}/fields/-1",
        "/api/v2/custom_objects/{key}/fields/2147483648",
        "/api/v2/custom_objects/{key}/fields/999999999999999999999999",
        "/api/v2/custom_objects/{key}/fields/%D9%A3",
        "/api/v2/custom_objects/{key}/fields/' or key = 'text",
        "/api/v2/custom_objects/{key}/records/%00",
        "/api/v2/custom_objects/{key}/records/" + "0" * 26,
        "/api/v2/custom_objects/{key}/records/..%2f..%2f",
    ],
)
async def test_a_path_to_nothing_is_not_found(wire: Wire, target: Target, path: str) -> None:
    sent = wire.head("GET", path.replace("{key}", target.key).replace(" ", "%20"))
    status, answered = await wire.exchange(sent)
    assert status == 404
    assert b'"description":"Not found' in answered
    assert b"Set-Cookie" not in answered.split(b"\r\n\r\n")[0]


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
async def test_a_nul_in_the_path_of_a_write_is_not_found(wire: Wire, target: Target, method: str) -> None:
    sized = (f"Content-Length: {len(BODY)}",) if method == "PATCH" else ()
    for path in ("%00/records?external_id=v1", f"{target.key}/records/%00"):
        sent = wire.head(method, f"{LIST}/{path}", *sized) + (BODY if sized else b"")
        status, _ = await wire.exchange(sent)
        assert status == 404


@pytest.mark.parametrize(
    "headers",
    [["X-A: " + "a" * 66_000], ["X-A: " + "a" * 2_000_000], [f"X-{number}: a" for number in range(10_000)]],
    ids=["long", "endless", "many"],
)
async def test_a_flood_of_headers_is_refused_before_it_is_a_request(wire: Wire, headers: list[str]) -> None:
    status, answered = await wire.exchange(wire.head("GET", LIST, *headers))
    assert status == 431
    assert b"The headers are too large" in answered


async def test_headers_of_an_ordinary_size_are_read(wire: Wire) -> None:
    status, _ = await wire.exchange(wire.head("GET", LIST, "X-A: " + "a" * 30_000))
    assert status == 200


async def test_an_announced_body_over_the_limit_is_refused_before_it_is_sent(
    wire: Wire, target: Target
) -> None:
    status, answered = await wire.exchange(upsert(wire, target, "Content-Length: 1000000000"))
    assert status == 413
    assert b'"error":"PayloadTooLarge"' in answered
    assert b"connection: close" in answered.lower()


async def test_an_endless_body_is_cut_off_at_the_limit(wire: Wire, target: Target) -> None:
    before = await target.state()
    reader, writer = await wire.connect()
    writer.write(upsert(wire, target, "Transfer-Encoding: chunked"))
    chunk = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
    answering = asyncio.create_task(answer(reader))
    sent = 0
    while not answering.done() and sent < 2000:
        writer.write(chunk)
        sent += 1
        await asyncio.sleep(0.001)
        if writer.is_closing():
            break
    status, answered = await answering
    writer.close()
    assert status in (413, 0)  # 0: the answer was lost, because we kept writing to a closed connection
    assert status == 0 or b'"error":"PayloadTooLarge"' in answered
    assert sent * 0x4000 < 8_000_000
    assert await target.state() == before


async def test_a_chunked_body_one_byte_over_the_limit_is_refused(wire: Wire, target: Target) -> None:
    size = 256 * 1024 + 1
    sent = upsert(wire, target, "Transfer-Encoding: chunked") + f"{size:x}\r\n".encode() + b" " * size
    status, answered = await wire.exchange(sent)
    assert status == 413
    assert b'"error":"PayloadTooLarge"' in answered


async def test_a_chunked_body_within_the_limit_is_taken(wire: Wire, target: Target) -> None:
    chunked = b"5\r\n" + BODY[:5] + b"\r\n" + f"{len(BODY) - 5:x}\r\n".encode() + BODY[5:] + b"\r\n0\r\n\r\n"
    status, answered = await wire.exchange(upsert(wire, target, "Transfer-Encoding: chunked") + chunked)
    assert status == 200
    assert b"upsert-result: unchanged" in answered.lower()


async def test_half_a_body_and_a_hang_up_write_nothing(wire: Wire, target: Target) -> None:
    before = await target.state()
    for _ in range(5):
        _, writer = await wire.connect()
        writer.write(
            upsert(wire, target, "Content-Length: 46") + b'{"custom_object_record": {"name": "Half"}}'
        )
        await writer.drain()
        writer.close()
    await asyncio.sleep(0.05)
    assert await target.state() == before


async def test_a_refused_request_leaves_the_connection_fit_for_the_next(wire: Wire, target: Target) -> None:
    reader, writer = await wire.connect()
    bad, good = b'{"custom_object_record": []}', BODY
    for body, status in ((bad, 400), (good, 200), (b"x" * 28, 400), (good, 200)):
        writer.write(upsert(wire, target, "Content-Length: 28") + body)
        assert (await answer(reader))[0] == status
    writer.close()


async def test_pipelined_requests_are_answered_in_order(wire: Wire, target: Target) -> None:
    reader, writer = await wire.connect()
    writer.write(
        wire.head("GET", "/nowhere", "X-Request-Id: one") + wire.head("GET", LIST, "X-Request-Id: two")
    )
    for status, request_id in ((404, b"one"), (200, b"two")):
        answered = await answer(reader)
        assert answered[0] == status
        assert b"x-request-id: " + request_id in answered[1].lower()
    writer.close()


@pytest.fixture(scope="module")
async def hasty(cluster: Cluster) -> AsyncIterator[tuple[Wire, Target]]:
    """A service that waits a fifth of a second for a body."""
    async with running(await cluster.new_database(), body_timeout_seconds=0.2) as service:
        api = Api(service, await service.token())
        async with api.client:
            yield Wire(service, api.token), await aimed(api)


async def test_a_body_that_drips_in_is_given_up(hasty: tuple[Wire, Target]) -> None:
    wire, target = hasty
    before = await target.state()
    reader, writer = await wire.connect()
    writer.write(upsert(wire, target, "Content-Length: 1000"))
    started = time.monotonic()
    answering = asyncio.create_task(answer(reader))
    while not answering.done() and time.monotonic() - started < 3:
        writer.write(b" ")
        await asyncio.sleep(0.05)
    status, answered = await answering
    writer.close()
    assert status in (408, 0)
    assert status == 0 or b'"error":"RequestTimeout"' in answered
    assert time.monotonic() - started < 2
    assert await target.state() == before


async def test_a_body_that_never_comes_is_a_request_timeout(hasty: tuple[Wire, Target]) -> None:
    wire, target = hasty
    status, answered = await wire.exchange(upsert(wire, target, "Content-Length: 28") + BODY[:10])
    assert status == 408
    assert b'"error":"RequestTimeout","description":"The body did not arrive within 0.2 seconds"' in answered
    assert b"connection: close" in answered.lower()
    assert record_of(await target.api.upsert(target.key, external_id="v1"))


@pytest.mark.parametrize("sent", [b"", b"GET /api/v2/custom_objects HTTP/1.1\r\nHost: a\r\nX-A: "])
async def test_headers_that_never_come_are_hung_up_on(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(BoundedHttp, "header_timeout_seconds", 0.2)
    started = time.monotonic()
    assert await wire.exchange(sent) == (0, b"")
    assert 0.1 < time.monotonic() - started < 2


TEXTS: list[Any] = [
    "' OR 1=1 --",
    "'; drop table records; --",
    'x"; drop table records; --',
    "$1",
    ":name",
    "%s %(a)s {0} {{record.id}} ${jndi:ldap://x}",
    "%",
    "_",
    "\\",
    "\\x00",
    "E'\\''",
    "null",
    "\u202egnp.exe",
    "a\u200bb",
    "\ufeff",
    "\u0001\u001f\u007f",
    "\U000e0041",
    "😀" * 255,
    "<script>alert(1)</script>",
    "../../etc/passwd",
    "a,b",
    "a&b=c#d",
    "\r\nSet-Cookie: x=1",
]


@pytest.mark.parametrize("text", TEXTS)
async def test_any_text_is_a_value_and_an_identifier_and_nothing_more(api: Api, text: str) -> None:
    key = await api.new_object({"key": "f", "type": "text"}, naming={"is_unique": True})
    bystander = record_of(await api.create(key, name="Bystander", external_id="bystander"))
    sent = {"name": f"n{text}"[:255], "custom_object_fields": {"f": text}}
    created = await api.upsert(key, sent, external_id=text)
    assert created.headers["Upsert-Result"] == "created"
    record = record_of(created)
    assert (record["external_id"], record["name"]) == (text, sent["name"])
    assert record["custom_object_fields"] == {"f": text}
    assert (await api.upsert(key, sent, external_id=text)).headers["Upsert-Result"] == "unchanged"
    by_name = await api.upsert(key, {}, name=sent["name"])
    assert record_of(by_name)["id"] == record["id"]
    if "," not in text:
        listed = await api.records(key, **{"filter[external_ids]": text})
        assert [item["id"] for item in listed] == [record["id"]]
    deleted = await api.client.delete(f"/custom_objects/{key}/records", params={"external_id": text})
    assert deleted.status_code == 204
    assert await api.records(key) == [bystander]
