"""What a request asks for beside its path and its body: refused where it would change what is done.

A parameter or header that an operation takes stands in the route table. One of a closed list that it does not
take is refused by name, in any spelling, because the caller means something else than would be done: a dry
run, one record, another method. Whatever else a query has is ignored (docs/api.md, "Parameters").
"""

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from functools import cached_property

from starlette.responses import Response

from upsert_svc.api.requests import Call, Endpoint
from upsert_svc.errors import BadRequest, shortened

DRY_RUN = frozenset({"dry_run"})
IDENTIFIERS = frozenset({"external_id", "name"})
REPLACING = frozenset({"strategy", "dataOnly"})
FILTERS = frozenset({"filter[ids]", "filter[external_ids]"})
PAGES = frozenset({"page[after]"})
CURSOR = frozenset({"cursor"})
CONDITIONS = frozenset({"If-Match", "If-None-Match"})
CREATION = frozenset({"If-None-Match: *"})  # holds for a record that is about to be made

_FINDS = "in the query it finds a record for PATCH, PUT and DELETE of …/records"
_WHERE: Mapping[str, str] = {
    "dry_run": "it goes with writes of records, objects and fields, as dry_run=true in the query",
    "strategy": "it goes with a PUT of a record",
    "dataOnly": "it goes with a PUT of a record",
    "external_id": f"{_FINDS}; lists take filter[external_ids], and a POST has it in its body",
    "name": f"{_FINDS}; POST …/records/search finds by it, and a POST has it in its body",
    "filter": "lists and counts of records take filter[ids] and filter[external_ids]",
    "page": "lists go on with page[after], or by links.next",
    "cursor": "the export goes on with cursor, or by after_url",
}
_SPELLINGS = {name.replace("_", "").lower(): name for name in (*DRY_RUN, *IDENTIFIERS, *REPLACING)}
_CONDITION_HEADERS = {name.lower().encode(): name for name in sorted(CONDITIONS)}
_OVERRIDES = {
    name.lower().encode(): name for name in ("X-HTTP-Method-Override", "X-Method-Override", "X-HTTP-Method")
}
_HEADERS = frozenset((*_CONDITION_HEADERS, *_OVERRIDES))
_WRITING = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_IGNORED_FILTER = "filter[dynamic_values]"  # of autocompletion, which some clients send everywhere


@dataclass(frozen=True)
class Terms:
    """What an operation takes of the list, and whether it reads, and lists records."""

    takes: frozenset[str]
    reads: bool
    lists_records: bool

    @cached_property
    def _plain(self) -> frozenset[str]:
        """Of what is taken, the parameters whose value is none of the matter here."""
        return self.takes - DRY_RUN

    def refusal(self, call: Call) -> BadRequest | None:
        """The refusal of a request that asks for what is not done here."""
        query = call.query
        if not query.names <= self._plain:
            for name, value in query.pairs:
                if (problem := self._problem(name, value)) is not None:
                    return BadRequest(problem)
        if not _HEADERS.isdisjoint(call.headers):
            return self._of_headers(call)
        return None

    def _problem(self, name: str, value: str) -> str | None:
        meant = _meant(name)
        if meant is None or not (value or meant == "dry_run"):
            return None
        if name in self.takes:
            return None if value else "dry_run must be true or false"
        if meant in self.takes:
            return f"{shortened(name)} is not taken: write it {meant}"
        if meant == "page":
            return self._page_problem(name, value)
        chooses = meant == "filter" or meant in IDENTIFIERS
        if chooses and self.reads and not self.lists_records:
            return None
        return _not_taken(name, meant)

    def _page_problem(self, name: str, value: str) -> str | None:
        if not self.takes & (PAGES | CURSOR) or not _is_another_page(name, value):
            return None
        return _not_taken(name, "page" if self.takes & PAGES else "cursor")

    def _of_headers(self, call: Call) -> BadRequest | None:
        method = call.scope["method"]
        for header, name in _OVERRIDES.items():
            listed = call.headers.get(header, b"").decode("latin-1").upper().split(",")
            others = {asked.strip() for asked in listed} - {"", method}
            if others & _WRITING if self.reads else others:
                return BadRequest(f"{name} is not taken: the method of the request counts, which is {method}")
        if self.reads:
            return None
        for header, name in _CONDITION_HEADERS.items():
            if header in call.headers and not self._takes_condition(name, call.headers[header]):
                where = "it goes with a record that stands: PATCH, PUT and DELETE of records"
                return BadRequest(f"{name} is not taken here, where there is no version to compare: {where}")
        return None

    def _takes_condition(self, name: str, value: bytes) -> bool:
        return name in self.takes or f"{name}: {value.decode('latin-1').strip()}" in self.takes


def on_terms(endpoint: Endpoint, terms: Terms) -> Endpoint:
    """The endpoint, to which no request comes that asks for what it does not do."""

    def answered(call: Call) -> Awaitable[Response]:
        refusal = terms.refusal(call)
        return endpoint(call) if refusal is None else _refused(call, refusal, is_read=terms.reads)

    return answered


async def _refused(call: Call, refusal: BadRequest, *, is_read: bool) -> Response:
    """What cannot be read at all is missing, whatever was asked of it."""
    if is_read and "id" in call.scope["path_params"]:
        await call.service.records.show(call.principal, call.path("key"), call.path("id"))
    elif is_read and "key" in call.scope["path_params"]:
        await call.require_object()
    elif is_read and "lookup" in call.scope["path_params"]:
        await call.require_relationship()
    raise refusal


def _meant(name: str) -> str | None:
    """Which parameter of the list a name stands for, in whatever spelling."""
    bare = name.strip().removesuffix("[]").lower()
    if bare.startswith("filter"):
        is_ours = bare == "filter" or bare.startswith("filter[")
        return "filter" if is_ours and not bare.startswith(_IGNORED_FILTER) else None
    if bare in ("page", "page[number]"):
        return "page"
    return _SPELLINGS.get(bare.replace("_", "").replace("-", ""))


def _is_another_page(name: str, value: str) -> bool:
    """Whether another page than the first is asked for by a number; what is no number counts for nothing."""
    digits = value.strip()
    return "number" in name.lower() or (digits.isdecimal() and digits.lstrip("0") not in ("", "1"))


def _not_taken(name: str, meant: str) -> str:
    return f"{shortened(name)} is not taken here: {_WHERE[meant]}"
