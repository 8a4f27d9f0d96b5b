"""Upserts over HTTP beside pgbench: each workload, each number of connections, in turn."""

from collections.abc import Iterator, Sequence
from itertools import product

from bench import report, targets, workloads
from bench.figures import Cell
from bench.plan import PEERS, PGBENCH_32, Plan
from bench.stage import Stage
from bench.targets import PGBENCHES, Turn
from bench.wire import Errand
from bench.workloads import WORKLOADS, Workload


def cells(stage: Stage, plan: Plan) -> Iterator[Cell]:
    """Every cell of every round; those at one number of connections stand side by side."""
    workloads.set_up(stage, plan)
    for name in plan.targets:
        if name not in PGBENCHES:
            targets.site(stage, name)
    rounds, chosen = range(1, plan.rounds + 1), [WORKLOADS[name] for name in plan.workloads]
    order = product(rounds, chosen, plan.connections, plan.targets)
    for round_number, workload, connections, name in order:
        if _takes_part(name, workload):
            yield _cell(stage, plan, Turn(workload.name, connections, round_number), workload, name)


def _takes_part(name: str, workload: Workload) -> bool:
    return (name != PGBENCH_32 or workload.many is not None) and (name not in PEERS or workload.is_for_peers)


def _cell(stage: Stage, plan: Plan, turn: Turn, workload: Workload, name: str) -> Cell:
    first_value = next(stage.first_values)
    if name in PGBENCHES:
        script = workload.many if name == PGBENCH_32 and workload.many else workload.script
        variables = workload.variables(stage, plan, turn.connections, first_value)
        cell = targets.of_pgbench(stage, plan, turn, script, variables, PGBENCHES[name])
        table, object_key = script.table, workload.baseline_key
    else:
        site = targets.site(stage, name)
        errand = Errand(workload.kind, workload.object_key, workload.keys or plan.keys, first_value)
        cell = targets.of_site(stage, plan, turn, site, errand)
        table, object_key = site.table, workload.object_key
    if workload.is_numbered:
        cell.errors.update(_gaps(stage, table, object_key))
    return cell


def _gaps(stage: Stage, table: str, object_key: str) -> dict[str, int]:
    gaps = stage.owner.gaps(table, stage.owner.definition(object_key).object_id)
    return {"gaps in the numbers": gaps} if gaps else {}


def tables(cells: Sequence[Cell]) -> Iterator[str]:
    """The report."""
    return report.by_section(cells, report.SPEED, report.COST)
