"""The consistency audit: whether what is stored is what was acknowledged, no less and no more."""

from collections import Counter, defaultdict
from collections.abc import Mapping

import httpx

from bench import cars
from bench.database import RECORDS, Owner, Standing
from bench.load import Findings
from bench.sites import Site
from bench.wire import Errand

_PAGE = 100


def acknowledged(outcomes: Mapping[str, int]) -> int:
    """How many writes were acknowledged."""
    return outcomes.get("created", 0) + outcomes.get("updated", 0)


def of_totals(findings: Findings, before: Standing, after: Standing) -> Counter[str]:
    """What is wrong with how much was written; a failed upsert may have been written or not."""
    writes, records = after.writes - before.writes, after.records - before.records
    created, failed = findings.outcomes.get("created", 0), sum(findings.errors.values())
    lost = acknowledged(findings.outcomes) - writes
    return Counter(
        {
            "lost": max(0, lost),
            "written more than once": max(0, -lost - failed),
            "creations that left no record": max(0, created - records),
            "records too many": max(0, records - created - failed),
        }
    )


def of_sample(owner: Owner, site: Site, errand: Errand, standing: Mapping[int, list[int]]) -> Counter[str]:
    """What stands at some keys and was not the last acknowledged there, nor under way together with that.

    The service is asked over HTTP. Its peers answer no reads, so their tables are read.
    """
    if site.table == RECORDS:
        found = _over_http(site, errand, standing)
    else:
        found = owner.mileages(site.table, [cars.external_id(cars.number(key)) for key in standing])
    wrong = sum(
        found.get(cars.external_id(cars.number(key))) not in values for key, values in standing.items()
    )
    return Counter({"another value stands": wrong})


def _over_http(site: Site, errand: Errand, standing: Mapping[int, list[int]]) -> dict[str, int]:
    by_object: defaultdict[str, list[str]] = defaultdict(list)
    for key in standing:
        by_object[errand.object_of(key)].append(cars.external_id(cars.number(key)))
    found: dict[str, int] = {}
    with site.client() as client:
        for object_key, external_ids in by_object.items():
            for start in range(0, len(external_ids), _PAGE):
                found |= _mileages(client, object_key, external_ids[start : start + _PAGE])
    return found


def _mileages(client: httpx.Client, object_key: str, external_ids: list[str]) -> dict[str, int]:
    named = {"filter[external_ids]": ",".join(external_ids)}
    answer = client.get(f"/custom_objects/{object_key}/records", params=named).raise_for_status()
    return {
        record["external_id"]: record["custom_object_fields"]["mileage"]
        for record in answer.json()["custom_object_records"]
    }
