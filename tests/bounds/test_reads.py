"""Searches and jobs without end of one account: what another one sees."""

import asyncio
import itertools
import json

import pytest

from tests.bounds.callers import (
    OBJECT,
    RECORDS,
    Connection,
    Figures,
    Served,
    asking,
    neighbours,
    report,
    request,
    served,
    upsert,
)
from tests.support.harness import Cluster

pytestmark = pytest.mark.bounds

RECORD_COUNT = 1500
TIMES = 5  # as long as alone
ALONE_LEAST_MS = 20.0  # of a p99 alone, which one slow answer would else decide
_numbers = itertools.count()


async def _fill(service: Served) -> None:
    def sent() -> bytes:
        return upsert(service.token, f"v{next(_numbers)}", {"text": "lorem ipsum " * 1_100})

    async with asking(service.port, sent, callers=16) as answers:
        while len(answers) < RECORD_COUNT:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_the_searches_of_one_account_leave_the_reads_of_others_alone(cluster: Cluster) -> None:
    async with served(await cluster.new_database()) as service:
        await _fill(service)
        parts = [{"custom_object_fields.text": {"$contains": f"nowhere {number}"}} for number in range(100)]
        body = json.dumps({"filter": {"$or": parts}}).encode()
        search = request("POST", f"{RECORDS}/search", service.token, body)
        async with neighbours(service) as alone:
            await asyncio.sleep(3)
        async with neighbours(service) as seen, asking(service.port, lambda: search, callers=24) as answers:
            await asyncio.sleep(10)
        print(f"\nalone: {alone}")
        report("24 callers who search through everything", service, seen, answers)
        assert Figures.of(seen.shows).p99 < TIMES * max(ALONE_LEAST_MS, Figures.of(alone.shows).p99)


async def test_the_jobs_of_one_account_leave_those_of_others_their_turn(cluster: Cluster) -> None:
    async with served(await cluster.new_database()) as service, neighbours(service) as seen:
        items = [{"name": "x", "custom_object_fields": {"text": "y" * 2_000}}] * 100
        body = json.dumps({"job": {"action": "create", "items": items}}).encode()
        connection = Connection(service.port)
        many = request("POST", f"{OBJECT}/jobs", service.token, body)
        answers = [await connection.ask(many) for _ in range(30)]
        one = json.dumps({"job": {"action": "create", "items": items[:1]}}).encode()
        began = asyncio.get_running_loop().time()
        made = await connection.ask(request("POST", f"{OBJECT}/jobs", service.other_token, one))
        job_id = json.loads(made.body)["job_status"]["id"]
        status = request("GET", f"/api/v2/job_statuses/{job_id}", service.other_token)
        while json.loads((await connection.ask(status)).body)["job_status"]["status"] != "completed":  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        took = asyncio.get_running_loop().time() - began
        connection.close()
        print(f"\nthe job of another account took {took:.2f} s behind 30 of 100 items")
        report("30 jobs of one account", service, seen, answers)
        assert took < 3
