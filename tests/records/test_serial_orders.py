"""Writes at one moment: whatever their interleaving, they are answered as in some order, one after another.

The order must let a write that was answered before another was sent come first.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.batches import FIELDS, batching_service
from tests.support.harness import Api, Cluster, problems_of, record_of

Fields = Mapping[str, int | None]
UNSET: Fields = dict.fromkeys("abc")
_examples = itertools.count(1)


class Patch(NamedTuple):
    """A write of the record of that number: an upsert by external_id or name, by id, or a creation.

    With a strategy it is a PUT.
    """

    client: int  # who sends its patches one after another
    by: str
    number: int
    fields: Fields
    name: str | None = None
    external_id: str | None = None
    strategy: str | None = None
    example: str = ""

    @property
    def identifier(self) -> str:
        kind = "e" if self.by == "external_id" else "nN"[self.client % 2]
        return f"{kind}{self.number}{self.example}"

    def of(self, example: str) -> "Patch":
        """The same in an example of its own."""
        name = self.name and self.name + example
        return self._replace(
            name=name, external_id=self.external_id and self.external_id + example, example=example
        )

    def body(self) -> dict[str, Any]:
        sent = {"name": self.name, "external_id": self.external_id}
        return {"custom_object_fields": self.fields} | {key: text for key, text in sent.items() if text}


class Record(NamedTuple):
    """A record as it is shown."""

    record_id: str
    name: str
    external_id: str | None
    fields: Fields


@dataclass(frozen=True)
class Answer:
    """What a patch was answered, and when: the record, or the word for what is wrong with it."""

    sent_at: float
    answered_at: float
    outcome: str
    record: Record | None


State = Mapping[str, Record]  # by id


def applied(patch: Patch, answer: Answer, state: State, ids: Mapping[int, str]) -> State | None:
    """The state right after the patch; None when it would have been answered otherwise."""
    stands = _found(patch, state, ids)
    made_id = answer.record.record_id if answer.record else ""
    record = stands or Record(made_id, "", None, UNSET)
    name = patch.name or (record.name if stands or patch.by != "name" else patch.identifier)
    external_id = patch.external_id or (
        record.external_id if stands or patch.by != "external_id" else patch.identifier
    )
    kept = UNSET if patch.strategy in ("force", "replace") else record.fields
    changed = Record(record.record_id, name, external_id, {**kept, **patch.fields})
    others = [other for other in state.values() if other is not stands]
    if not name:
        outcome = "name"
    elif external_id and external_id in {other.external_id for other in others}:
        outcome = "external_id"
    elif name.casefold() in {other.name.casefold() for other in others}:
        outcome = "base"
    elif stands is None:
        outcome = "created"
    else:
        outcome = "unchanged" if changed == stands else "updated"
    if outcome in ("name", "external_id", "base"):
        return state if answer.outcome == outcome else None
    if (answer.outcome, answer.record) != (outcome, changed) or (stands is None and made_id in state):
        return None
    return {**state, changed.record_id: changed}


def _found(patch: Patch, state: State, ids: Mapping[int, str]) -> Record | None:
    if patch.by == "post":
        return None
    if patch.by == "id":
        return state[ids[patch.number]]
    if patch.by == "external_id":
        return next((record for record in state.values() if record.external_id == patch.identifier), None)
    name = patch.identifier.casefold()
    return next((record for record in state.values() if record.name.casefold() == name), None)


def is_serial(
    patches: Sequence[Patch], answers: Sequence[Answer], before: State, after: State, ids: Mapping[int, str]
) -> bool:
    """Whether some order of the patches gives these answers and this state in the end."""

    def runs(state: State, left: frozenset[int]) -> bool:
        if not left:
            return state == after
        first_answer = min(answers[place].answered_at for place in left)
        return any(
            (following := applied(patches[place], answers[place], state, ids)) is not None
            and runs(following, left - {place})
            for place in left
            if answers[place].sent_at <= first_answer
        )

    return runs(before, frozenset(range(len(patches))))


# What happens


async def _send(api: Api, key: str, patch: Patch, ids: Mapping[int, str]) -> Answer:
    records = f"/custom_objects/{key}/records"
    sent_at = time.monotonic()
    if patch.by == "post":
        response = await api.create(key, **patch.body())
    else:
        url = f"{records}/{ids[patch.number]}" if patch.by == "id" else records
        query = {} if patch.by == "id" else {patch.by: patch.identifier}
        response = await api.client.request(
            "PUT" if patch.strategy else "PATCH",
            url,
            params=query | ({"strategy": patch.strategy} if patch.strategy else {}),
            json={"custom_object_record": patch.body()},
        )
    answered_at = time.monotonic()
    if response.status_code == 422:
        (outcome,) = problems_of(response)
        return Answer(sent_at, answered_at, outcome, None)
    return Answer(sent_at, answered_at, response.headers["Upsert-Result"], _shown(record_of(response)))


def _shown(record: Mapping[str, Any]) -> Record:
    return Record(record["id"], record["name"], record["external_id"], record["custom_object_fields"])


async def _state(api: Api, key: str, example: str) -> State:
    """The records of an example, which are the last that were made."""
    response = await api.client.get(f"/custom_objects/{key}/records?sort=-id&page[size]=20")
    shown = [_shown(record) for record in response.json()["custom_object_records"]]
    return {record.record_id: record for record in shown if record.name.endswith(example)}


async def _all(api: Api, key: str, patches: Sequence[Patch], ids: Mapping[int, str]) -> list[Answer]:
    answers: dict[int, Answer] = {}

    async def client(number: int) -> None:
        for place, patch in enumerate(patches):
            if patch.client == number:
                answers[place] = await _send(api, key, patch, ids)

    await asyncio.gather(*(client(number) for number in {patch.client for patch in patches}))
    return [answers[place] for place in range(len(patches))]


@dataclass(frozen=True)
class Stage:
    """A service and an object whose names are unique."""

    api: Api
    key: str


@asynccontextmanager
async def _stage(cluster: Cluster, **chosen: Any) -> AsyncIterator[Stage]:
    async with batching_service(cluster, **chosen) as api:
        yield Stage(api, await api.new_object(*FIELDS, naming={"is_unique": True}))


@pytest.fixture(scope="module")
async def patient(cluster: Cluster) -> AsyncIterator[Stage]:
    """One batch connection, which waits for a lock as long as it takes."""
    async with _stage(cluster) as stage:
        yield stage


@pytest.fixture(scope="module")
async def hasty(cluster: Cluster) -> AsyncIterator[Stage]:
    """Two batch connections, which retry individually whatever they would have to wait for."""
    async with _stage(cluster, batch_connections=2, batch_lock_timeout_seconds=0.005) as stage:
        yield stage


def _patch(client: int, by: str, number: int, fields: Fields, other: int, sends: bool) -> Patch:
    match by:
        case "external_id":
            name = f"n{number if sends else other}"  # mostly its own
            return Patch(client, by, number, fields, name if sends or number != other else None)
        case "name":
            return Patch(client, by, number, fields, f"N{number}" if sends else None, f"e{other}")
        case "post":
            return Patch(client, by, number, fields, f"n{number}", f"e{other}" if sends else None)
    return Patch(client, "id", number, fields, name=f"n{other}" if sends else None)


@st.composite
def histories(draw: st.DrawFn) -> tuple[set[int], list[Patch]]:
    """Which of three records stand at first, and the patches that are sent, mostly of one record."""
    standing = draw(st.sampled_from([{0}, {0, 1}, {0, 1, 2}, set()]))
    turns = draw(st.permutations([0, 1, 2, 3, draw(st.sampled_from([4, 0])), draw(st.sampled_from([5, 1]))]))
    numbers = st.sampled_from([0, 0, 0, 1, 2])
    values = st.dictionaries(st.sampled_from("abc"), st.none() | st.integers(0, 9), max_size=3)
    patches = []
    for client in turns[draw(st.integers(0, 3)) :]:
        number = draw(numbers)
        ways = ["external_id", "name", *(["id", "id"] if number in standing else ["external_id", "post"])]
        by = draw(st.sampled_from(ways))
        other = draw(st.sampled_from([number, 0, 1, 2]))
        patch = _patch(client, by, number, draw(values), other, draw(st.booleans()))
        strategy = draw(st.sampled_from([None, None, "force", "merge", "replace"]))
        patches.append(patch._replace(strategy=None if by == "post" else strategy))
    return standing, patches


async def _check(stage: Stage, standing: set[int], drawn: Sequence[Patch], locked_seconds: float) -> None:
    """Sends the patches while a stranger holds the records that stand, at first."""
    api, key = stage.api, stage.key
    example = f"-{next(_examples)}"
    patches = [patch.of(example) for patch in drawn]
    ids: dict[int, str] = {}
    for number in sorted(standing):
        made = await api.create(key, name=f"n{number}{example}", external_id=f"e{number}{example}")
        ids[number] = record_of(made)["id"]
    before = await _state(api, key, example)
    async with api.running.sql() as stranger, stranger.transaction():
        if locked_seconds:
            await stranger.execute(
                "select from records where record_id = any ($1) for update", [*ids.values()]
            )
        sending = asyncio.create_task(_all(api, key, patches, ids))
        await asyncio.sleep(locked_seconds)
    answers = await sending
    after = await _state(api, key, example)
    assert is_serial(patches, answers, before, after, ids), (answers, before, after)


moderate = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
LOCKED_SECONDS = st.sampled_from([0.015, 0])


@moderate
@given(history=histories(), locked_seconds=LOCKED_SECONDS)
async def test_batched_writes_are_answered_as_in_some_order(
    patient: Stage, history: tuple[set[int], list[Patch]], locked_seconds: float
) -> None:
    await _check(patient, *history, locked_seconds)


@moderate
@given(history=histories(), locked_seconds=LOCKED_SECONDS)
async def test_writes_retried_individually_are_answered_as_in_some_order(
    hasty: Stage, history: tuple[set[int], list[Patch]], locked_seconds: float
) -> None:
    await _check(hasty, *history, locked_seconds)


# The search for an order


def _saw(sent_at: float, answered_at: float, outcome: str, **fields: int | None) -> Answer:
    return Answer(sent_at, answered_at, outcome, Record("id", "n0", "e0", {**UNSET, **fields}))


CREATION = Patch(0, "external_id", 0, {"a": 1}, name="n0")
CLEARING = Patch(1, "external_id", 0, {"a": None}, name="n0")
BOTH = {"a": 1, "b": 2}
BESIDE = Patch(1, "external_id", 0, {"b": 2}, name="n0")


@pytest.mark.parametrize(
    ("patches", "answers", "last", "is_right"),
    [
        ([CREATION, BESIDE], [_saw(0, 9, "created", a=1), _saw(0, 9, "updated", a=1, b=2)], BOTH, True),
        ([CREATION, BESIDE], [_saw(0, 9, "updated", a=1, b=2), _saw(0, 9, "created", b=2)], BOTH, True),
        # a lost update, in the record or in an answer
        ([CREATION, BESIDE], [_saw(0, 9, "created", a=1), _saw(0, 9, "updated", a=1, b=2)], {"b": 2}, False),
        ([CREATION, BESIDE], [_saw(0, 9, "created", a=1), _saw(0, 9, "updated", b=2)], BOTH, False),
        # both of them the first
        ([CREATION, BESIDE], [_saw(0, 9, "created", a=1), _saw(0, 9, "created", b=2)], BOTH, False),
        # an answer from before another that had been given
        ([CREATION, CLEARING], [_saw(0, 9, "updated", a=1), _saw(0, 9, "created")], {"a": 1}, True),
        ([CREATION, CLEARING], [_saw(0, 1, "updated", a=1), _saw(2, 9, "created")], {"a": 1}, False),
        ([CREATION, CLEARING], [_saw(2, 9, "updated", a=1), _saw(0, 1, "created")], {"a": 1}, True),
        # what is said of a write that changes
        ([CREATION, CLEARING], [_saw(0, 9, "created", a=1), _saw(0, 9, "unchanged")], {}, False),
    ],
)  # fmt: skip
def test_an_order_is_found_where_there_is_one(
    patches: list[Patch], answers: list[Answer], last: dict[str, int], is_right: bool
) -> None:
    after = {"id": Record("id", "n0", "e0", {**UNSET, **last})}
    assert is_serial(patches, answers, {}, after, {}) == is_right
