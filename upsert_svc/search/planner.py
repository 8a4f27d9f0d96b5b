"""Pages of an object's records: all of them, those for which a filter holds, or those that words find.

Records are found by search documents where their object keeps them. Where it does not they are read, and a
large object has documents requested. What may read all records of an object has few connections, so that
others find one (see `Database`). Refuses what is no query with BadRequest.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

from upsert_svc import paging
from upsert_svc.accounts.tokens import Principal
from upsert_svc.db import statements
from upsert_svc.db.pools import Connection, Database, Row
from upsert_svc.definitions.compiled import DEFINITION_ATTEMPTS, Definition, Definitions, keeps_changing
from upsert_svc.errors import BadRequest
from upsert_svc.paging import Cursors, Page, PageRequest, Window
from upsert_svc.records.values import Record, record_of
from upsert_svc.search import filters, page_query
from upsert_svc.search.page_query import Order
from upsert_svc.search.relationship_filters import RelationshipFilter

QUERY_LIMIT = 255  # characters
WORD_LIMIT = 20
EVERYTHING = "*"
DOCUMENTS_THRESHOLD = 2000  # records of an object: fewer are read in no time
SCAN_LIMIT = 2000  # how many records a scan looks at before the documents are asked
COMMON = 20_000  # documents found: for a sort of more, it is quicker to sort all records first
SORTED_SCAN_LIMIT = 10_000  # how many of the sorted are looked at; they fit into the memory of a sort
_SQL = statements.load("records")
_SEARCHES_SQL = statements.load("searches")

Statement = Sequence[object]


@dataclass(frozen=True)
class Filter:
    """A filter as it was sent, see `filters`, and that of a lookup field, which holds beside it."""

    value: Any
    relationship: RelationshipFilter | None = None

    def over(self, definition: Definition) -> Any:
        """The whole filter over the records of an object of that definition."""
        beside = self.relationship and self.relationship.over(definition.validator.fields)
        return {"$and": [self.value, beside]} if beside else self.value


@dataclass(frozen=True)
class Words:
    """The text of a search for words."""

    text: str

    def __post_init__(self) -> None:
        """Raises BadRequest for no text, or too much."""
        if not self.text.strip():
            raise BadRequest("query is needed: words, or * for all records")
        if len(self.text) > QUERY_LIMIT:
            raise BadRequest(f"query is longer than {QUERY_LIMIT} characters")

    @property
    def is_everything(self) -> bool:
        """Whether all records are asked for."""
        return self.text.strip() == EVERYTHING


Criteria = Filter | Words | None


class Plan(NamedTuple):
    """A statement that finds records, and the order and window that complete it.

    One with a `scan_limit` looks at so many records beyond the window's position, and misses none of them.
    """

    statement: Statement
    order: Order
    window: Window
    scan_limit: int | None = None


@dataclass(frozen=True)
class RecordQuery:
    """Which records are asked for, and in which order; `sort` as it was sent, empty for the default."""

    criteria: Criteria = None
    sort: str = ""
    ids: Sequence[str] | None = None
    external_ids: Sequence[str] | None = None

    def order(self) -> Order:
        """The order that the sort names. Raises BadRequest."""
        if isinstance(self.criteria, Words):
            default = page_query.BY_ID if self.criteria.is_everything else page_query.RELEVANCE
            return page_query.order_named(self.sort, page_query.WORD_ORDERS, default)
        is_search = isinstance(self.criteria, Filter)
        return page_query.order_named(self.sort, page_query.SEARCH_ORDERS if is_search else page_query.ORDERS)

    def scope(self, definition: Definition) -> str:
        """What a cursor is good for. By another text the same record has another rank."""
        kind = "records"
        if isinstance(self.criteria, Filter):
            kind = "search"
        elif isinstance(self.criteria, Words):
            kind = f"words {self.criteria.text.strip()!r}"
        return f"{kind} {definition.account_id} {definition.object_id} {self.order().name}"


class Search:
    """Pages of the records of all accounts; each call speaks for one Principal and stays in its account."""

    def __init__(self, database: Database, definitions: Definitions, cursors: Cursors) -> None:
        self._database = database
        self._definitions = definitions
        self._cursors = cursors

    async def page(
        self, principal: Principal, object_key: str, request: PageRequest, query: RecordQuery
    ) -> Page[Record]:
        """One page of the records that the query asks for (docs/api.md, "Pages", "Search").

        Where there is nothing on the page, the object may be gone or made anew, or the search be made for
        another definition: then it is looked for again. Raises RecordNotFound, BadRequest, and
        ServiceUnavailable when the definition keeps changing.
        """
        definition = await self._definitions.get(principal.account_id, object_key)
        for _ in range(DEFINITION_ATTEMPTS):
            refusal: BadRequest | None = None
            try:
                page = await self._page(definition, request, query)
            except BadRequest as error:  # a cursor may belong to the object made anew
                refusal = error
            else:
                if page.items:
                    return page
            current = await self._definitions.confirm(definition)
            if current is definition:
                if refusal is not None:
                    raise refusal
                return page
            definition = current
        raise keeps_changing()

    async def count(
        self,
        principal: Principal,
        object_key: str,
        ids: Sequence[str] | None,
        external_ids: Sequence[str] | None,
    ) -> int:
        """How many of the named records there are. Raises RecordNotFound for an unknown object."""
        definition = await self._definitions.current(principal.account_id, object_key)
        statement = page_query.chosen(_SQL.count_chosen(**_ids(definition)), ids, external_ids)
        async with self._database.main.connection() as connection:
            count: int = await connection.fetchval(*statement)
        return count

    async def _page(self, definition: Definition, request: PageRequest, query: RecordQuery) -> Page[Record]:
        order, scope = query.order(), query.scope(definition)
        window = self._cursors.window(scope, request)
        completed = _completing(definition, query, order, window)
        # before a connection is taken: it refuses what is no filter
        reading = completed(_SQL.list(**_ids(definition)))
        if _is_by_key(query, order):
            async with self._database.main.connection() as connection:
                rows: Sequence[Row] = await connection.fetch(*reading)
        else:
            rows = await self._search(definition, query, window, completed)
        page = self._cursors.page(
            scope, window, rows, lambda row: page_query.position_of(order, row), paging.bytes_of
        )
        return replace(page, items=[record_of(row) for row in page.items])

    async def _search(
        self, definition: Definition, query: RecordQuery, window: Window, completed: Callable[..., Statement]
    ) -> Sequence[Row]:
        """The rows of a page that is found by documents, or by reading all records."""
        asked = (definition, query.criteria, query.order(), window)
        if _may_have_documents(query.criteria):
            try:
                async with self._database.searches.connection() as connection:
                    plans = await plans_for(connection, *asked, True)
                    return await _found(connection, definition, window, plans, completed)
            except _ReadsAll:
                pass
        async with self._database.scans.connection() as connection:
            if plans := await plans_for(connection, *asked):
                return await _found(connection, definition, window, plans, completed)
            rows: Sequence[Row] = await connection.fetch(*completed(_SQL.list(**_ids(definition))))
            return rows


class _ReadsAll(Exception):
    """What is asked for is not found by documents."""


def _is_by_key(query: RecordQuery, order: Order) -> bool:
    """Whether the page stands in the table's key, or names its records."""
    is_everything = query.criteria is None or (
        isinstance(query.criteria, Words) and query.criteria.is_everything
    )
    return is_everything and (order.is_by_id or query.ids is not None or query.external_ids is not None)


