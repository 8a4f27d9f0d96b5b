"""pgbench's scripts: the upserts of each workload and the reads, in plain SQL."""

from bench import cars, wire
from bench.database import RECORDS
from bench.pgbench import Script

ROWS = 32
_NUMBER = "lpad({key}::text, 12, '0')"

_INSERT = """
insert into {table} as r (account_id, object_id, created_by_user_id, updated_by_user_id,
       definition_version, record_id, naming, name, external_id, fields)
"""
# The record_id is new each time: with the one that stands, two updates of a row at once can end in an error.
# The record_id is new each time: with the one that stands, updates of one row at once can end in an error.
_ROW = f""":account_id::integer, :object_id::integer, :user_id::integer, :user_id::integer,
       :version::integer, {{value}} || lpad({{key}}::text, 14, '0'), :naming::text,
       {{name}}, '{cars.external_id("")}' || {_NUMBER},
       (:fields_before::text || {{value}}::text || :fields_after::text)::jsonb"""
_NAME = f"'{cars.name('')}' || {_NUMBER}"
_UPDATE = """
    on conflict (account_id, object_id, external_id) where external_id is not null
    do update set fields = r.fields || excluded.fields, version = r.version + 1, updated_at = now()
"""
_RETURNING = """returning record_id, name, external_id, fields, version, created_at, updated_at,
          created_by_user_id, updated_by_user_id;
"""
_RANDOM_KEY = "\\set key random(1, :keys)\n"
_RANDOM_VALUE = f"\\set value random({cars.FIRST_VALUE}, {cars.LAST_VALUE})\n"
# Numbers that no other client of this run gives, nor any other run.
_NEW_KEY = "\\set made :made + 1\n\\set key :first_value + :made * :clients + :client_id\n"


def _row(key: str, value: str, name: str = _NAME) -> str:
    return _ROW.format(key=key, value=value, name=name.format(key=key))


def _one_row(table: str) -> str:
    return _INSERT.format(table=table) + f"values ({_row(':key', ':value')})" + _UPDATE + _RETURNING


def update(table: str) -> Script:
    """Random standing keys, one a statement."""
    return Script(_RANDOM_KEY + _RANDOM_VALUE + _one_row(table), table)


def update_many(table: str) -> Script:
    """Random standing keys, one out of each 32nd part of them: all distinct, and in their order."""
    value = f"({cars.FIRST_VALUE} + floor(random() * {cars.LAST_VALUE - cars.FIRST_VALUE}))::bigint"
    keys = f"""
  from (select n * (:keys::bigint / {ROWS}) + 1 + floor(random() * (:keys::bigint / {ROWS}))::bigint as key
          from generate_series(0, {ROWS - 1}) as n
         order by n) as k"""
    text = _INSERT.format(table=table) + f"select {_row('k.key', value)}" + keys + _UPDATE + _RETURNING
    return Script(text, table, ROWS)


def mixed(table: str) -> Script:
    """As `update`, but one in ten has a new key."""
    every = round(1 / wire.CREATED_SHARE)
    chosen = (
        f"\\set one_in_ten random(1, {every})\n\\if :one_in_ten = 1\n{_NEW_KEY}\\else\n{_RANDOM_KEY}\\endif\n"
    )
    return Script(chosen + _RANDOM_VALUE + _one_row(table), table)


def autonumber(table: str, counters: str) -> Script:
    """A new key with the next number of a counter row: one transaction, one commit each."""
    row = _row(":key", ":key", "autonumber_name(:naming::text, :number::bigint)")
    insert = _INSERT.format(table=table).replace("fields)", "fields, number)")
    return Script(
        _NEW_KEY
        + f"""begin;
update {counters} set next_number = next_number + 1
 where account_id = :account_id and object_id = :object_id
returning next_number - 1 as number \\gset
{insert}values ({row}, :number::bigint)
{_RETURNING}commit;
""",
        table,
    )


SHOW = Script(
    f"""{_RANDOM_KEY}select * from {RECORDS}
 where account_id = :account_id and object_id = :object_id and record_id = lpad(:key::text, 26, '0');
"""
)
LIST = Script(
    f"""\\set page random(0, :pages - 1)
select * from {RECORDS}
 where account_id = :account_id and object_id = :object_id
   and record_id > lpad((:page * 100)::text, 26, '0')
 order by record_id limit 100;
"""
)
