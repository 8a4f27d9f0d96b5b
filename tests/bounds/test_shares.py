"""What one account holds or keeps PostgreSQL busy with, and what another one then sees."""

import asyncio
import contextlib
import itertools
import json
import socket
from collections.abc import AsyncIterator

import pytest

from tests.bounds.callers import (
    OBJECT,
    RECORDS,
    Connection,
    Figures,
    Served,
    asking,
    counts,
    neighbours,
    report,
    request,
    served,
    upsert,
)
from tests.support.harness import Cluster
from upsert_svc.db.pools import owner_transaction

pytestmark = pytest.mark.bounds

SECONDS = 5.0
P99_MS = 150.0
_numbers = itertools.count()


@contextlib.asynccontextmanager
async def _held_open(service: Served, sent: bytes, count: int) -> AsyncIterator[None]:
    """So many connections on which something was sent that is not gone on with."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            one = stack.enter_context(socket.socket())
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.connect(("127.0.0.1", service.port))
            one.sendall(sent)
        await asyncio.sleep(0.5)
        yield


@pytest.mark.parametrize(
    ("method", "path", "size", "count"),
    [("PATCH", f"{RECORDS}?external_id=a", 262_144, 60), ("POST", f"{OBJECT}/jobs", 16_000_000, 10)],
    ids=["upserts", "jobs"],
)
async def test_bodies_that_do_not_come_keep_no_memory_from_another_account(
    cluster: Cluster, method: str, path: str, size: int, count: int
) -> None:
    async with served(await cluster.new_database()) as service:
        begun = request(method, path, service.token, b"{" * size)[: 1 - size]
        item = {"external_id": "b", "custom_object_fields": {"text": "x" * 27_000}}
        job = json.dumps(
            {"job": {"action": "create_or_update_by_external_id", "items": [item] * 12}}
        ).encode()
        async with neighbours(service) as seen, _held_open(service, begun, count):
            connection = Connection(service.port)
            large = upsert(service.other_token, "b", {"text": "x" * 27_000})
            found = [await connection.ask(large) for _ in range(5)]
            queued = await connection.ask(request("POST", f"{OBJECT}/jobs", service.other_token, job))
            connection.close()
        report(f"{count} bodies that do not come", service, seen)
        print(f"large upserts {Figures.of(found)}, a job {queued.seconds * 1000:.0f} ms")
        assert (counts(found)[200], queued.status) == (5, 201)
        assert Figures.of(found).most < 1000


async def test_pages_that_are_read_slowly_keep_no_memory_from_another_account(cluster: Cluster) -> None:
    async with served(await cluster.new_database()) as service:
        connection = Connection(service.port)
        for number in range(70):
            await connection.ask(upsert(service.token, f"r{number}", {"text": "x" * 27_000}))
        own, lists = (request("GET", RECORDS, token) for token in (service.token, service.other_token))
        async with neighbours(service) as seen, _held_open(service, own, 40):
            found = [await connection.ask(lists) for _ in range(20)]
        connection.close()
        report("40 pages that are not read", service, seen)
        assert counts(found)[200] == 20
        assert Figures.of(found).most < 1000


DEEP = {f"k{number}": {"a": {"b": {"c": number}}} for number in range(830)}


@pytest.mark.parametrize("query", ["", "&dry_run=true"], ids=["written", "tried out"])
async def test_documents_that_take_long_hold_up_no_other_account(cluster: Cluster, query: str) -> None:
    async with served(await cluster.new_database()) as service:

        def sent() -> bytes:
            number = next(_numbers)
            fields = {"more": DEEP | {"k0": {"a": number}}}
            return upsert(service.token, f"d{number % 64}{query}", fields)

        async with neighbours(service) as seen, asking(service.port, sent, callers=24) as answers:
            await asyncio.sleep(SECONDS)
        report("24 writers of nested documents", service, seen, answers)
        assert counts(answers)[200] > 10
        assert Figures.of(seen.upserts).p99 < P99_MS


async def test_text_of_many_words_where_it_is_searched_holds_up_no_other_account(cluster: Cluster) -> None:
    async with served(await cluster.new_database()) as service:
        await _make_documents(service)

        def sent() -> bytes:
            number = next(_numbers)
            words = " ".join(f"{number % 997 * 7919 + place * 31:x}" for place in range(4000))
            return upsert(service.token, f"w{number % 64}", {"text": words})

        async with asking(service.port, sent, callers=8):
            await asyncio.sleep(1)  # in which it shows that they take long
        async with neighbours(service) as seen, asking(service.port, sent, callers=24) as answers:
            await asyncio.sleep(SECONDS)
        report("24 writers of thousands of words", service, seen, answers)
        assert counts(answers)[200] > 10
        assert Figures.of(seen.upserts).p99 < P99_MS


async def _make_documents(service: Served) -> None:
    """Has the object searched, until its documents are there."""
    connection = Connection(service.port)
    for _ in range(22):
        items = [{"name": f"n{next(_numbers)}"} for _ in range(100)]
        body = json.dumps({"job": {"action": "create", "items": items}}).encode()
        assert (await connection.ask(request("POST", f"{OBJECT}/jobs", service.token, body))).status == 201
    for _ in range(100):
        await connection.ask(request("GET", f"{RECORDS}/search?query=abc", service.token))
        if await _has_documents(service):
            break
        await asyncio.sleep(0.2)
    else:
        raise AssertionError("the documents were not made")
    connection.close()


async def _has_documents(service: Served) -> bool:
    async with owner_transaction(service.database_url) as connection:
        state: str | None = await connection.fetchval("select max(search_state) from objects")
    return state == "ready"
