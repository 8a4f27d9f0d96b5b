"""What a request asks for beside its path and its body: refused where it would change what is done.

A parameter or header that an operation takes stands in the route table. One of a closed list that it does not
take is refused by name, in any spelling, because the caller means something else than would be done: a dry
run, one record, another method. Whatever else a query has is ignored (docs/api.md, "Parameters").
"""

import re
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from urllib.parse import unquote_plus

from starlette.responses import Response

from upsert_svc.api.conditions import is_any
from upsert_svc.api.requests import OVERRIDES, SEPARATORS, Call, Endpoint, Query
from upsert_svc.errors import BadRequest, shortened
from upsert_svc.payloads import letters_and_digits
from upsert_svc.records.values import ANY

DRY_RUN = frozenset({"dry_run"})
IDENTIFIERS = frozenset({"external_id", "name"})
REPLACING = frozenset({"strategy", "dataOnly"})
FILTERS = frozenset({"filter[ids]", "filter[external_ids]"})
PAGES = frozenset({"page[after]", "page[before]", "page[size]"})
SORT = frozenset({"sort"})
CURSOR = frozenset({"cursor"})
_EXCLUDING = "filter[exclude_deleted]"
EXPORT = CURSOR | {"start_time", "per_page", _EXCLUDING}
_LIST_FLAGS = frozenset({_EXCLUDING, "include_standard_fields"})
FLAGS = DRY_RUN | {"dataOnly"} | _LIST_FLAGS
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
    "before": "lists go back with page[before], or by links.prev",
    "size": "lists take page[size]",
    "cursor": "the export goes on with cursor, or by after_url",
}
_CHOSEN = ("id", "ids", "externalid", "externalids", "name", "names")
_AFTER = ("after", "cursor", "aftercursor", "pageafter", "pagecursor", "pageaftercursor", "pagetoken")
_BEFORE = ("before", "beforecursor", "pagebefore", "pagebeforecursor")
_SPELLINGS: Mapping[str, str] = {
    **{letters_and_digits(name): name for name in (*DRY_RUN, *IDENTIFIERS, *REPLACING, *_LIST_FLAGS)},
    **dict.fromkeys(("excludedeleted", "filtersexcludedeleted"), _EXCLUDING),
    **dict.fromkeys(("ids", "externalids", "filter", "filters"), "filter"),
    **{f"{start}{end}": "filter" for start in ("filter", "filters") for end in _CHOSEN},
    **dict.fromkeys(("page", "pagenumber", "offset", "pageoffset"), "page"),
    **dict.fromkeys(_AFTER, "after"),
    **dict.fromkeys(_BEFORE, "before"),
}
_CONDITION_HEADERS = {name.lower().encode(): name for name in sorted(CONDITIONS)}
_OVERRIDES = {name.lower().encode(): name for name in OVERRIDES}
_OVERRIDING = frozenset(("_method", "_httpmethod", *map(str.lower, OVERRIDES)))  # parameters that do the same
_UNMODIFIED = b"if-unmodified-since"
_HEADERS = frozenset((*_CONDITION_HEADERS, *_OVERRIDES, _UNMODIFIED))
_WRITING = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_INDEX = re.compile(r"(\[\d*\])+$")
_PAGING = frozenset({"page", "after", "before", "size"})
_LONGEST_NAME = 100  # that is looked at, of names in any spelling, and of numbers
_IGNORED_FILTER = "filter[dynamic_values]"  # of autocompletion, which some clients send everywhere