def _may_have_documents(criteria: Criteria) -> bool:
    """Whether documents may find all that is asked for: then it takes no time."""
    return isinstance(criteria, Words) or (
        isinstance(criteria, Filter)
        and criteria.relationship is None
        and filters.is_of_name_alone(criteria.value)
    )


async def _found(
    connection: Connection,
    definition: Definition,
    window: Window,
    plans: Sequence[Plan],
    completed: Callable[..., Statement],
) -> Sequence[Row]:
    """The rows of the first plan that fills the page, or of the last."""
    rows: Sequence[Row] = ()
    for plan in plans:
        rows = await connection.fetch(*completed(plan.statement, order=plan.order, window=plan.window))
        if _is_full(rows, window) or await _is_exhausted(connection, definition, plan):
            break
    return rows


def _is_full(rows: Sequence[Row], window: Window) -> bool:
    """Whether there are as many rows as the page holds, and more."""
    return len(rows) > paging.count_fitting(rows, window.size, paging.bytes_of)


async def plans_for(
    connection: Connection,
    definition: Definition,
    criteria: Criteria,
    order: Order,
    window: Window,
    only_by_documents: bool = False,
) -> Sequence[Plan]:
    """The statements that find what is asked for better than by reading all records, if there are any.

    Each but the last is good only where it fills the page. Raises BadRequest for too many words, and
    _ReadsAll where it is asked for plans by documents and there are none.
    """
    plans: Sequence[Plan] = ()
    if isinstance(criteria, Words):
        if not criteria.is_everything:
            plans = await _for_words(connection, definition, criteria, order, window, only_by_documents)
    elif criteria and (part := filters.contained_in_name(criteria.value)) is not None:
        plans = await _for_name(connection, definition, part, order, window)
    if only_by_documents and not plans:
        raise _ReadsAll
    return plans


