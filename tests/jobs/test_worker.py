"""Jobs are carried out once, and to their end: by several workers, through crashes, losses and changes."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from tests.support.batches import account_id, of_another_account
from tests.support.crashes import survive_crashes
from tests.support.harness import Api, Cluster, record_of, running
from upsert_svc import purge
from upsert_svc.db.pools import Pool
from upsert_svc.definitions.compiled import Definitions
from upsert_svc.errors import ServiceUnavailable
from upsert_svc.jobs import job_items, job_queue, job_runner, worker
from upsert_svc.jobs.job_queue import Entry
from upsert_svc.jobs.job_runner import JobRunner, Progress
from upsert_svc.records import rules
from upsert_svc.settings import Settings

NUMBERED = {"autoincrement_enabled": True}
ITEMS: list[dict[str, Any]] = [{"external_id": str(number)} for number in range(100)]


@pytest.fixture
async def idle(cluster: Cluster) -> AsyncIterator[Api]:
    """A service that queues jobs and leaves them to others."""
    async with running(await cluster.new_database(), run_jobs=False) as service:
        api = Api(service, await service.token())
        async with api.client:
            yield api


@asynccontextmanager
async def runner_of(api: Api) -> AsyncIterator[JobRunner]:
    """What carries jobs out, on connections of its own."""
    settings = api.running.service.settings
    pool = Pool(api.running.database_url, settings, size=2, lock_timeout_seconds=0.2)
    async with pool:
        yield JobRunner(pool, Definitions(api.running.service.database.lookups))


async def queued(api: Api, key: str, action: str, items: list[Any]) -> Entry:
    response = await api.job(key, action, items)
    assert response.status_code == 201, response.text
    async with api.running.sql() as connection:
        own = await connection.fetchval("select min(account_id) from jobs")
    return Entry(own, response.json()["job_status"]["id"])


async def status_of(api: Api, entry: Entry) -> dict[str, Any]:
    status: dict[str, Any] = (await api.client.get(f"/job_statuses/{entry.job_id}")).json()["job_status"]
    return status


async def finish(runner: JobRunner, entry: Entry) -> None:
    for _ in range(200):
        if await runner.step(entry) is Progress.FINISHED:
            return
        await asyncio.sleep(0)
    raise AssertionError("the job does not end")


async def require_each_once(api: Api, key: str, entry: Entry) -> None:
    """That the job created each of ITEMS once, burnt no number and reports each in its place."""
    status = await status_of(api, entry)
    assert (status["status"], status["progress"], status["total"]) == ("completed", 100, 100)
    found = await api.records(key)
    assert sorted(int(record["name"]) for record in found) == list(range(1, 101))
    ids = {record["external_id"]: record["id"] for record in found}
    assert [result["index"] for result in status["results"]] == list(range(100))
    assert [result["id"] for result in status["results"]] == [ids[item["external_id"]] for item in ITEMS]


async def test_two_workers_carry_out_one_job_once(idle: Api) -> None:
    key = await idle.new_object(naming=NUMBERED)
    entry = await queued(idle, key, "create", ITEMS)
    seen: set[Progress] = set()

    async def carry_out(runner: JobRunner) -> None:
        while (progress := await runner.step(entry)) is not Progress.FINISHED:
            seen.add(progress)

    async with runner_of(idle) as one, runner_of(idle) as two:
        await asyncio.gather(carry_out(one), carry_out(two))
    assert Progress.WORKING in seen
    await require_each_once(idle, key, entry)


async def test_a_job_that_another_worker_is_at_is_taken(idle: Api) -> None:
    key = await idle.new_object(naming=NUMBERED)
    entry = await queued(idle, key, "create", ITEMS)
    async with runner_of(idle) as runner, idle.running.sql() as peer:
        async with peer.transaction():
            await peer.execute("select from jobs for update")
            assert await runner.step(entry) is Progress.TAKEN
            await runner.requeue_stalled()  # which waits for nobody
        await finish(runner, entry)
        assert await runner.step(entry) is Progress.FINISHED
    await require_each_once(idle, key, entry)


async def test_a_crash_between_chunks_leaves_a_job_that_goes_on_where_it_was(idle: Api) -> None:
    key = await idle.new_object(naming=NUMBERED)
    entry = await queued(idle, key, "create", ITEMS)
    async with runner_of(idle) as runner:
        assert await runner.step(entry) is Progress.WORKING
    status = await status_of(idle, entry)
    assert (status["status"], status["progress"], len(status["results"])) == ("working", 25, 25)
    assert len(await idle.records(key)) == 25
    async with runner_of(idle) as runner:
        await finish(runner, entry)
    await require_each_once(idle, key, entry)


async def test_a_connection_lost_within_a_chunk_takes_all_of_it_along(idle: Api) -> None:
    key = await idle.new_object(naming=NUMBERED)
    await idle.upsert(key, external_id="11")
    items = [{"external_id": str(number)} for number in range(20)]
    entry = await queued(idle, key, "create_or_update_by_external_id", items)
    async with runner_of(idle) as runner, idle.running.sql() as peer:
        async with peer.transaction():
            await peer.execute("select from records for update")
            step = asyncio.create_task(runner.step(entry))
            ended: list[Any] = []
            while not ended:
                ended = await peer.fetch(
                    """select pg_terminate_backend(pid) from pg_stat_activity
                        where datname = current_database() and wait_event_type = 'Lock'"""
                )
            with pytest.raises(ServiceUnavailable):
                await step
        status = await status_of(idle, entry)
        assert (status["status"], status["progress"]) == ("queued", None)
        assert len(await idle.records(key)) == 1
        await finish(runner, entry)
    names = sorted(int(record["name"]) for record in await idle.records(key))
    assert names == list(range(1, 21))


@pytest.mark.parametrize("is_made_anew", [False, True])
async def test_a_job_ends_when_its_object_is_deleted_meanwhile(idle: Api, is_made_anew: bool) -> None:
    key = await idle.new_object(naming=NUMBERED)
    entry = await queued(idle, key, "create", ITEMS)
    async with runner_of(idle) as runner:
        await runner.step(entry)
        assert (await idle.client.delete(f"/custom_objects/{key}")).status_code == 204
        if is_made_anew:
            await idle.new_object(key=key, naming=NUMBERED)
        await finish(runner, entry)
    status = await status_of(idle, entry)
    assert (status["status"], status["progress"]) == ("completed", 100)
    assert [result["success"] for result in status["results"]] == [True] * 25 + [False] * 75
    (error,) = status["results"][25]["errors"]
    assert (error["code"], error["detail"]) == ("RecordNotFound", "The custom object was deleted")
    if is_made_anew:
        assert await idle.records(key) == []


async def test_large_items_make_smaller_chunks(idle: Api) -> None:
    key = await idle.new_object({"key": "note", "type": "textarea"})
    note = {"custom_object_fields": {"note": "x" * 30_000}}
    entry = await queued(idle, key, "create", [{"name": str(number), **note} for number in range(9)])
    async with runner_of(idle) as runner:
        assert await runner.step(entry) is Progress.WORKING
        assert (await status_of(idle, entry))["progress"] == 4
        await finish(runner, entry)
    status = await status_of(idle, entry)
    assert [result["success"] for result in status["results"]] == [True] * 9


async def test_an_item_whose_record_stays_locked_fails_alone(idle: Api) -> None:
    key = await idle.new_object(naming={"is_unique": True})
    ids = [record_of(await idle.create(key, name=str(number)))["id"] for number in range(5)]
    items = [{"id": record_id, "external_id": record_id} for record_id in ids]
    entry = await queued(idle, key, "update", items)
    async with runner_of(idle) as runner, idle.running.sql() as peer, peer.transaction():
        await peer.execute("select from records where record_id = $1 for update", ids[2])
        await finish(runner, entry)
    status = await status_of(idle, entry)
    assert [result["success"] for result in status["results"]] == [True, True, False, True, True]
    (error,) = status["results"][2]["errors"]
    assert error["code"] == "ServiceUnavailable"
    assert error["detail"] == "Another write kept the record locked"
    assert [record["external_id"] for record in await idle.records(key)] == [*ids[:2], None, *ids[3:]]


async def test_a_database_that_is_read_only_for_a_while_fails_no_item(idle: Api) -> None:
    key = await idle.new_object(naming=NUMBERED)
    entry = await queued(idle, key, "create", ITEMS)
    async with idle.running.sql() as owner:
        database = await owner.fetchval("select quote_ident(current_database())")
        await owner.execute(f"alter database {database} set default_transaction_read_only = on")
        async with runner_of(idle) as runner:
            with pytest.raises(ServiceUnavailable):
                await finish(runner, entry)
        await owner.execute(f"alter database {database} reset default_transaction_read_only")
    async with runner_of(idle) as runner:
        await finish(runner, entry)
    await require_each_once(idle, key, entry)


async def test_deadlocked_jobs_are_tried_again(idle: Api) -> None:
    key = await idle.new_object()
    made = [await idle.create(key, name=str(number)) for number in range(50)]
    ids = [record_of(response)["id"] for response in made]
    one = await queued(idle, key, "delete", ids)
    two = await queued(idle, key, "delete", ids[::-1])
    async with runner_of(idle) as first, runner_of(idle) as second:
        await asyncio.gather(finish(first, one), finish(second, two))
    results = [*(await status_of(idle, one))["results"], *(await status_of(idle, two))["results"]]
    assert sorted(result["id"] for result in results if result["success"]) == ids
    assert {error["code"] for result in results for error in result["errors"]} <= {"RecordNotFound"}
    assert await idle.records(key) == []


async def test_a_definition_that_changes_under_a_chunk_has_it_validated_again(
    idle: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await idle.new_object({"key": "color", "type": "text"})
    entry = await queued(idle, key, "create", [{"name": "a", "custom_object_fields": {"size": 1}}])
    confirmed = Definitions.confirm
    looks = 0

    async def confirm_then_change(self: Definitions, cached: Any) -> Any:
        nonlocal looks
        current = await confirmed(self, cached)
        looks += 1
        if looks == 1:
            await idle.new_field(key, key="color_too", type="text")
        return current

    async with runner_of(idle) as runner:
        monkeypatch.setattr(Definitions, "confirm", confirm_then_change)
        await idle.client.patch(
            f"/custom_objects/{key}/fields/color", json={"custom_object_field": {"key": "size"}}
        )
        await finish(runner, entry)
        again = await queued(idle, key, "create", [{"name": "b", "custom_object_fields": {"color": "1"}}])
        looks = 0
        await finish(runner, again)
    assert looks >= 2
    (result,) = (await status_of(idle, again))["results"]
    assert result["success"]


async def test_an_item_that_meets_a_bug_fails_alone(
    idle: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    key = await idle.new_object()
    entry = await queued(idle, key, "create", [{"name": name} for name in ("a", "bug", "c")])
    validate = rules.validate

    def stumble(definition: Any, principal: Any, change: Any) -> Any:
        if change.patch.name == "bug":
            raise ZeroDivisionError
        return validate(definition, principal, change)

    monkeypatch.setattr(job_items, "validate", stumble)
    async with runner_of(idle) as runner:
        await finish(runner, entry)
    status = await status_of(idle, entry)
    assert [result["success"] for result in status["results"]] == [True, False, True]
    assert status["results"][1]["errors"][0]["code"] == "InternalServerError"
    assert [record["name"] for record in await idle.records(key)] == ["a", "c"]
    assert "ZeroDivisionError" in caplog.text


async def test_a_job_that_meets_a_bug_at_every_step_is_given_up(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def stumble(*_: Any) -> Progress:
        raise ZeroDivisionError

    for pause in ("_SHORTLY", "_POLL"):
        monkeypatch.setattr(worker, pause, timedelta(seconds=0.1))
    monkeypatch.setattr(JobRunner, "step", stumble)
    caplog.set_level(logging.CRITICAL)
    async with running(await cluster.new_database()) as service:
        api = Api(service, await service.token())
        async with api.client:
            key = await api.new_object()
            job = await api.finished_job(key, "create", [{"name": "a"}])
    assert (job["status"], job["progress"], job["results"]) == ("failed", 0, [])
    assert job["message"].startswith("Given up after an internal error at ")


async def test_a_job_whose_entry_was_lost_is_found_again(cluster: Cluster) -> None:
    url = await cluster.new_database()
    async with running(url, run_jobs=False) as service:
        api = Api(service, await service.token())
        async with api.client:
            key = await api.new_object(naming=NUMBERED)
            entry = await queued(api, key, "create", ITEMS)
    async with running(url) as service:
        api.running = service
        async with service.sql() as connection:
            assert await connection.execute("delete from pgqueuer.queue") in ("DELETE 1", "DELETE 0")
        api = Api(service, api.token)
        async with api.client:
            await api.finished(entry.job_id, seconds=20)
            await require_each_once(api, key, entry)


async def test_jobs_are_looked_after_once_and_not_before_their_time(idle: Api) -> None:
    key = await idle.new_object()
    entry = await queued(idle, key, "create", [{"name": "a"}])
    async with runner_of(idle) as runner, idle.running.sql() as connection:

        async def entries() -> list[Entry]:
            await asyncio.gather(*(runner.requeue_stalled() for _ in range(2)))
            rows = await connection.fetch("select payload from pgqueuer.queue")
            return [job_queue.entry_of(row["payload"]) for row in rows]

        neglect = "update jobs set touched_at = now() - interval '1 minute'"
        assert await entries() == [entry]
        await connection.execute("delete from pgqueuer.queue")
        assert await entries() == []
        await connection.execute(neglect)
        assert await entries() == [entry]
        await connection.execute(neglect)
        assert await entries() == [entry]
        await connection.execute("delete from pgqueuer.queue")
        await finish(runner, entry)
        await connection.execute(neglect)
        assert await entries() == []


async def test_forty_callers_at_once_get_thirty_jobs(idle: Api) -> None:
    key = await idle.new_object()
    responses = await asyncio.gather(*(idle.job(key, "delete", ["x"]) for _ in range(40)))
    assert sorted(response.status_code for response in responses) == [201] * 30 + [429] * 10
    async with idle.running.sql() as connection:
        assert await connection.fetchval("select count(*) from jobs") == 30
        assert await connection.fetchval("select count(*) from pgqueuer.queue") == 30
        (entry, *_) = [Entry(*row) for row in await connection.fetch("select account_id, job_id from jobs")]
    async with runner_of(idle) as runner:
        await finish(runner, entry)
    assert (await idle.job(key, "delete", ["x"])).status_code == 201
    assert (await idle.job(key, "delete", ["x"])).status_code == 429


async def test_a_job_is_readable_for_a_day_and_then_purged(idle: Api) -> None:
    key = await idle.new_object()
    old, young, waiting = [await queued(idle, key, "delete", ["x"]) for _ in range(3)]
    async with runner_of(idle) as runner:
        await finish(runner, old)
        await finish(runner, young)
    async with idle.running.sql() as connection:
        for entry, hours in ((old, 25), (young, 23), (waiting, 25)):
            await connection.execute(
                """update jobs set created_at = now() - make_interval(hours => $2),
                          finished_at = finished_at - make_interval(hours => $2) where job_id = $1""",
                entry.job_id,
                hours,
            )
        assert (await idle.client.get(f"/job_statuses/{old.job_id}")).status_code == 404
        listed = (await idle.client.get("/job_statuses")).json()["job_statuses"]
        assert [job["id"] for job in listed] == [young.job_id, waiting.job_id]
        await purge.step(idle.running.service.database.main)
        rows = await connection.fetch("select job_id from jobs order by job_id")
        assert [row["job_id"] for row in rows] == [young.job_id, waiting.job_id]
        assert await connection.fetchval("select items from jobs where job_id = $1", young.job_id) == []


async def test_what_the_queue_notes_of_itself_is_forgotten_after_a_day(idle: Api) -> None:
    key = await idle.new_object()
    await idle.job(key, "delete", ["x"])
    async with idle.running.sql() as connection:
        await connection.execute("update pgqueuer.log set created = now() - interval '25 hours'")
        await idle.job(key, "delete", ["x"])
        await purge.step(idle.running.service.database.main)
        assert await connection.fetchval("select count(*) from pgqueuer.log") == 1


async def test_jobs_go_on_when_the_database_drops_every_connection(cluster: Cluster) -> None:
    async with running(await cluster.new_database()) as service:
        api = Api(service, await service.token())
        async with api.client:
            key = await api.new_object(naming=NUMBERED)
            await api.finished_job(key, "create", [{}])
            async with service.sql() as connection:
                await connection.execute(
                    """select pg_terminate_backend(pid) from pg_stat_activity
                        where datname = current_database() and pid <> pg_backend_pid()"""
                )
            response = await until_served(lambda: api.job(key, "create", [{}]))
            url = response.json()["job_status"]["url"]
            async with asyncio.timeout(20):
                while response.json()["job_status"]["status"] != "completed":
                    response = await until_served(lambda: api.client.get(url))
            assert response.json()["job_status"]["results"][0]["success"]


class Steps:
    """The chunks that a worker carries out, each when it is let go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun: list[int] = []  # the account of each, in their order
        self._going_on = asyncio.Semaphore(0)
        self._step = JobRunner.step
        monkeypatch.setattr(JobRunner, "step", lambda runner, entry: self._held(runner, entry))

    async def _held(self, runner: JobRunner, entry: Entry) -> Progress:
        self.begun.append(entry.account_id)
        await self._going_on.acquire()
        return await self._step(runner, entry)

    async def go_on(self, count: int = 1) -> None:
        """Lets so many end, and waits until as many others have begun."""
        begun = len(self.begun) + count
        for _ in range(count):
            self._going_on.release()
        await self.until_begun(begun)

    async def until_begun(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.begun) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_a_job_waits_for_no_other_accounts_jobs(idle: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_runner, "CHUNK", 10)
    steps = Steps(monkeypatch)
    settings = Settings(database_url=SecretStr(idle.running.database_url))
    async with of_another_account(idle) as other:
        key, foreign = await idle.new_object(), await other.new_object()
        first = await queued(idle, key, "create", ITEMS)
        for _ in range(9):
            await idle.job(key, "create", ITEMS)
        async with worker.running(settings, idle.running.database_url, idle.running.service.definitions):
            await steps.until_begun(2)
            answer = await other.job(foreign, "create", [{"name": "one"}])
            await steps.go_on()
            theirs = steps.begun[-1]
            assert (steps.begun[:2], theirs) == ([first.account_id] * 2, await account_id(idle, "other"))
            await steps.go_on(2)
            assert (await other.finished(answer.json()["job_status"]["id"]))["status"] == "completed"
            assert (await status_of(idle, first))["status"] in ("queued", "working")
            for _ in range(5):
                steps._going_on.release()


