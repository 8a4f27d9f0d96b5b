-- Writes as a request would: a row, which takes WAL, and half a megabyte of the disk, given back at once. A row alone
-- would still fit into its page when no table can grow any more.
create or replace function write_readiness() returns void
    language sql volatile set work_mem = '64kB'
as $$
    insert into readiness default values on conflict (is_only) do update set checked_at = excluded.checked_at;
    with ballast as materialized (select repeat('x', 8000) from generate_series(1, 64)) select count(*) from ballast;
$$;