async def _for_words(
    connection: Connection,
    definition: Definition,
    criteria: Words,
    order: Order,
    window: Window,
    only_by_documents: bool,
) -> Sequence[Plan]:
    ids = _ids(definition)
    analysis = await connection.fetchrow(*_SEARCHES_SQL.analyze_query(**ids, text=criteria.text))
    if len(analysis["words"]) > WORD_LIMIT:
        raise BadRequest(f"query has more than {WORD_LIMIT} words")
    by_documents = _by_documents(ids, analysis, order, window)
    if not analysis["words"]:
        return (by_documents,)  # which finds nothing, at once
    documents = await _documents(connection, definition, analysis)
    if documents != "ready":
        if only_by_documents:
            return ()
        return await _by_reading(
            connection, ids, analysis["words"], order, window, is_large=documents == "requested"
        )
    if order is not page_query.RELEVANCE:
        if not await _are_common(connection, analysis["terms"]):
            return (by_documents,)
        in_order = _SEARCHES_SQL.scan_in_order(**ids, terms=analysis["terms"], scan_limit=SORTED_SCAN_LIMIT)
        return (Plan(in_order, order, window, SORTED_SCAN_LIMIT), by_documents)
    rank, by_id = (None, window) if window.position is None else _within_rank(window, window.position)
    asked = {"words": analysis["words"], "name_terms": analysis["name_terms"]}
    scan = _SEARCHES_SQL.scan_relevant(**ids, **asked, rank=rank, scan_limit=SCAN_LIMIT)
    return (Plan(scan, page_query.BY_ID, by_id), by_documents)


def _by_documents(ids: Mapping[str, int], analysis: Mapping[str, Any], order: Order, window: Window) -> Plan:
    """What finds words by all documents that have them."""
    if order is page_query.RELEVANCE:
        ranked = _SEARCHES_SQL.find_relevant(**ids, words=analysis["words"], terms=analysis["terms"])
        return Plan(ranked, order, window)
    return Plan(_SEARCHES_SQL.find(**ids, terms=analysis["terms"]), order, window)


async def _by_reading(
    connection: Connection,
    ids: Mapping[str, int],
    words: Sequence[str],
    order: Order,
    window: Window,
    *,
    is_large: bool,
) -> Sequence[Plan]:
    """What finds words without documents; of a large object not all that have them are scored in time."""
    asked = {**ids, "words": words, "patterns": [_pattern(word) for word in words]}
    by_reading = Plan(_SEARCHES_SQL.read_for_words(**asked), order, window)
    if not is_large:
        return (by_reading,)
    if order is not page_query.RELEVANCE:
        ranks = {"best_rank": -101 * len(words), "worst_rank": -1}
        scan = _SEARCHES_SQL.scan_for_words(**asked, **ranks, scan_limit=SORTED_SCAN_LIMIT)
        return (Plan(scan, order, window, SORTED_SCAN_LIMIT), by_reading)
    if window.position is None:
        rank, by_id = await connection.fetchval(*_SEARCHES_SQL.best_rank(**asked)), window
    else:
        rank, by_id = _within_rank(window, window.position)
    scan = _SEARCHES_SQL.scan_for_words(**asked, best_rank=rank, worst_rank=rank, scan_limit=SCAN_LIMIT)
    return (Plan(scan, page_query.BY_ID, by_id), by_reading)


