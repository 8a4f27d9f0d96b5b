"""The workloads: what is sent over HTTP, and the baseline beside it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench import peers, pgbench, scripts
from bench.database import RECORDS
from bench.pgbench import Script
from bench.plan import Plan
from bench.stage import Stage

CAR, UNIQUE, NUMBERED = "car", "unique_car", "numbered_car"
TABLE, NUMBERED_TABLE, COUNTERS = "pgbench_records", "pgbench_numbered", "pgbench_counters"
_NAMING: Mapping[str, Mapping[str, Any]] = {
    CAR: {},
    UNIQUE: {"is_unique": True},
    NUMBERED: {
        "autoincrement_enabled": True,
        "autoincrement_prefix": "C-",
        "autoincrement_padding": 6,
    },
}


@dataclass(frozen=True)
class Workload:
    """What a section of the tables is about. Its object over HTTP need not be that of its baseline."""

    name: str
    kind: str
    script: Script
    object_key: str = CAR
    baseline_key: str = CAR
    keys: int | None = None
    many: Script | None = None

    @property
    def is_for_peers(self) -> bool:
        """They know one object, whose records are found by external_id, named by hand and patched."""
        return self.object_key == CAR and self.kind != "replace"

    @property
    def is_numbered(self) -> bool:
        return self.object_key == NUMBERED

    def variables(self, stage: Stage, plan: Plan, connections: int, first_value: int) -> dict[str, object]:
        """Those of its scripts."""
        return pgbench.variables_of(stage, self.baseline_key) | {
            "keys": self.keys or plan.keys,
            "first_value": first_value,
            "clients": connections,
            "made": 0,
        }


_UPDATE = scripts.update(TABLE)
WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("update", "update", _UPDATE, many=scripts.update_many(TABLE)),
        Workload("replace", "replace", _UPDATE),
        Workload("mixed", "mixed", scripts.mixed(TABLE)),
        Workload("refused", "refused", _UPDATE),
        Workload("hot", "update", _UPDATE, keys=1),
        Workload("autonumber", "create", scripts.autonumber(NUMBERED_TABLE, COUNTERS), NUMBERED, NUMBERED),
        Workload("unique", "by name", _UPDATE, UNIQUE),
    )
}


def set_up(stage: Stage, plan: Plan) -> None:
    """The objects and tables of the plan's workloads, with the records that stand beforehand."""
    keys = {CAR, *(WORKLOADS[name].object_key for name in plan.workloads)}
    for key in (CAR, UNIQUE, NUMBERED):
        if key in keys:
            stage.make_object(key, _NAMING[key])
            if key != NUMBERED:
                stage.owner.load(RECORDS, stage.owner.definition(key), plan.keys)
    definition = stage.owner.definition(CAR)
    for table in (TABLE, *(peers.PEERS[name].table for name in plan.targets if name in peers.PEERS)):
        stage.owner.copy_table(table)
        stage.owner.load(table, definition, plan.keys)
    if NUMBERED in keys:
        stage.owner.copy_table(NUMBERED_TABLE)
        stage.owner.copy_table(COUNTERS, "counters")
        stage.owner.execute(
            f"insert into {COUNTERS} select c.* from counters c join objects o using (account_id, object_id) "
            "where o.key = $1",
            NUMBERED,
        )
