"""What a run does: read from the command line once, and handed to every part."""

import argparse
from dataclasses import dataclass
from pathlib import Path

KEY_LIMIT = 10**8 - 1


@dataclass(frozen=True)
class Plan:
    """The size of a run. Each cell is one contestant at one number of connections in one round."""

    rounds: int
    seconds: float
    warmup: float
    connections: tuple[int, ...]
    keys: int
    workers: int
    sample: int
    json: Path | None


def read(arguments: list[str] | None = None) -> Plan:
    """The plan that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Upserts over HTTP beside pgbench.")
    parser.add_argument("--rounds", type=_whole, default=3, help="how often each cell is run")
    parser.add_argument("--seconds", type=float, default=8, help="how long a cell is measured")
    parser.add_argument("--warmup", type=float, default=2, help="how long a cell runs before that")
    parser.add_argument("--connections", type=_whole, nargs="+", default=[1, 32, 64], metavar="N")
    parser.add_argument("--keys", type=_whole, default=100_000, help="records that stand beforehand")
    parser.add_argument("--workers", type=_whole, default=1, help="processes of the service")
    parser.add_argument("--sample", type=_whole, default=1000, help="keys read back after a cell")
    parser.add_argument("--json", type=Path, help="where to write all figures as JSON")
    values = vars(parser.parse_args(arguments))
    if values["keys"] > KEY_LIMIT:
        parser.error(f"--keys is at most {KEY_LIMIT}")
    if values["seconds"] <= 0 or values["warmup"] < 0:
        parser.error("--seconds must be above 0, --warmup not below")
    return Plan(**values | {"connections": tuple(values["connections"])})


def _whole(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value