async def test_an_account_has_one_chunk_under_way_while_others_wait(
    idle: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_runner, "CHUNK", 10)
    steps = Steps(monkeypatch)
    settings = Settings(database_url=SecretStr(idle.running.database_url))
    async with of_another_account(idle) as other:
        for api in (idle, other):
            key = await api.new_object()
            for _ in range(3):
                await api.job(key, "create", ITEMS)
        async with worker.running(settings, idle.running.database_url, idle.running.service.definitions):
            await steps.until_begun(2)
            for _ in range(10):
                await steps.go_on()
            for _ in range(5):
                steps._going_on.release()
    one, two = steps.begun[:2]
    assert one != two
    assert abs(steps.begun[:12].count(one) - steps.begun[:12].count(two)) <= 2


async def test_jobs_of_an_account_are_begun_in_their_order_and_others_in_turn(idle: Api) -> None:
    async with of_another_account(idle) as other, runner_of(idle) as runner:
        mine, foreign = await idle.new_object(), await other.new_object()
        ours = [await queued(idle, mine, "delete", ["x"]) for _ in range(3)]
        answer = await other.job(foreign, "delete", ["x"])
        theirs = Entry(await account_id(idle, "other"), answer.json()["job_status"]["id"])
        own = ours[0].account_id
        assert own < theirs.account_id
        for last, under_way, aside, expected in (
            (0, (), (), ours[0]),
            (own, (), (), theirs),
            (theirs.account_id, (), (), ours[0]),
            (0, (ours[0],), (), theirs),
            (0, (ours[0], theirs), (), ours[1]),
            (theirs.account_id, (), (ours[0],), ours[1]),
            (0, (theirs,), ours, None),
        ):
            assert await runner.next_in_turn(ours[2], last, under_way, aside) == (True, expected)
        await finish(runner, ours[2])
        assert await runner.next_in_turn(ours[2], 0, (), ()) == (False, ours[0])


