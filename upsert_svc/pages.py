"""Pages of an object's records: all of them, those for which a filter holds, or those that words find.

Records are found by search documents where their object keeps them. Where it does not they are read, and a
large object is put down for documents. Refuses what is no query with BadRequest.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

from upsert_svc import filters, listing, sql
from upsert_svc.database import Connection, Database
from upsert_svc.errors import BadRequest
from upsert_svc.listing import Cursors, Listed, Order, Page
from upsert_svc.object_types import DEFINITION_ATTEMPTS, ObjectType, ObjectTypes, keeps_changing
from upsert_svc.tokens import Principal
from upsert_svc.writes import Record

QUERY_LIMIT = 255  # characters
WORD_LIMIT = 20
EVERYTHING = "*"
WORTHWHILE = 2000  # records of an object: fewer are read in no time
REACH = 2000  # how many records a walk looks at before the documents are asked
COMMON = 20_000  # documents found: for a sort of more, it is quicker to sort all records first
REACH_IN_ORDER = 10_000  # how many of the sorted are looked at; they fit into the memory of a sort
_SQL = sql.load("records")
_SEARCHES_SQL = sql.load("searches")
_RECORD = slice(len(Record._fields))  # a search for words tells the rank behind it

Statement = Sequence[object]


@dataclass(frozen=True)
class Filter:
    """A filter as it was sent; see `filters`."""

    value: Any


@dataclass(frozen=True)
class Words:
    """The text of a search for words."""

    text: str

    @property
    def is_everything(self) -> bool:
        """Whether all records are asked for."""
        return self.text.strip() == EVERYTHING


Sought = Filter | Words | None


class Way(NamedTuple):
    """A statement that finds records, and the order and page that complete it.

    One with a `reach` looks at so many records beyond the position of the page, and misses none of them.
    """

    statement: Statement
    order: Order
    page: Page
    reach: int | None = None


class Pages:
    """Pages of the records of all accounts; each call speaks for one Principal and stays in its account."""

    def __init__(self, database: Database, object_types: ObjectTypes) -> None:
        self._database = database
        self._object_types = object_types

    async def page(
        self,
        principal: Principal,
        object_key: str,
        cursors: Cursors,
        query: Mapping[str, str],
        sought: Sought = None,
    ) -> Listed[Record]:
        """One page, sorted as the query says (docs/api.md, "Pages", "Search").

        Where there is nothing on the page, the object may be gone or made anew, or the search be made for
        another definition: then it is looked for again. Raises RecordNotFound, BadRequest, and
        ServiceUnavailable when the definition keeps changing.
        """
        if isinstance(sought, Words):
            _require_text(sought)
        object_type = await self._object_types.get(principal.account_id, object_key)
        for _ in range(DEFINITION_ATTEMPTS):
            refusal: BadRequest | None = None
            try:
                listed = await self._listed(object_type, cursors, query, sought)
            except BadRequest as error:  # a cursor may belong to the object made anew
                refusal = error
            else:
                if listed.items:
                    return listed
            current = await self._object_types.confirmed(object_type)
            if current is object_type:
                if refusal is not None:
                    raise refusal
                return listed
            object_type = current
        raise keeps_changing()

    async def _listed(
        self, object_type: ObjectType, cursors: Cursors, query: Mapping[str, str], sought: Sought
    ) -> Listed[Record]:
        order = _order(query.get("sort", ""), sought)
        scope = f"{_kind(sought)} {object_type.account_id} {object_type.object_id} {order.name}"
        page = listing.requested(query, cursors, scope)
        completed = _completing(object_type, query, sought, order, page)
        # before a connection is taken: it refuses what is no filter
        reading = completed(_SQL.list(**_ids(object_type)))
        async with self._database.records.connection() as connection:
            ways = await found_by(connection, object_type, sought, order, page)
            for way in ways:
                rows = await connection.fetch(*completed(way.statement, order=way.order, page=way.page))
                if len(rows) > page.size or await _are_all_seen(connection, object_type, way):
                    break
            if not ways:
                rows = await connection.fetch(*reading)
        cut = listing.cut(rows, page, cursors, scope, lambda row: listing.position_of(order, row))
        return Listed([Record._make(row[_RECORD]) for row in cut.items], cut.after_cursor, cut.before_cursor)


async def found_by(
    connection: Connection, object_type: ObjectType, sought: Sought, order: Order, page: Page
) -> Sequence[Way]:
    """The statements that find what is sought better than by reading all records, if there are any.

    Each but the last is good only where it fills the page. Raises BadRequest for too many words.
    """
    if isinstance(sought, Words):
        return () if sought.is_everything else await _for_words(connection, object_type, sought, order, page)
    part = filters.contained_in_name(sought.value) if sought else None
    return () if part is None else await _for_name(connection, object_type, part, order, page)


async def _for_words(
    connection: Connection, object_type: ObjectType, sought: Words, order: Order, page: Page
) -> Sequence[Way]:
    ids = _ids(object_type)
    look = await connection.fetchrow(*_SEARCHES_SQL.look_for_words(**ids, text=sought.text))
    if len(look["words"]) > WORD_LIMIT:
        raise BadRequest(f"query has more than {WORD_LIMIT} words")
    by_documents = _by_documents(ids, look, order, page)
    if not look["words"]:
        return (by_documents,)  # which finds nothing, at once
    documents = await _documents(connection, object_type, look)
    if documents != "kept":
        return await _by_reading(connection, ids, look["words"], order, page, is_large=documents == "wanted")
    if order is not listing.RELEVANCE:
        if not await _are_common(connection, look["terms"]):
            return (by_documents,)
        in_order = _SEARCHES_SQL.walk_in_order(**ids, terms=look["terms"], reach=REACH_IN_ORDER)
        return (Way(in_order, order, page, REACH_IN_ORDER), by_documents)
    rank, by_id = (None, page) if page.position is None else _within_rank(page, page.position)
    asked = {"words": look["words"], "name_terms": look["name_terms"]}
    walk = _SEARCHES_SQL.walk_relevant(**ids, **asked, rank=rank, reach=REACH)
    return (Way(walk, listing.BY_ID, by_id), by_documents)


def _by_documents(ids: Mapping[str, int], look: Mapping[str, Any], order: Order, page: Page) -> Way:
    """What finds words by all documents that have them."""
    if order is listing.RELEVANCE:
        ranked = _SEARCHES_SQL.find_relevant(**ids, words=look["words"], terms=look["terms"])
        return Way(ranked, order, page)
    return Way(_SEARCHES_SQL.find(**ids, terms=look["terms"]), order, page)


async def _by_reading(
    connection: Connection,
    ids: Mapping[str, int],
    words: Sequence[str],
    order: Order,
    page: Page,
    *,
    is_large: bool,
) -> Sequence[Way]:
    """What finds words without documents; of a large object not all that have them are judged in time."""
    asked = {**ids, "words": words, "patterns": [_pattern(word) for word in words]}
    by_reading = Way(_SEARCHES_SQL.read_for_words(**asked), order, page)
    if not is_large:
        return (by_reading,)
    if order is not listing.RELEVANCE:
        ranks = {"best_rank": -101 * len(words), "worst_rank": -1}
        walk = _SEARCHES_SQL.walk_for_words(**asked, **ranks, reach=REACH_IN_ORDER)
        return (Way(walk, order, page, REACH_IN_ORDER), by_reading)
    if page.position is None:
        rank, by_id = await connection.fetchval(*_SEARCHES_SQL.best_rank(**asked)), page
    else:
        rank, by_id = _within_rank(page, page.position)
    walk = _SEARCHES_SQL.walk_for_words(**asked, best_rank=rank, worst_rank=rank, reach=REACH)
    return (Way(walk, listing.BY_ID, by_id), by_reading)


def _pattern(word: str) -> str:
    """What any text is like that the word is found in, by LIKE, once the text is folded.

    Folded text need not be normalized. That can break up no word of ASCII, but any other.
    """
    return f"%{word}%" if word.isascii() else "%"  # letters and digits stand for themselves


def _within_rank(page: Page, position: Sequence[Any]) -> tuple[int, Page]:
    """The rank of a position by relevance, and the page as one of that rank alone, by id."""
    return position[0], replace(page, position=tuple(position[1:]))


async def _for_name(
    connection: Connection, object_type: ObjectType, part: str, order: Order, page: Page
) -> Sequence[Way]:
    ids = _ids(object_type)
    look = await connection.fetchrow(*_SEARCHES_SQL.look_for_name(**ids, text=part))
    if look is None or await _documents(connection, object_type, look) != "kept":
        return ()
    find = Way(_SEARCHES_SQL.find(**ids, terms=look["terms"]), order, page)
    # what is common is found soonest by walking, what is rare by its documents
    if order.is_by_id:
        return (Way(_SEARCHES_SQL.walk(**ids, reach=REACH), order, page, REACH), find)
    return () if await _are_common(connection, look["terms"]) else (find,)


async def _are_all_seen(connection: Connection, object_type: ObjectType, way: Way) -> bool:
    """Whether a way that did not fill its page has looked at all that there is: then it is the last page.

    Some may have been deleted since it looked, but hardly half of its reach.
    """
    if way.reach is None:
        return False
    counting = _SEARCHES_SQL.count_beyond(**_ids(object_type))
    half = replace(way.page, size=way.reach // 2)
    count: int = await connection.fetchval(*listing.records_query(counting, way.order, half))
    return count <= half.size


async def _are_common(connection: Connection, terms: str) -> bool:
    """Whether so many documents are found that it is better to sort the records of all."""
    count: int = await connection.fetchval(*_SEARCHES_SQL.count_found(terms=terms, limit=COMMON + 1))
    return count > COMMON


async def _documents(
    connection: Connection, object_type: ObjectType, look: Mapping[str, Any]
) -> Literal["kept", "wanted", "needless"]:
    """Whether all documents stand. Asks for them where none do.

    What is searched by another definition than the current one is looked for again, whatever is found.
    """
    if look["version"] != object_type.version:
        return "needless"
    if look["search_state"] == "kept":
        return "kept"
    if look["search_state"] is None:
        asked = await connection.execute(*_SEARCHES_SQL.want(**_ids(object_type), threshold=WORTHWHILE))
        return "wanted" if asked == "UPDATE 1" else "needless"
    return "wanted"


def _completing(
    object_type: ObjectType, query: Mapping[str, str], sought: Sought, order: Order, page: Page
) -> Callable[..., Statement]:
    """What makes any of the statements one of the page: listing.records_query with all else."""
    is_for_words = isinstance(sought, Words)
    condition = (
        filters.compiled(sought.value, object_type.validator.fields) if isinstance(sought, Filter) else None
    )
    return partial(
        listing.records_query,
        order=order,
        page=page,
        ids=None if is_for_words else listing.chosen(query, "filter[ids]"),
        external_ids=None if is_for_words else listing.chosen(query, "filter[external_ids]"),
        condition=condition,
        version=None if sought is None else object_type.version,
    )


def _kind(sought: Sought) -> str:
    """What a cursor is good for. By another text the same record has another rank."""
    if sought is None:
        return "records"
    return "search" if isinstance(sought, Filter) else f"words {sought.text.strip()!r}"


def _order(sort: str, sought: Sought) -> Order:
    if isinstance(sought, Words):
        default = listing.BY_ID if sought.is_everything else listing.RELEVANCE
        return listing.order_named(sort, listing.WORD_ORDERS, default)
    return listing.order_named(sort, listing.SEARCH_ORDERS if isinstance(sought, Filter) else listing.ORDERS)


def _ids(object_type: ObjectType) -> dict[str, int]:
    return {"account_id": object_type.account_id, "object_id": object_type.object_id}


def _require_text(sought: Words) -> None:
    if not sought.text.strip():
        raise BadRequest("query is needed: words, or * for all records")
    if len(sought.text) > QUERY_LIMIT:
        raise BadRequest(f"query is longer than {QUERY_LIMIT} characters")
