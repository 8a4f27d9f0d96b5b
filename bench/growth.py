"""Upserts by how much stands: records of one object, and objects that share the same number of records.

All sizes stand in one database, so that rounds can take turns among them.
"""

import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from bench import pgbench, report, scripts, targets
from bench.database import RECORDS
from bench.figures import Cell
from bench.plan import Plan
from bench.stage import Stage
from bench.targets import PGBENCHES, Turn
from bench.wire import Errand
from bench.workloads import CAR

_SMALL, _MIDDLE, _LARGE = 10**4, 10**6, 10**7
_SPREADS = (100, 10**4)
# A record in its table with its indexes, as measured; once more in the baseline's. The rest is WAL.
_RECORD_BYTES = 1300
_REST_BYTES = 4 * 2**30
_PG_MICROSECONDS, _HOT = "PostgreSQL µs a row", "HOT %"
_GROWN = (*report.SPEED[:-1], report.note(_PG_MICROSECONDS, ",.0f"), report.note(_HOT, ".1f"), report.ERRORS)


@dataclass(frozen=True)
class Size:
    """So many records, spread over so many objects; the baseline's table depends on the records alone."""

    records: int
    objects: int = 1

    @property
    def section(self) -> str:
        return f"{self.records:,} records in {self.objects:,} object{'s' if self.objects > 1 else ''}"

    @property
    def table(self) -> str:
        return f"pgbench_{self.records}"

    @property
    def key(self) -> str:
        """The object's key, or the pattern of their keys."""
        return f"car_{self.records}" + (f"_{self.objects}_%d" if self.objects > 1 else "")


def sizes(plan: Plan) -> list[Size]:
    """Those of a plan."""
    lone = [Size(records) for records in (_SMALL, _MIDDLE, *((_LARGE,) if plan.large else ()))]
    return [*lone, *(Size(_SMALL, objects) for objects in _SPREADS)]


def check(plan: Plan) -> None:
    """Raises SystemExit where the records would not fit on the disk."""
    needed = 2 * _RECORD_BYTES * sum(size.records for size in sizes(plan)) + _REST_BYTES
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise SystemExit(
            f"This needs about {needed / 2**30:.0f} GB free in {folder}, which has {free / 2**30:.0f}; "
            "TMPDIR says where to go instead"
        )


def cells(stage: Stage, plan: Plan) -> Iterator[Cell]:
    """Every cell of every round; the totals are audited when all are done, because that takes long."""
    stage.make_object(CAR, {})
    chosen = sizes(plan)
    object_ids = {size.section: _made(stage, size) for size in chosen}
    audited: defaultdict[tuple[str, str], list[Cell]] = defaultdict(list)
    rounds = range(1, plan.rounds + 1)
    for round_number, size, connections, name in product(rounds, chosen, plan.connections, plan.targets):
        turn = Turn(size.section, connections, round_number, audits_totals=False)
        table, section = (size.table, "") if name in PGBENCHES else (RECORDS, size.section)
        before = stage.owner.updates(table)
        cell = _cell(stage, plan, turn, size, name)
        cell = replace(cell, notes=_notes(cell, plan, before, stage.owner.updates(table)))
        audited[table, section].append(cell)
        yield cell
    for (table, section), those in audited.items():
        those[-1].errors.update(_wrong(stage, table, object_ids.get(section), those))


def _made(stage: Stage, size: Size) -> Sequence[int]:
    """Makes the objects of a size with their records, and the baseline's table; answers the objects' ids."""
    keys = [size.key % number for number in range(size.objects)] if size.objects > 1 else [size.key]
    object_ids = stage.owner.copy_object(CAR, keys)
    definition = stage.owner.definition(keys[0])
    stage.owner.load(RECORDS, definition, size.records, size.objects)
    if size.objects == 1:
        stage.owner.copy_table(size.table)
        stage.owner.load(size.table, definition, size.records)
    print(f"{size.section} stand", file=sys.stderr, flush=True)
    return object_ids


def _cell(stage: Stage, plan: Plan, turn: Turn, size: Size, name: str) -> Cell:
    if name in PGBENCHES:
        variables = pgbench.variables_of(stage, Size(size.records).key) | {"keys": size.records}
        return targets.of_pgbench(stage, plan, turn, scripts.update(size.table), variables)
    kind = "update" if size.objects == 1 else "spread"
    errand = Errand(kind, size.key, size.records, next(stage.first_values), size.objects)
    return targets.of_site(stage, plan, turn, targets.site(stage, name), errand)


def _notes(cell: Cell, plan: Plan, before: tuple[int, int], after: tuple[int, int]) -> dict[str, float]:
    """PostgreSQL counts updates by and by: the last second of a cell may be missing from its share."""
    rows, updates = cell.latencies.per_second * plan.seconds, after[0] - before[0]
    notes = {_PG_MICROSECONDS: cell.usage["postgresql"].cpu_seconds / rows * 1e6} if rows else {}
    return notes | ({_HOT: 100 * (after[1] - before[1]) / updates} if updates else {})


def _wrong(
    stage: Stage, table: str, object_ids: Sequence[int] | None, done: Sequence[Cell]
) -> dict[str, int]:
    """What is wrong with the totals of one side: each record was loaded with version 1."""
    standing = stage.owner.standing(table, object_ids)
    lost = sum(cell.written for cell in done) - (standing.writes - standing.records)
    failed = sum(sum(cell.errors.values()) for cell in done)
    counts = {"lost": max(0, lost), "written more than once": max(0, -lost - failed)}
    return {kind: count for kind, count in counts.items() if count}


def tables(cells: Sequence[Cell]) -> Iterator[str]:
    """The report: all sizes in one table."""
    yield from report.table((("section", lambda line: line.section), *_GROWN), report.lines(cells))
    yield ""
    yield from report.by_section(cells, report.COST)