async def until_served(ask: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
    """The answer when the service has heard of the connections that it lost: until then it is a 503."""
    async with asyncio.timeout(20):
        while True:
            response = await ask()
            if response.status_code != 503:
                return response


async def test_a_worker_that_stops_hands_its_job_on(idle: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    key = await idle.new_object(naming=NUMBERED)
    entry = await queued(idle, key, "create", ITEMS)
    monkeypatch.setattr(job_runner, "CHUNK", 1)
    settings = Settings(database_url=SecretStr(idle.running.database_url))
    definitions = idle.running.service.definitions
    progress = 0
    for _ in range(3):
        async with worker.running(settings, idle.running.database_url, definitions):
            async with asyncio.timeout(20):
                while (await status_of(idle, entry))["progress"] in (None, progress):  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
        status = await status_of(idle, entry)
        progress = status["progress"]
    async with idle.running.sql() as connection:
        left = await connection.fetch("select status, execute_after <= now() as is_due from pgqueuer.queue")
    if status["status"] == "working":
        assert [(row["status"], row["is_due"]) for row in left] == [("queued", True)]
    async with runner_of(idle) as runner:
        await finish(runner, entry)
    await require_each_once(idle, key, entry)


async def test_a_worker_without_a_database_waits_for_one_and_stops_at_once(
    idle: Api, caplog: pytest.LogCaptureFixture
) -> None:
    gone = idle.running.database_url.replace("port=", "port=1")
    settings = Settings(database_url=SecretStr(gone))
    async with worker.running(settings, gone, idle.running.service.definitions):
        await asyncio.sleep(0.1)
    assert {record.name for record in caplog.records} <= {"upsert_svc.db.outages"}, caplog.text


@pytest.mark.parametrize("victim", ["serve", "work"])
async def test_every_item_of_crashed_processes_has_its_effect_once(cluster: Cluster, victim: str) -> None:
    await survive_crashes(await cluster.new_database(), victim, rounds=3, seed=20260301)
