"""What a run does: read from the command line once, and handed to every part."""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import cars

PGBENCH, PGBENCH_32 = "pgbench", "pgbench-32"
PEERS = ("fastapi", "fastify")
WORKLOADS = ("update", "replace", "mixed", "refused", "hot", "autonumber", "unique")
UPSERTS, OPEN_LOOP, READS, GROWTH, ENDURANCE = "upserts", "open-loop", "reads", "growth", "endurance"
SEARCH = "search"

_SERVICE = re.compile(r"service-([1-9][0-9]?)")
_COMMANDS = {
    UPSERTS: "upserts over HTTP beside pgbench, each workload (the default)",
    OPEN_LOOP: "the latency at half of what a closed loop reaches, counted from when each request was due",
    READS: "records by id and lists of 100, beside the same selects",
    GROWTH: "upserts by how many records stand, and over how many objects",
    ENDURANCE: "the memory under full load",
    SEARCH: "searches without and with search documents, and what these cost an upsert",
}
_CONNECTIONS = {UPSERTS: [1, 8, 32, 64, 128], OPEN_LOOP: [64], READS: [1, 32], GROWTH: [32], ENDURANCE: [64],
                SEARCH: [32]}  # fmt: skip
_SECONDS = {OPEN_LOOP: 30.0, ENDURANCE: 300.0}
_TARGETS = {
    UPSERTS: [PGBENCH, PGBENCH_32, "service-1", "service-2"],
    OPEN_LOOP: ["service-1"],
    READS: [PGBENCH, "service-1"],
    GROWTH: [PGBENCH, "service-1"],
    ENDURANCE: ["service-1"],
    SEARCH: ["service-1"],
}
_TAKING_PEERS = (UPSERTS, OPEN_LOOP, ENDURANCE)


@dataclass(frozen=True)
class Plan:
    """The size of a run. Each cell is one target at one number of connections in one round."""

    command: str
    targets: tuple[str, ...]
    connections: tuple[int, ...]
    rounds: int
    seconds: float
    warmup: float
    sample: int
    json: Path | None
    keys: int = 0
    workloads: tuple[str, ...] = ()
    share: float = 0
    arrivals: str = "poisson"
    open_connections: int = 0
    large: bool = False
    every: float = 0
    queries: int = 0


def workers_of(target: str) -> int:
    """How many workers of the service a target's name asks for; 0 where it is another one."""
    asked = _SERVICE.fullmatch(target)
    return int(asked[1]) if asked else 0


def read(arguments: list[str]) -> Plan:
    """The plan that the command line asks for."""
    if not arguments or arguments[0] not in {*_COMMANDS, "-h", "--help"}:
        arguments = [UPSERTS, *arguments]
    parser = argparse.ArgumentParser(prog="python -m bench", description="What the service does, measured.")
    commands = parser.add_subparsers(dest="command", required=True)
    for command, what in _COMMANDS.items():
        _add_options(commands.add_parser(command, help=what, description=what), command)
    return _checked(vars(parser.parse_args(arguments)), parser)


def _add_options(parser: argparse.ArgumentParser, command: str) -> None:
    def add(name: str, kind: Any, default: Any, told: str, *earlier: str, **more: Any) -> None:
        shown = " ".join(map(str, default)) if isinstance(default, list) else default
        parser.add_argument(name, *earlier, type=kind, default=default, help=f"{told} ({shown})", **more)

    known = ", ".join(_known(command))
    add("--targets", str, _TARGETS[command], f"of {known}", "--contestants", nargs="+", metavar="NAME")
    if command in _TAKING_PEERS:
        parser.add_argument("--peers", "--rivals", action="store_true", help="the other web services too")
    add("--connections", _whole, _CONNECTIONS[command], "at a time", nargs="+", metavar="N")
    add("--rounds", _whole, 1 if command == ENDURANCE else 3, "how often each cell is run")
    add("--seconds", float, _SECONDS.get(command, 8.0), "how long a cell is measured")
    add("--warmup", float, 2.0, "how long a cell runs before that")
    if command != GROWTH:
        add("--keys", _whole, 10**6 if command == SEARCH else 100_000, "records that stand beforehand")
    add("--sample", _whole, 200 if command == GROWTH else 1000, "keys read back after a cell")
    parser.add_argument("--json", type=Path, help="where to write all figures as JSON")
    if command == UPSERTS:
        told = f"what is sent: {', '.join(WORKLOADS)}"
        add(
            "--workload",
            str,
            ["update"],
            told,
            nargs="+",
            choices=WORKLOADS,
            metavar="NAME",
            dest="workloads",
        )
    elif command == OPEN_LOOP:
        add("--share", float, 0.5, "the rate, as a share of the closed loop's")
        add("--arrivals", str, "poisson", "how requests fall due", choices=("poisson", "uniform"))
        add("--open-connections", _whole, 256, "of the open loop, so that a request nearly never waits")
    elif command == GROWTH:
        parser.add_argument("--large", action="store_true", help="10,000,000 records too")
    elif command == ENDURANCE:
        add("--every", float, 5.0, "seconds from one look at the memory to the next")
    elif command == SEARCH:
        add("--queries", _whole, 100, "of each kind, one after the other; a tenth where all records are read")


def _known(command: str) -> list[str]:
    """The names of targets that a command takes, as they are told."""
    plain = [name for name in _TARGETS[command] if not workers_of(name)]
    return [*plain, "service-WORKERS", *(PEERS if command in _TAKING_PEERS else ())]


def _checked(values: dict[str, Any], parser: argparse.ArgumentParser) -> Plan:
    command = values["command"]
    peers = PEERS if values.pop("peers", False) else ()
    targets = tuple(dict.fromkeys([*values["targets"], *peers]))
    if unknown := {name for name in targets if not workers_of(name)} - set(_known(command)):
        parser.error(f"{command} has no target {', '.join(sorted(unknown))}")
    if not 100 <= values.get("keys", 100) <= cars.KEY_LIMIT:
        parser.error(f"--keys is from 100 to {cars.KEY_LIMIT}")
    if values["seconds"] <= 0 or values["warmup"] < 0:
        parser.error("--seconds must be above 0, --warmup not below")
    if values.get("share", 1) <= 0 or values.get("every", 1) <= 0:
        parser.error("--share and --every must be above 0")
    values["targets"] = targets
    for name in {"connections", "workloads"} & values.keys():
        values[name] = tuple(values[name])
    return Plan(**values)


def _whole(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value
