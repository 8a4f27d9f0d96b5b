"""Reads over HTTP beside the same selects: a record by its id, and a list of 100 from anywhere."""

from collections.abc import Iterator, Sequence
from itertools import product
from urllib.parse import urlencode, urlsplit

from bench import cars, pgbench, report, scripts, targets, workloads
from bench.figures import Cell
from bench.pgbench import Script
from bench.plan import Plan
from bench.sites import Site
from bench.stage import Stage
from bench.targets import PGBENCHES, Turn
from bench.wire import RECORDS_PATH, Errand
from bench.workloads import CAR

_PAGE = 100
_PAGES = 50
_LIST = f"{RECORDS_PATH.format(object_key=CAR)}?{urlencode({'page[size]': _PAGE})}"


def cells(stage: Stage, plan: Plan) -> Iterator[Cell]:
    """Every cell of every round."""
    workloads.set_up(stage, plan)
    pages = min(_PAGES, plan.keys // _PAGE)
    paths = _checked_paths(stage.service(1), pages)
    variables = pgbench.variables_of(stage, CAR) | {"keys": plan.keys, "pages": pages}
    kinds: Sequence[tuple[str, Script, Errand]] = (
        ("show by id", scripts.SHOW, Errand("show", CAR, plan.keys)),
        (f"list of {_PAGE}", scripts.LIST, Errand("visit", CAR, plan.keys, paths=paths)),
    )
    rounds = range(1, plan.rounds + 1)
    for round_number, kind, connections, name in product(rounds, kinds, plan.connections, plan.targets):
        section, script, errand = kind
        turn = Turn(section, connections, round_number, audits_totals=False)
        if name in PGBENCHES:
            yield targets.of_pgbench(stage, plan, turn, script, variables, PGBENCHES[name])
        else:
            yield targets.of_site(stage, plan, turn, targets.site(stage, name), errand)


def _checked_paths(site: Site, pages: int) -> tuple[str, ...]:
    """The paths of the first pages, walked by their links; each must list the cars that are its own."""
    paths = [_LIST]
    with site.client() as client:
        for page in range(pages):
            answer = (
                client.get(f"http://{client.base_url.netloc.decode()}{paths[-1]}").raise_for_status().json()
            )
            listed = [record["id"] for record in answer["custom_object_records"]]
            if listed != [cars.record_id(page * _PAGE + place) for place in range(1, _PAGE + 1)]:
                raise RuntimeError(f"page {page + 1} lists other records than it should")
            following = urlsplit(answer["links"]["next"] or "")
            paths.append(f"{following.path}?{following.query}")
        for key in range(1, _PAGE + 1):
            shown = (
                client.get(f"/custom_objects/{CAR}/records/{cars.record_id(key)}").raise_for_status().json()
            )
            if shown["custom_object_record"]["external_id"] != cars.external_id(cars.number(key)):
                raise RuntimeError(f"another record is shown than that of key {key}")
    return tuple(paths[:pages])


def tables(cells: Sequence[Cell]) -> Iterator[str]:
    """The report."""
    return report.by_section(cells, report.SPEED, report.COST)
