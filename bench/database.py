"""The bench's own SQL, as the owner: objects, tables, the records that stand beforehand, totals."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import asyncpg

from bench import cars

Result = TypeVar("Result")
RECORDS = "records"

_COLUMNS = (
    "account_id", "object_id", "created_by_user_id", "updated_by_user_id", "definition_version",
    "record_id", "naming", "name", "external_id", "fields",
)  # fmt: skip
_CHUNK = 1000
_COPY = 500_000  # rows that one COPY loads: its checks of foreign keys wait in memory till its end


@dataclass(frozen=True)
class Definition:
    """What a record repeats of its object and the user who made it."""

    account_id: int
    object_id: int
    user_id: int
    version: int
    naming: str


@dataclass(frozen=True)
class Standing:
    """The totals of a table: each write raises a version by one."""

    writes: int
    records: int


class Owner:
    """The role that owns the schema; each call is a connection of its own."""

    def __init__(self, url: str) -> None:
        self._url = url

    def _run(self, operation: Callable[[asyncpg.Connection], Awaitable[Result]]) -> Result:
        async def connected() -> Result:
            connection = await asyncpg.connect(self._url)
            try:
                return await operation(connection)
            finally:
                await connection.close()

        return asyncio.run(connected())

    def execute(self, statement: str, *arguments: object) -> None:
        self._run(lambda connection: connection.execute(statement, *arguments))

    def row(self, query: str, *arguments: object) -> Any:
        return self._run(lambda connection: connection.fetchrow(query, *arguments))

    def rows(self, query: str, *arguments: object) -> Sequence[Any]:
        return self._run(lambda connection: connection.fetch(query, *arguments))

    def definition(self, object_key: str) -> Definition:
        """That of an object which stands."""
        found = self.row(
            "select account_id, object_id, created_by_user_id as user_id, version, naming "
            "from objects where key = $1 and deleted_at is null",
            object_key,
        )
        return Definition(**found)

    @contextlib.contextmanager
    def frozen(self, definition: Definition) -> Iterator[None]:
        """As long as the block lasts, no definition is changed and no object begins to keep documents."""
        with asyncio.Runner() as runner:
            connection = runner.run(asyncpg.connect(self._url))
            place = (definition.account_id, definition.object_id)
            runner.run(connection.execute("select pg_advisory_lock_shared($1, $2)", *place))
            try:
                yield
            finally:
                runner.run(connection.close())

    def copy_table(self, table: str, original: str = RECORDS) -> None:
        """An empty table made like another: columns, indexes, checks and the room left in pages."""
        options = self.row(
            "select array_to_string(reloptions, ',') from pg_class where oid = $1::text::regclass", original
        )
        self.execute(
            f"create table {table} (like {original} including all) with ({options[0] or 'fillfactor=100'})"
        )

    def copy_object(self, original: str, keys: Sequence[str]) -> range:
        """Objects with the definition of another, as if made over HTTP; their ids are in a row."""
        source = self.definition(original)
        scope = (source.account_id, source.object_id)
        fields = self.row("select count(*) from fields where account_id = $1 and object_id = $2", *scope)[0]
        new_ids = len(keys) * (1 + fields)
        raised = self.row(
            "update accounts set last_id = last_id + $2 where account_id = $1 returning last_id",
            source.account_id,
            new_ids,
        )
        object_ids = range(raised[0] - new_ids + 1, raised[0] - new_ids + 1 + len(keys))
        for table, changed in (
            ("objects", {"key": "($4::text[])[n + 1]"}),
            ("fields", {"field_id": f"$3::integer + {len(keys)} - 1 + row_number() over ()"}),
            ("counters", {}),
        ):  # fmt: skip
            self.execute(self._copying(table, changed), *scope, object_ids.start, keys)
        return object_ids

    def _copying(self, table: str, changed: Mapping[str, str]) -> str:
        """A statement that copies the rows of one object for each of its new keys."""
        columns = self.row(
            "select array_agg(attname::text order by attnum) from pg_attribute "
            "where attrelid = $1::text::regclass and attnum > 0 and not attisdropped and attgenerated = ''",
            table,
        )[0]
        changed = {"object_id": "$3::integer + n", **changed}
        return (
            f"insert into {table} ({', '.join(columns)}) "
            f"select {', '.join(changed.get(column, f't.{column}') for column in columns)} "
            f"from {table} t, generate_series(0, cardinality($4::text[]) - 1) as n "
            "where t.account_id = $1 and t.object_id = $2"
        )

    def load(self, table: str, definition: Definition, keys: int, objects: int = 1) -> None:
        """Puts cars into a table; those of several objects with ids in a row take turns by number."""
        for first in range(1, keys + 1, _COPY):
            last = min(keys, first + _COPY - 1)
            self._run(
                lambda connection, first=first, last=last: connection.copy_to_table(  # type: ignore[misc]
                    table, source=_cars(definition, first, last, objects), columns=_COLUMNS
                )
            )
        self.execute(f"vacuum (analyze) {table}")

    def standing(self, table: str, only: Sequence[int] | None = None) -> Standing:
        """The totals of a table, or of some objects in it."""
        found = self.row(
            f"select coalesce(sum(version), 0)::bigint as writes, count(*) as records from {table} "
            "where $1::integer[] is null or object_id = any ($1)",
            only,
        )
        return Standing(**found)

    def gaps(self, table: str, object_id: int) -> int:
        """How many numbers are missing between 1 and the highest given; none can be given twice."""
        query = f"select abs(coalesce(max(number), 0) - count(*)) from {table} where object_id = $1"
        return int(self.row(query, object_id)[0])

    def mileages(self, table: str, external_ids: Sequence[str]) -> dict[str, int]:
        """The mileage of the cars of one object by external_id."""
        found = self.rows(
            f"select external_id, (fields ->> 'mileage')::bigint as mileage from {table} "
            "where external_id = any ($1)",
            external_ids,
        )
        return {row["external_id"]: row["mileage"] for row in found}

    def updates(self, table: str) -> tuple[int, int]:
        """How many updates the statistics have counted so far, and how many stayed in their page (HOT)."""
        found = self.row(
            "select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables where relid = $1::text::regclass", table
        )
        return found[0], found[1]


async def _cars(definition: Definition, first: int, last: int, objects: int) -> AsyncIterator[bytes]:
    """Rows of COPY's text format. A mileage here is above every one that a run sends."""
    one = definition
    template = "\t".join(
        (
            *(str(one.account_id), "%d", str(one.user_id), str(one.user_id), str(one.version)),
            *("%026d", one.naming.replace("%", "%%"), cars.name("%012d"), cars.external_id("%012d")),
            cars.fields("%012d") + "\n",
        )
    ).encode()
    for begin in range(first, last + 1, _CHUNK):
        keys = range(begin, min(last + 1, begin + _CHUNK))
        yield b"".join(
            template % (one.object_id + key % objects, key, key, key, cars.LAST_VALUE - key) for key in keys
        )
