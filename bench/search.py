"""Lists and searches of one large object, without search documents and with them; what these cost an upsert.

The requests of a kind follow one another on one connection. Here a 503 is no error: without documents it is
what a search of too many records is answered, and it is told how many were.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from random import Random
from typing import Any

import httpx

from bench import cars, report, targets, workloads
from bench.database import RECORDS, Definition
from bench.figures import Cell, summed_up
from bench.plan import Plan
from bench.stage import Stage
from bench.targets import Turn
from bench.wire import Errand
from bench.workloads import CAR
from upsert_svc.search.filters import CUSTOM_FIELDS

_RECORDS_PATH = f"/custom_objects/{CAR}/records"
_UNSEARCHED = "car_unsearched"
_REFUSED, _FOUND = "answered 503", "found on the page"
_SPEED = (report.WHAT, report.P50, report.P99, report.MAX, report.note(_FOUND, ".0f"),
          report.note(_REFUSED, ".0f"), report.ERRORS)  # fmt: skip
_PAUSE_SECONDS = 0.2


@dataclass(frozen=True)
class Kind:
    """A kind of request: its path and query, and its body where it is sent by POST."""

    what: str
    path: str
    query: Callable[[int], Mapping[str, Any]]
    body: Callable[[int], Mapping[str, Any]] | None = None


def _filtered(what: str, name: str, comparison: Callable[[int], Mapping[str, Any]]) -> Kind:
    return Kind(what, "/search", lambda key: {}, lambda key: {"filter": {name: comparison(key)}})


def _words(what: str, text: Callable[[int], str], **more: str) -> Kind:
    return Kind(what, "/search", lambda key: {"query": text(key), **more})


_KINDS = (
    Kind("list by id", "", lambda key: {}),
    _filtered("filter: one record by a number", f"{CUSTOM_FIELDS}mileage",
              lambda key: {"$eq": cars.LAST_VALUE - key}),
    _filtered("filter: an option that all have", f"{CUSTOM_FIELDS}color", lambda key: {"$eq": "blue"}),
    _filtered("filter: a text that no note contains", f"{CUSTOM_FIELDS}notes",
              lambda key: {"$contains": f"none {key}"}),
    _filtered("filter: a name that contains", "name", lambda key: {"$contains": cars.number(key)[4:]}),
    _words("a rare word", lambda key: cars.number(key)),
    _words("the beginning of ten to a hundred words", lambda key: cars.number(key)[:-2]),
    _words("a rare word and one that none has", lambda key: f"{cars.number(key)} none"),
    _words("a rare word, by name", lambda key: cars.number(key), sort="name"),
    _words("a common word", lambda key: "delivery"),
    _words("a common word of the name", lambda key: "car"),
    _words("a common word, newest first", lambda key: "delivery", sort="-updated_at"),
    Kind("autocompletion: one name", "/autocomplete", lambda key: {"name": cars.number(key)[4:]}),
    Kind("autocompletion: all names", "/autocomplete", lambda key: {"name": "ar"}),
    Kind("autocompletion: none", "/autocomplete", lambda key: {"name": f"none {key}"}),
)  # fmt: skip


def cells(stage: Stage, plan: Plan) -> Iterator[Cell]:
    """Every kind without documents and with them, then upserts of a searched object and of another."""
    workloads.set_up(stage, plan)
    stage.owner.copy_object(CAR, [_UNSEARCHED])
    stage.owner.load(RECORDS, stage.owner.definition(_UNSEARCHED), plan.keys)
    car = stage.owner.definition(CAR)
    with stage.owner.frozen(car):
        few = max(1, plan.queries // 10)  # they read all records
        yield from _searches(stage, replace(plan, queries=few), "without search documents")
    seconds = _filled(stage, car)
    print(f"The documents took {seconds:.0f} s", file=sys.stderr, flush=True)
    stage.owner.execute("vacuum (analyze) search_documents")
    yield from _searches(stage, plan, "with search documents")
    yield from _upserts(stage, plan)


def _searches(stage: Stage, plan: Plan, section: str) -> Iterator[Cell]:
    with stage.service(1).client() as client:
        for kind in _KINDS:
            yield _cell(client, plan, section, kind)


def _cell(client: httpx.Client, plan: Plan, section: str, kind: Kind) -> Cell:
    chance = Random(section + kind.what)
    latencies: list[float] = []
    errors: dict[str, int] = {}
    found = refused = 0
    for _ in range(plan.queries):
        key = chance.randint(1, plan.keys)
        begun = time.perf_counter()
        answer = client.request(
            "POST" if kind.body else "GET",
            _RECORDS_PATH + kind.path,
            params=kind.query(key),
            json=kind.body(key) if kind.body else None,
            timeout=60,
        )
        latencies.append((time.perf_counter() - begun) * 1000)
        if answer.status_code == 503:
            refused += 1
        elif answer.status_code != 200:
            errors[str(answer.status_code)] = errors.get(str(answer.status_code), 0) + 1
        else:
            found += len(answer.json()["custom_object_records"])
    answered = plan.queries - refused - sum(errors.values())
    notes = {_REFUSED: float(refused), _FOUND: found / answered if answered else 0.0}
    print(f"{section}: {kind.what}: {sum(latencies) / len(latencies):.1f} ms", file=sys.stderr, flush=True)
    summary = summed_up(latencies, sum(latencies) / 1000)
    return Cell(section, kind.what, 1, 1, summary, {}, errors, notes=notes)


def _filled(stage: Stage, definition: Definition) -> float:
    """Waits until all documents stand; answers the seconds it took."""
    begun = time.monotonic()
    while True:
        (state,) = stage.owner.row(
            "select search_state from objects where object_id = $1", definition.object_id
        )
        if state == "ready":
            return time.monotonic() - begun
        if state is None:
            raise RuntimeError("the object is too small for search documents; --keys says how many records")
        time.sleep(_PAUSE_SECONDS)


def _upserts(stage: Stage, plan: Plan) -> Iterator[Cell]:
    rounds = range(1, plan.rounds + 1)
    for round_number, connections, name, key in product(
        rounds, plan.connections, plan.targets, (_UNSEARCHED, CAR)
    ):
        section = (
            "upserts of a searched object" if key == CAR else "upserts of an object that is not searched"
        )
        errand = Errand("update", key, plan.keys, next(stage.first_values))
        turn = Turn(section, connections, round_number, audits_totals=False)
        yield targets.of_site(stage, plan, turn, targets.site(stage, name), errand)


def tables(cells: Sequence[Cell]) -> Iterator[str]:
    """The report: searches, then upserts."""
    searches = [cell for cell in cells if _FOUND in cell.notes]
    yield from report.by_section(searches, _SPEED)
    yield from report.by_section(
        [cell for cell in cells if _FOUND not in cell.notes], report.SPEED, report.COST
    )
