"""A write that waits keeps the text that is to be written, and none of the values that it was read from."""

import asyncio
import gc

import pytest

from tests.support.harness import Api, record_of

MARK = 4711  # how many numbers there are in the list of the body


def lists_of_the_body() -> int:
    gc.collect()
    return sum(type(item) is list and len(item) == MARK for item in gc.get_objects())


@pytest.mark.parametrize("method", ["PATCH", "PUT", "POST"])
async def test_a_write_that_waits_keeps_no_value_of_its_body(api: Api, method: str) -> None:
    key = await api.new_object({"key": "data", "type": "json"})
    record = {"name": "a", "external_id": "a", "custom_object_fields": {"data": [0] * MARK}}
    query = {} if method == "POST" else {"external_id": "a"}
    async with api.running.sql() as peer:
        async with peer.transaction():
            await peer.execute("lock table records in exclusive mode")
            writing = asyncio.create_task(
                api.client.request(
                    method,
                    f"/custom_objects/{key}/records",
                    params=query,
                    content=b'{"custom_object_record": ' + str(record).replace("'", '"').encode() + b"}",
                )
            )
            del record
            async with asyncio.timeout(10):
                while not await peer.fetchval("select exists (select from pg_locks where not granted)"):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            assert lists_of_the_body() == 0
        written = record_of(await writing)
    assert written["custom_object_fields"]["data"] == [0] * MARK


async def test_a_large_write_that_meets_a_new_definition_is_validated_by_it(api: Api) -> None:
    key = await api.new_object({"key": "data", "type": "json"}, {"key": "color", "type": "text"})
    fields = {"data": {"list": [0.10, None] * 1000}, "color": "red", "photo": "x"}
    async with api.running.sql() as peer:
        async with peer.transaction():
            await peer.execute("lock table records in exclusive mode")
            writing = asyncio.create_task(
                api.upsert(key, {"name": "a", "custom_object_fields": fields}, external_id="a")
            )
            async with asyncio.timeout(10):
                while not await peer.fetchval("select exists (select from pg_locks where not granted)"):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            await peer.execute("update objects set version = version + 1 where key = $1", key)
        response = await writing
    record = record_of(response)
    assert record["custom_object_fields"] == {"data": fields["data"], "color": "red"}
    assert "photo" in response.headers["X-Zendesk-API-Warn"]
