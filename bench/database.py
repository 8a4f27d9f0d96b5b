"""The bench's own SQL, as the owner: the records that stand beforehand, the baseline's table, the books."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import asyncpg

from bench import cars

Result = TypeVar("Result")
BASELINE_TABLE = "pgbench_records"

# Record ids in the form of a ULID. A mileage here is above every one that a run sends.
_PRELOAD = """
insert into {table} (account_id, object_id, created_by_user_id, updated_by_user_id, definition_version,
                     record_id, naming, name, external_id, fields)
select o.account_id, o.object_id, o.created_by_user_id, o.created_by_user_id, o.version,
       lpad(n::text, 26, '0'), o.naming, 'Car ' || lpad(n::text, 8, '0'), 'VIN-' || lpad(n::text, 8, '0'),
       ($2 || ($4::bigint - n) || $3)::jsonb
  from objects o, generate_series(1, $5::integer) as n
 where o.key = $1"""


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

    def preload(self, keys: int) -> None:
        """Makes the baseline's copy of the table, and the same records in both."""
        options = self.row("select array_to_string(reloptions, ',') from pg_class where relname = 'records'")[
            0
        ]
        self.execute(
            f"create table {BASELINE_TABLE} (like records including all) with ({options or 'fillfactor=100'})"
        )
        for table in ("records", BASELINE_TABLE):
            self.execute(
                _PRELOAD.format(table=table),
                cars.OBJECT_KEY,
                cars.FIELDS_BEFORE,
                cars.FIELDS_AFTER,
                cars.LAST_VALUE,
                keys,
            )
            self.execute(f"vacuum (analyze) {table}")

    def writes(self, table: str) -> int:
        """How many writes the records of a table have seen: each raises a version by one."""
        return int(self.row(f"select coalesce(sum(version), 0) from {table}")[0])