def _pattern(word: str) -> str:
    """What any text is like that the word is found in, by LIKE, once the text is folded.

    Folded text need not be normalized. That can break up no word of ASCII, but any other.
    """
    return f"%{word}%" if word.isascii() else "%"  # letters and digits stand for themselves


def _within_rank(window: Window, position: Sequence[Any]) -> tuple[int, Window]:
    """The rank of a position by relevance, and the page as one of that rank alone, by id."""
    return position[0], replace(window, position=tuple(position[1:]))


async def _for_name(
    connection: Connection, definition: Definition, part: str, order: Order, window: Window
) -> Sequence[Plan]:
    ids = _ids(definition)
    analysis = await connection.fetchrow(*_SEARCHES_SQL.analyze_name(**ids, text=part))
    if analysis is None or await _documents(connection, definition, analysis) != "ready":
        return ()
    find = Plan(_SEARCHES_SQL.find(**ids, terms=analysis["terms"]), order, window)
    # what is common is found soonest by scanning, what is rare by its documents
    if order.is_by_id:
        return (Plan(_SEARCHES_SQL.scan(**ids, scan_limit=SCAN_LIMIT), order, window, SCAN_LIMIT), find)
    return () if await _are_common(connection, analysis["terms"]) else (find,)


async def _is_exhausted(connection: Connection, definition: Definition, plan: Plan) -> bool:
    """Whether a plan that did not fill its page has looked at all that there is: then it is the last page.

    Some may have been deleted since it looked, but hardly half of that limit.
    """
    if plan.scan_limit is None:
        return False
    counting = _SEARCHES_SQL.count_beyond(**_ids(definition))
    half = replace(plan.window, size=plan.scan_limit // 2)
    count: int = await connection.fetchval(*page_query.records_query(counting, plan.order, half))
    return count <= half.size


async def _are_common(connection: Connection, terms: str) -> bool:
    """Whether so many documents are found that it is better to sort the records of all."""
    count: int = await connection.fetchval(*_SEARCHES_SQL.count_found(terms=terms, limit=COMMON + 1))
    return count > COMMON


async def _documents(
    connection: Connection, definition: Definition, analysis: Mapping[str, Any]
) -> Literal["ready", "requested", "needless"]:
    """Whether all documents stand. Asks for them where none do.

    What is searched by another definition than the current one is looked for again, whatever is found.
    """
    if analysis["version"] != definition.version:
        return "needless"
    if analysis["search_state"] == "ready":
        return "ready"
    if analysis["search_state"] is None:
        asked = await connection.execute(
            *_SEARCHES_SQL.request(**_ids(definition), threshold=DOCUMENTS_THRESHOLD)
        )
        return "requested" if asked == "UPDATE 1" else "needless"
    return "requested"


def _completing(
    definition: Definition, query: RecordQuery, order: Order, window: Window
) -> Callable[..., Statement]:
    """What makes any of the statements one of the page: page_query.records_query with all else."""
    condition = None
    if isinstance(query.criteria, Filter):
        condition = filters.compile_filter(
            query.criteria.over(definition), definition.validator.fields, definition.account_id
        )
    return partial(
        page_query.records_query,
        order=order,
        window=window,
        ids=query.ids,
        external_ids=query.external_ids,
        condition=condition,
        version=None if query.criteria is None else definition.version,
        byte_limit=paging.PAGE_BYTES,
    )


def _ids(definition: Definition) -> dict[str, int]:
    return {"account_id": definition.account_id, "object_id": definition.object_id}
