"""create_or_update_many: each line is an upsert of its own, answered in its order while others still come."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

import aiohttp
import httpx
import pytest

from tests.support import processes
from tests.support.faults import lossy_address
from tests.support.harness import Api, Cluster, problems_of, record_of, running

MANY = "/api/v2/custom_objects/car/records/create_or_update_many?by=external_id"
NDJSON = {"Content-Type": "application/x-ndjson"}
COLOR = {"key": "color", "type": "text"}
YEAR = {"key": "year", "type": "integer"}


class Stream:
    """A caller who sends lines and reads the answers meanwhile; nothing is sent before the first line."""

    def __init__(self, api: Api, key: str, query: Mapping[str, str]) -> None:
        self._sent: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._url = f"{api.running.address}/api/v2/custom_objects/{key}/records/create_or_update_many"
        self._query = query
        self._headers = {"Authorization": f"Bearer {api.token}", "Content-Type": "application/x-ndjson"}
        self.response: aiohttp.ClientResponse

    @contextlib.asynccontextmanager
    async def open(self, first: object) -> AsyncIterator["Stream"]:
        self.send(first)
        async with (
            aiohttp.ClientSession() as session,
            session.post(self._url, params=self._query, headers=self._headers, data=self._body()) as response,
        ):
            self.response = response
            yield self

    async def _body(self) -> AsyncIterator[bytes]:
        while (line := await self._sent.get()) is not None:
            yield line

    def send(self, line: object) -> None:
        self._sent.put_nowait(json.dumps(line).encode() + b"\n")

    def send_bytes(self, part: bytes) -> None:
        self._sent.put_nowait(part)

    def end(self) -> None:
        self._sent.put_nowait(None)

    async def line(self) -> dict[str, Any] | None:
        """The next line of the answer; None at its end."""
        async with asyncio.timeout(10):
            text = await self.response.content.readline()
        return json.loads(text) if text else None

    async def lines(self) -> list[dict[str, Any]]:
        found = []
        while (line := await self.line()) is not None:
            found.append(line)
        return found


def ndjson(lines: Iterable[object]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


async def sent(
    api: Api,
    key: str,
    body: bytes,
    headers: Mapping[str, str] | None = None,
    returned: str = "",
    **query: str,
) -> httpx.Response:
    """The answer to a stream that is sent whole."""
    return await api.client.post(
        f"/custom_objects/{key}/records/create_or_update_many",
        params={"by": "external_id", "return": returned, **query},
        content=body,
        headers={"Content-Type": "application/x-ndjson", **(headers or {})},
    )


def told(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


def car(external_id: str, name: str = "Ford", **fields: Any) -> dict[str, Any]:
    return {"external_id": external_id, "name": name, "custom_object_fields": fields}


async def test_each_line_is_created_updated_or_left_unchanged(api: Api) -> None:
    key = await api.new_object(COLOR, YEAR)
    record_of(await api.upsert(key, {"name": "Ford", "custom_object_fields": {"year": 1}}, external_id="a"))
    record_of(await api.upsert(key, {"name": "Opel"}, external_id="b"))
    *lines, last = told(
        await sent(api, key, ndjson([car("a", color="red"), {"external_id": "b"}, car("c", "Fiat")]))
    )
    assert [(line["index"], line["status"], line["result"]) for line in lines] == [
        (0, 200, "updated"),
        (1, 200, "unchanged"),
        (2, 200, "created"),
    ]
    assert [(line["external_id"], line["name"]) for line in lines] == [
        ("a", "Ford"),
        ("b", "Opel"),
        ("c", "Fiat"),
    ]
    assert last == {"total": 3, "created": 1, "updated": 1, "unchanged": 1, "refused": 0}
    records = {record["external_id"]: record for record in await api.records(key)}
    assert [line["id"] for line in lines] == [records[name]["id"] for name in "abc"]
    assert records["a"]["custom_object_fields"] == {"color": "red", "year": 1}


async def test_records_are_found_by_name_where_names_are_unique(api: Api) -> None:
    key = await api.new_object(COLOR, naming={"is_unique": True})
    record_of(await api.upsert(key, {}, name="Ford"))
    lines = told(await sent(api, key, ndjson([{"name": "ford"}, {"name": "Opel"}]), by="name"))
    assert [line.get("result") for line in lines[:2]] == ["unchanged", "created"] or lines


async def test_a_name_that_need_not_be_unique_finds_nothing(api: Api) -> None:
    key = await api.new_object(COLOR)
    assert "uniqueness" in str(problems_of(await sent(api, key, b"", by="name")))


@pytest.mark.parametrize(
    ("line", "status", "error"),
    [
        (
            b'{"external_id": "x", "name": "N", "custom_object_fields": {"year": "soon"}}',
            422,
            "RecordInvalid",
        ),
        (b'{"external_id": "x", "custom_object_fields": {"nothing": 1}}', 422, "RecordInvalid"),
        (b'{"name": "N"}', 422, "RecordInvalid"),
        (b'{"external_id": "x"}', 422, "RecordInvalid"),
        (b'{"external_id": 5}', 422, "RecordInvalid"),
        (b'{"external_id": "x", "dry_run": true}', 400, "BadRequest"),
        (b'{"external_id": ', 400, "BadRequest"),
        (b'{"external_id": "\xff"}', 400, "BadRequest"),
        (b"[1]", 400, "BadRequest"),
        (b"{" * 1_000, 400, "BadRequest"),
        (b'{"external_id": "' + b"x" * 300_000 + b'"}', 413, "PayloadTooLarge"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_line_that_cannot_be_taken_is_refused_alone(
    api: Api, line: bytes, status: int, error: str
) -> None:
    key = await api.new_object(COLOR, YEAR)
    body = ndjson([car("a")]) + line + b"\n" + ndjson([car("b")])
    first, refused, second, last = told(await sent(api, key, body))
    assert (first["result"], second["result"]) == ("created", "created")
    assert (refused["index"], refused["status"], refused["error"]) == (1, status, error)
    assert last == {"total": 3, "created": 2, "updated": 0, "unchanged": 0, "refused": 1}
    assert {record["external_id"] for record in await api.records(key)} == {"a", "b"}


async def test_a_line_is_answered_while_the_next_one_is_still_to_come(api: Api) -> None:
    key = await api.new_object(COLOR)
    async with Stream(api, key, {"by": "external_id"}).open(car("x0")) as stream:
        for number in range(3):
            if number:
                stream.send(car(f"x{number}"))
            line = await stream.line()
            assert line is not None
            assert (line["index"], line["result"]) == (number, "created")
            assert len(await api.records(key)) == number + 1
        stream.end()
        last = await stream.line()
        assert last is not None
        assert last["total"] == 3
        assert await stream.line() is None


async def test_lines_of_one_identifier_are_written_in_their_order(api: Api) -> None:
    key = await api.new_object(YEAR)
    lines = [car(f"x{number % 3}", year=number) for number in range(300)]
    *_, last = told(await sent(api, key, ndjson(lines)))
    assert last == {"total": 300, "created": 3, "updated": 297, "unchanged": 0, "refused": 0}
    years = {
        record["external_id"]: record["custom_object_fields"]["year"] for record in await api.records(key)
    }
    assert years == {"x0": 297, "x1": 298, "x2": 299}


async def test_thousands_of_lines_are_answered_in_their_order(api: Api) -> None:
    key = await api.new_object(YEAR)
    lines = [car(f"x{number}", year=number) for number in range(3000)]
    *answers, last = told(await sent(api, key, ndjson(lines)))
    assert [line["index"] for line in answers] == list(range(3000))
    assert [line["external_id"] for line in answers] == [line["external_id"] for line in lines]
    assert last["created"] == 3000


async def test_the_definition_may_change_while_lines_come(api: Api) -> None:
    key = await api.new_object(COLOR)
    async with Stream(api, key, {"by": "external_id"}).open(car("a", color="red")) as stream:
        assert (await stream.line() or {})["result"] == "created"
        stream.send(car("a", year=5))
        assert (await stream.line() or {})["status"] == 422
        await api.new_field(key, **YEAR)
        stream.send(car("a", year=5))
        assert (await stream.line() or {})["result"] == "updated"
        stream.end()
        assert (await stream.line() or {})["total"] == 3


async def test_a_dry_run_writes_nothing_and_says_what_would_be(api: Api) -> None:
    key = await api.new_object(COLOR)
    lines = told(await sent(api, key, ndjson([car("a"), car("b")]), dry_run="true"))
    assert [line["result"] for line in lines[:2]] == ["created", "created"]
    assert await api.records(key) == []


async def test_lookups_name_their_records_by_external_id(api: Api) -> None:
    owners = await api.new_object()
    owner = record_of(await api.upsert(owners, {"name": "Ada"}, external_id="o1"))
    target = f"zen:custom_object:{owners}"
    key = await api.new_object({"key": "owner", "type": "lookup", "relationship_target_type": target})
    lines = [car("a", owner="external_id:o1"), car("b", owner="external_id:nobody")]
    found, missing, _ = told(await sent(api, key, ndjson(lines), returned="record"))
    assert found["record"]["custom_object_fields"] == {"owner": owner["id"]}
    assert missing["details"]["owner"][0]["error"] == "RecordNotFound"


async def test_the_record_is_answered_where_it_is_asked_for(api: Api) -> None:
    key = await api.new_object(COLOR)
    line, _ = told(await sent(api, key, ndjson([car("a", color="red")]), returned="record"))
    shown = record_of(await api.client.get(f"/custom_objects/{key}/records/{line['id']}"))
    assert line["record"] == shown


async def test_names_that_are_ignored_are_told_with_their_line(api: Api) -> None:
    key = await api.new_object(COLOR)
    line, _ = told(await sent(api, key, ndjson([{**car("a"), "color": "red"}])))
    assert line["ignored"] == ["color"]


async def test_one_document_is_answered_by_one(api: Api) -> None:
    key = await api.new_object(COLOR)
    records = [car("a"), car("b", color=5), "no record"]
    response = await sent(
        api,
        key,
        json.dumps({"custom_object_records": records}).encode(),
        {"Content-Type": "application/json"},
    )
    body = response.json()
    assert [line["status"] for line in body.pop("results")] == [200, 422, 400]
    assert body == {"total": 3, "created": 1, "updated": 0, "unchanged": 0, "refused": 2}


@pytest.mark.parametrize(
    "body", [{}, [], {"custom_object_records": {}}, {"custom_object_records": [{}] * 1001}]
)
async def test_a_document_of_another_shape_is_refused(api: Api, body: object) -> None:
    key = await api.new_object(COLOR)
    headers = {"Content-Type": "application/json"}
    response = await sent(api, key, json.dumps(body).encode(), headers)
    assert response.status_code == 400
    assert "custom_object_records" in response.json()["description"]


@pytest.mark.parametrize(
    ("query", "headers", "status"),
    [
        ({"by": ""}, {}, 400),
        ({"by": "id"}, {}, 400),
        ({"returned": "all"}, {}, 400),
        ({"external_id": "a"}, {}, 400),
        ({"dry_run": "perhaps"}, {}, 400),
        ({}, {"Idempotency-Key": "k"}, 400),
        ({}, {"If-Match": "*"}, 400),
        ({}, {"Content-Encoding": "gzip"}, 415),
        ({}, {"Content-Type": "text/csv"}, 415),
        ({}, {"Content-Type": "application/x-ndjson; charset=latin1"}, 415),
        ({}, {"Content-Type": "application/x-ndjson, application/json"}, 415),
    ],
)
async def test_a_request_is_refused_before_its_first_line(
    api: Api, query: dict[str, str], headers: dict[str, str], status: int
) -> None:
    key = await api.new_object(COLOR)
    response = await sent(api, key, ndjson([car("a")]), headers, **query)
    assert response.status_code == status, response.text
    assert await api.records(key) == []


@pytest.mark.parametrize(
    "content_type",
    [
        "application/x-ndjson; charset=utf-8",
        "Application/X-NDJSON",
        "application/x-ndjson, application/x-ndjson; charset=UTF-8",
        "application/jsonl",
    ],
)
async def test_lines_may_be_announced_in_every_form_of_their_type(api: Api, content_type: str) -> None:
    key = await api.new_object(COLOR)
    line, _ = told(await sent(api, key, ndjson([car("a")]), {"Content-Type": content_type}))
    assert line["result"] == "created"


async def test_an_unknown_object_is_not_found(api: Api) -> None:
    assert (await sent(api, "nothing", ndjson([car("a")]))).status_code == 404


async def test_blank_lines_and_a_byte_order_mark_are_left_out(api: Api) -> None:
    key = await api.new_object(COLOR)
    body = b"\xef\xbb\xbf" + ndjson([car("a")]) + b"\r\n  \n\n" + json.dumps(car("b")).encode()
    *lines, last = told(await sent(api, key, body))
    assert [line["result"] for line in lines] == ["created", "created"]
    assert last["total"] == 2


async def test_a_sender_who_falls_silent_is_told_so_and_what_came_is_written(cluster: Cluster) -> None:
    async with running(await cluster.new_database(), body_timeout_seconds=0.5) as service:
        api = Api(service, await service.token())
        key = await api.new_object(COLOR)
        async with Stream(api, key, {"by": "external_id"}).open(car("a")) as stream:
            stream.send_bytes(b'{"external_id": "half')
            written, late = await stream.lines()
        assert written["result"] == "created"
        assert (late["index"], late["status"]) == (1, 408)
        assert [record["external_id"] for record in await api.records(key)] == ["a"]
        await api.client.aclose()


async def test_a_line_that_was_cut_off_is_not_written(api: Api) -> None:
    key = await api.new_object(COLOR)
    async with Stream(api, key, {"by": "external_id"}).open(car("a")) as stream:
        assert await stream.line()
        stream.send_bytes(json.dumps(car("b")).encode())  # whole, but for the end of the line
        await asyncio.sleep(0.1)
        stream.response.close()
    await asyncio.sleep(0.3)
    assert [record["external_id"] for record in await api.records(key)] == ["a"]


async def test_each_hundred_lines_count_as_a_request(cluster: Cluster) -> None:
    async with running(await cluster.new_database(), rate_limit_token="6/minute") as service:
        api = Api(service, await service.token())
        key = await api.new_object(COLOR)  # two requests: the object and its field
        *lines, last = told(await sent(api, key, ndjson([car(f"x{number}") for number in range(450)])))
        statuses = [line["status"] for line in lines]
        assert statuses == [200] * 400 + [429] * 50
        assert 0 < lines[-1]["retry_after"] <= 60
        assert last["refused"] == 50
        assert (await api.client.get("/custom_objects")).status_code == 429
        await api.client.aclose()


async def test_whoever_reads_no_answers_is_slowed_and_then_cut_off(cluster: Cluster) -> None:
    async with running(await cluster.new_database(), write_timeout_seconds=1) as service:
        api = Api(service, await service.token())
        key = await api.new_object(COLOR)
        host, port = service.address.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        path = f"/api/v2/custom_objects/{key}/records/create_or_update_many?by=external_id"
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.token}\r\n"
        head += "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
        writer.write(head.encode())
        piece = b'{"no": "name"}\n' * 1000  # each of which is refused in many more words
        sent = 0
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(60):
                while True:
                    writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                    await writer.drain()
                    sent += len(piece)
        assert sent < 32 << 20  # what the system holds in both directions
        writer.close()
        await api.client.aclose()


async def test_while_the_database_hangs_lines_are_told_to_come_again(cluster: Cluster) -> None:
    async with (
        lossy_address(await cluster.new_database()) as line,
        running(line.url, write_wait_seconds=1, statement_timeout_seconds=2) as service,
    ):
        api = Api(service, await service.token())
        key = await api.new_object(COLOR)
        async with Stream(api, key, {"by": "external_id"}).open(car("a")) as stream:
            assert (await stream.line() or {})["result"] == "created"
            line.hang()
            for number in range(10):
                stream.send(car(f"b{number}"))
            refused = [await stream.line() or {} for _ in range(10)]
            assert {answer["status"] for answer in refused} == {503}
            assert all(answer["retry_after"] >= 1 for answer in refused)
            line.go_on()
            stream.send(car("c"))
            stream.end()
            *_, answer, last = await stream.lines()
        assert answer["result"] == "created"
        assert last["refused"] == 10
        await api.client.aclose()


async def test_what_was_answered_before_a_kill_is_there_and_unchanged_when_it_is_sent_again(
    cluster: Cluster,
) -> None:
    url = await cluster.new_database()
    lines = [car(f"x{number}", year=number) for number in range(5_000)]
    settings = {
        "DATABASE_URL": url,
        "BOOTSTRAP_EMAIL": "a@example.com",
        "BOOTSTRAP_TOKEN": processes.TOKEN,
    }
    async with processes.serving(**settings) as (client, process):
        await client.post("/api/v2/custom_objects", json={"custom_object": {"key": "car", "title": "Car"}})
        field = {"custom_object_field": {**YEAR, "title": "Year"}}
        await client.post("/api/v2/custom_objects/car/fields", json=field)
        body = ndjson(lines)
        told_before: list[dict[str, Any]] = []
        with contextlib.suppress(httpx.TransportError):
            async with client.stream("POST", MANY, content=body, headers=NDJSON) as response:
                async for text in response.aiter_lines():
                    told_before.append(json.loads(text))
                    if len(told_before) == 500:
                        process.kill()
    assert 500 <= len(told_before) < 5_000
    async with processes.serving(**settings) as (client, _):
        response = await client.post(MANY, content=ndjson(lines), headers=NDJSON, timeout=60)
        *again, last = told(response)
    assert {line["result"] for line in again[: len(told_before)]} == {"unchanged"}
    assert [line["id"] for line in again[: len(told_before)]] == [line["id"] for line in told_before]
    assert last["created"] + last["unchanged"] == 5_000


@processes.needs_curl
async def test_a_caller_who_waits_to_be_asked_for_the_body_is_asked_before_the_answer_begins(
    api: Api,
) -> None:
    key = await api.new_object(COLOR)
    url = f"{api.running.address}/api/v2/custom_objects/{key}/records/create_or_update_many?by=external_id"
    headers = [
        f"Authorization: Bearer {api.token}",
        "Content-Type: application/x-ndjson",
        "Expect: 100-continue",
    ]
    options = [part for header in headers for part in ("-H", header)]
    curl = await asyncio.create_subprocess_exec(
        *("curl", "-s", "-X", "POST", "-T", "-", *options, url),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await asyncio.wait_for(curl.communicate(ndjson([car("a"), car("b")])), 20)
    assert curl.returncode == 0
    assert [json.loads(line).get("result") for line in out.splitlines()] == ["created", "created", None]
