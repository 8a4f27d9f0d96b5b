"""Whoever can open a connection, without a token: what it makes the service hold."""

import asyncio
import itertools
import socket
from functools import partial

import pytest

from tests.bounds.callers import (
    LIMIT_BYTES,
    RECORDS,
    Answer,
    Connection,
    counts,
    neighbours,
    pour,
    report,
    request,
    served,
    upsert,
)
from tests.support.harness import Cluster

pytestmark = pytest.mark.bounds

PIPELINED = [b"GET /x HTTP/1.1\r\n\r\n" * 5_000]
TRAILERS = b"GET /healthz HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
MEGABYTES = 1 << 20


@pytest.mark.parametrize("connections", [1, 20])
async def test_pipelined_requests_wait_in_the_network(cluster: Cluster, connections: int) -> None:
    async with served(await cluster.new_database()) as service, neighbours(service) as seen:
        poured = partial(pour, service.port, itertools.repeat(PIPELINED[0]), 10 * MEGABYTES, 5)
        await asyncio.gather(*(asyncio.to_thread(poured) for _ in range(connections)))
        report(f"10 MB of pipelined requests on {connections} connections", service, seen)


async def test_trailers_without_end_end_the_connection(cluster: Cluster) -> None:
    async with served(await cluster.new_database()) as service, neighbours(service) as seen:
        pieces = itertools.chain([TRAILERS], itertools.repeat(b"X: " + b"a" * 1000 + b"\r\n"))
        sent = await asyncio.to_thread(pour, service.port, pieces, 200 * MEGABYTES, 10)
        report(f"{sent >> 10} KB of trailers", service, seen)
        assert sent < 20 * MEGABYTES


@pytest.mark.parametrize(
    "begun",
    [b"", b"GET /healthz HTTP/1.1\r\n", b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;"],
    ids=["empty lines", "headers", "an extension of a chunk"],
)
async def test_what_never_ends_ends_the_connection(cluster: Cluster, begun: bytes) -> None:
    async with served(await cluster.new_database()) as service, neighbours(service) as seen:
        more = b"x" * 1000 + b": y\r\n" if begun.startswith(b"GET") else b"\r\n" if not begun else b"e=1;"
        pieces = itertools.chain([begun], itertools.repeat(more * 20))
        sent = await asyncio.to_thread(pour, service.port, pieces, 200 * MEGABYTES, 15)
        report(f"{sent >> 10} KB of what never ends", service, seen)
        assert sent < 200 * MEGABYTES


async def test_who_does_not_read_is_cut_off_and_what_it_was_to_get_is_given_back(cluster: Cluster) -> None:
    async with served(await cluster.new_database(), WRITE_TIMEOUT_SECONDS="3") as service:
        connection = Connection(service.port)
        for number in range(400):
            made = await connection.ask(upsert(service.token, f"v{number}", {"text": "x" * 30_000}))
            assert made.status == 200
        async with neighbours(service) as seen:
            page = request("GET", "/api/v2/incremental/custom_objects/car/cursor?start_time=0", service.token)
            silent = []
            for _ in range(40):
                one = socket.create_connection(("127.0.0.1", service.port))
                one.sendall(page)
                silent.append(one)
            await asyncio.sleep(8)
            for one in silent:
                one.close()
        report("40 pages of 32 KB records that are not read", service, seen)
        await asyncio.sleep(1)
        assert service.rss_bytes() < LIMIT_BYTES * 2 / 3
        connection.close()  # which has been idle for too long
        listing = await connection.ask(request("GET", RECORDS, service.token))
        assert listing.status == 200
        connection.close()


async def test_silent_connections_keep_nobody_out(cluster: Cluster) -> None:
    async with served(await cluster.new_database()) as service:
        silent: list[socket.socket] = []
        async with neighbours(service) as seen:
            silent += [socket.create_connection(("127.0.0.1", service.port)) for _ in range(1500)]
            answers: list[Answer] = []
            for number in range(50):
                connection = Connection(service.port)  # a new one each time
                answers.append(await connection.ask(upsert(service.token, f"v{number}", {"year": 1})))
                connection.close()
        for one in silent:
            one.close()
        report("1,500 silent connections", service, seen, answers)
        assert counts(answers)[200] >= 45
        assert any("connections are open" in line for line in service.log)