@dataclass(frozen=True)
class Terms:
    """What an operation takes, whether it reads, and lists records; and what else would choose of a list."""

    takes: frozenset[str]
    reads: bool
    lists_records: bool
    chosen_by: str = ""

    @cached_property
    def _plain(self) -> frozenset[str]:
        """Of what is taken, the parameters whose value is none of the matter here."""
        return self.takes - FLAGS

    def refusal(self, call: Call) -> BadRequest | None:
        """The refusal of a request that asks for what is not done here."""
        query = call.query
        if not query.names <= self._plain:
            for name, value in query.pairs:
                problem = self._problem(call, name, value) or self._override_problem(call, name, value)
                if problem is not None:
                    return BadRequest(problem)
        if not _HEADERS.isdisjoint(call.headers):
            return self._of_headers(call)
        return None

    def refusal_of_read(self, call: Call) -> BadRequest | None:
        """As `refusal`; what a read takes is not given twice either, with different values.

        Endpoints that write look for that themselves, because to them an empty one is one given, too.
        """
        return self._of_repetition(call.query) or self.refusal(call)

    def _of_repetition(self, query: Query) -> BadRequest | None:
        if len(query) == len(query.pairs):
            return None
        given: dict[str, str] = {}
        for name, value in query.pairs:
            if value and name in self.takes and given.setdefault(name, value) != value:
                return BadRequest(f"{name} is given twice")
        return None

    def _problem(self, call: Call, name: str, value: str) -> str | None:
        if name in self.takes:
            return _flag_problem(call, name, value) if name in FLAGS else None
        meant = _meant(name[:_LONGEST_NAME])
        if meant is None or (not value and not _counts_without_value(call, name, meant)):
            return None
        if meant in self.takes:
            return f"{shortened(name)} is not taken: write it {meant}"
        if meant in _LIST_FLAGS:  # of one list each, and harmless elsewhere, but for what any filter is
            if not name.lower().startswith("filter"):
                return None
            meant = "filter"
        if meant in _PAGING:
            return self._page_problem(name, value, meant)
        chooses = meant == "filter" or meant in IDENTIFIERS
        if chooses and self.reads and not self.lists_records:
            is_chosen = meant == "filter" and self.chosen_by
            return f"{shortened(name)} is not taken here: {self.chosen_by}" if is_chosen else None
        return _not_taken(name, meant)

    def _page_problem(self, name: str, value: str, meant: str) -> str | None:
        if meant == "page" and not _is_another_page(name, value):
            return None
        if self.takes >= PAGES:
            return _not_taken(name, "page" if meant == "after" else meant)
        is_for_export = self.takes >= CURSOR and meant != "size"
        return _not_taken(name, "cursor") if is_for_export else None

    def _of_headers(self, call: Call) -> BadRequest | None:
        for header, name in _OVERRIDES.items():
            if self._is_of_another_method(call, call.headers.get(header, b"").decode("latin-1")):
                return BadRequest(_overridden(call, name))
        if self.reads:
            return None
        for header, name in _CONDITION_HEADERS.items():
            if header in call.headers and not self._takes_condition(name, call.headers[header]):
                where = "it goes with a record that stands: PATCH, PUT and DELETE of records"
                return BadRequest(f"{name} is not taken here, where there is no version to compare: {where}")
        if call.headers.get(_UNMODIFIED, b"").strip():
            return BadRequest("If-Unmodified-Since is not taken: If-Match is, with the ETag of a record")
        return None

    def _override_problem(self, call: Call, name: str, value: str) -> str | None:
        if name.strip().lower() not in _OVERRIDING or not self._is_of_another_method(call, value):
            return None
        return _overridden(call, shortened(name))

    def _is_of_another_method(self, call: Call, listed: str) -> bool:
        """Whether a list of methods names another than the request's; to a read, another that writes."""
        others = {asked.strip() for asked in listed.upper().split(",")} - {"", call.scope["method"]}
        return bool(others & _WRITING if self.reads else others)

    def _takes_condition(self, name: str, value: bytes) -> bool:
        return name in self.takes or (f"{name}: {ANY}" in self.takes and is_any(value.decode("latin-1")))


def on_terms(endpoint: Endpoint, terms: Terms) -> Endpoint:
    """The endpoint, to which no request comes that asks for what it does not do."""
    look = terms.refusal_of_read if terms.reads else terms.refusal

    def answered(call: Call) -> Awaitable[Response]:
        refusal = look(call)
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


def would_choose(name: str) -> str | None:
    """Where that belongs by which a key of a search's body would choose, or go on; None for any other key."""
    meant = _meant(name[:_LONGEST_NAME])
    if meant in ("page", "after", "before"):
        return "lists go on with page.after, or by links.next"
    if meant == "filter" or meant in IDENTIFIERS:
        return "what is asked for stands in filter, and filter[ids] and filter[external_ids] in the query"
    return None


@lru_cache(maxsize=1024)
def _meant(name: str) -> str | None:
    """Which parameter a name stands for, in whatever spelling: of the list, or of those that turn pages.

    A URL that was copied from HTML has `amp;` before the name, and one with other separators other names.
    """
    parts = (part for part in SEPARATORS.split(name.strip()) if part)
    return next((meant for meant in map(_meant_by_part, parts) if meant is not None), None)


def _meant_by_part(part: str) -> str | None:
    part = _INDEX.sub("", part)
    if part.lower().startswith(_IGNORED_FILTER):
        return None
    letters, before_brackets = letters_and_digits(part), letters_and_digits(part.partition("[")[0])
    if letters == "pagesize":  # page_size is what others call it, and ignored
        return "size" if "[" in part or "." in part else None
    meant = _SPELLINGS.get(letters)
    if meant is None and before_brackets != "page":
        meant = _SPELLINGS.get(before_brackets)
    return meant


def _flag_problem(call: Call, name: str, value: str) -> str | None:
    is_known = value.lower() in ("true", "false") or not (value or _counts_without_value(call, name, name))
    return None if is_known else f"{name} must be true or false"


def _counts_without_value(call: Call, name: str, meant: str) -> bool:
    """Whether a parameter without a value asks for something: a dry run, and a flag without the sign."""
    if meant in DRY_RUN:
        return True
    parts = call.scope["query_string"].decode().split("&") if meant in FLAGS else ()
    longest = 3 * len(name)  # where each letter is written as %XX
    return any(len(part) <= longest and unquote_plus(part) == name for part in parts)


def _is_another_page(name: str, value: str) -> bool:
    """Whether another page than the first is asked for by a number; what is no number counts for nothing."""
    if name.lower().startswith("page[number]"):
        return True
    try:
        number = float(value[:_LONGEST_NAME])
    except ValueError:
        return "offset" in name.lower()
    return number > (0 if "offset" in name.lower() else 1)


def _overridden(call: Call, name: str) -> str:
    return f"{name} is not taken: the method of the request counts, which is {call.scope['method']}"


def _not_taken(name: str, meant: str) -> str:
    return f"{shortened(name)} is not taken here: {_WHERE[meant]}"
