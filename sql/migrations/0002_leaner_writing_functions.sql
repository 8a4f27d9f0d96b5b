-- The writing functions take and answer arrays of composites, and a batch of them does a third of the work
-- that it did. What is looked up by equality is compared byte by byte.

alter table records alter record_id type text collate "C";
alter table records alter external_id type text collate "C";
alter table records alter name_key type text collate "C";
alter table tombstones alter record_id type text collate "C";

drop function write_records;
drop function update_records;
drop function create_records;
drop function rivals_interfered;
drop function first_of_each;

-- What an update changes of a locked record.
create type record_change as (
    place              tid,
    fields             jsonb,
    name               text,
    external_id        text,
    version            bigint,
    updated_at         timestamptz,
    updated_by_user_id integer,
    definition_version integer
);

-- Whether a record is larger than 32 KB as JSON text. Text is at most six times as long as its jsonb.
create function is_too_large(p_fields jsonb, p_name text, p_external_id text) returns boolean
language sql stable parallel safe
return pg_column_size(p_fields) > 4000
   and octet_length(p_fields::text) + octet_length(p_name) + coalesce(octet_length(p_external_id), 0) > 32768;

-- The keys that the fields lack.
create function missing_keys(p_keys text[], p_fields jsonb) returns text[]
language sql immutable parallel safe
return array(select key from unnest(p_keys) as key where not p_fields ? key);

-- Gives a statement up, to be tried again in smaller ones.
create function rivals_interfered() returns bigint language plpgsql as $$
begin
    raise exception 'rivals wrote the same records' using errcode = 'serialization_failure';
end $$;

-- The writes whose record stands, of each record the first: locks the records in the order of their ids,
-- merges, judges what would result, and updates what would change. Writes whose record is missing, or that
-- were judged by another version of the definition, have no result here.
--
-- This is what nearly every write costs, so it is two statements of few expressions. Rows are looked up by
-- their whole key, never joined: a plan made while a table was small would go on to read all of the account's
-- rows. `offset 0` keeps the planner from seeing through that, and from copying an expression to each of its uses.
create function update_records(p_account_id integer, p_by text, p_writes record_write[])
returns written_record[] language plpgsql as $$
declare
    v_results written_record[];
    v_changes record_change[];
    v_changed bigint;
begin
    select array_agg(
               row(j.position, j.outcome,
                   case when j.outcome = 'field_required' then missing_keys(j.required_fields, j.fields) end,
                   j.record_id, j.name, j.external_id, j.null_fields || (j.fields - j.inactive_fields),
                   j.version, j.created_at, j.updated_at, j.created_by_user_id, j.updated_by_user_id)::written_record),
           array_agg(
               row(j.place, j.fields, j.name, j.external_id, j.version, j.updated_at, j.updated_by_user_id,
                   j.definition_version)::record_change) filter (where j.outcome = 'updated')
      into v_results, v_changes
      from (select m.*, o.outcome,
                   m.old_version + (o.outcome = 'updated')::integer as version,
                   -- not now(): this statement may have waited behind a later one
                   case when o.outcome = 'updated' then greatest(clock_timestamp(), m.old_updated_at)
                        else m.old_updated_at end as updated_at,
                   case when o.outcome = 'updated' then m.user_id else m.old_user_id end as updated_by_user_id
              from (select s.*, jsonb_strip_nulls(s.old_fields || s.patch) as fields
                      from (select f.position, f.object_id, f.user_id, f.definition_version, f.patch,
                                   f.null_fields, f.inactive_fields, f.required_fields,
                                   r.place, r.record_id, r.naming, r.created_at, r.created_by_user_id,
                                   r.version as old_version, r.updated_at as old_updated_at,
                                   r.updated_by_user_id as old_user_id,
                                   r.name as old_name, coalesce(f.name, r.name) as name,
                                   r.external_id as old_external_id,
                                   coalesce(f.external_id, r.external_id) as external_id,
                                   case when p_by = 'name' then name_key(f.name) = r.name_key end as respelt,
                                   case when f.removals is null then r.fields
                                        else live_fields(r.fields, r.definition_version, f.removals) end as old_fields
                              from (select distinct on (w.object_id, found_id)
                                           w.*, o.null_fields, o.inactive_fields, o.required_fields, o.removals,
                                           -- as find_record does, without the cost of a call
                                           case p_by when 'external_id' then (
                                                    select record_id from records
                                                     where account_id = p_account_id and object_id = w.object_id
                                                       and external_id = w.identifier and external_id is not null)
                                                when 'name' then (
                                                    select record_id from records
                                                     where account_id = p_account_id and object_id = w.object_id
                                                       and name_key = name_key(w.identifier) and name_key is not null)
                                                else w.identifier end as found_id
                                      from unnest(p_writes) as w
                                     cross join lateral (
                                           select * from objects
                                            where account_id = p_account_id and object_id = w.object_id
                                           offset 0) as o
                                     where o.version = w.definition_version and o.deleted_at is null
                                     order by w.object_id, found_id, w.position) as f
                             cross join lateral (
                                   select r.*, r.ctid as place from records r
                                    where r.account_id = p_account_id and r.object_id = f.object_id
                                      and r.record_id = f.found_id
                                      -- looked at again once the lock is held: it may have been re-keyed meanwhile
                                      and case p_by when 'external_id' then r.external_id = f.identifier
                                                    when 'name' then r.name_key = name_key(f.identifier)
                                                    else true end
                                      for no key update of r) as r
                            offset 0) as s
                    offset 0) as m
             cross join lateral (
                   select case when m.respelt is false then 'name_differs'
                               when not m.fields ?& m.required_fields then 'field_required'
                               when is_too_large(m.fields, m.name, m.external_id) then 'too_large'
                               when m.external_id is distinct from m.old_external_id
                                    and find_record(p_account_id, m.object_id, 'external_id', m.external_id) <> m.record_id
                                    then 'external_id_taken'
                               when m.name <> m.old_name and m.naming like 'unique:%'
                                    and find_record(p_account_id, m.object_id, 'name', m.name) <> m.record_id
                                    then 'name_taken'
                               when m.fields <> m.old_fields or m.name <> m.old_name
                                    or m.external_id is distinct from m.old_external_id
                                    -- to jsonb 1.0 and 1.00 are equal
                                    or m.fields::text <> m.old_fields::text then 'updated'
                               else 'unchanged' end as outcome
                   offset 0) as o
            offset 0) as j;

    if v_changes is not null then
        -- The locks hold the records where they are.
        update records r
           set fields = c.fields, name = c.name, external_id = c.external_id, version = c.version,
               updated_at = c.updated_at, updated_by_user_id = c.updated_by_user_id,
               definition_version = c.definition_version
          from unnest(v_changes) as c
         where r.ctid = c.place;
        get diagnostics v_changed = row_count;
        if v_changed <> cardinality(v_changes) then
            perform rivals_interfered();
        end if;
    end if;
    return coalesce(v_results, '{}');
end $$;

-- The writes whose record is missing, no two of one identifier: judges what would be created and creates
-- it. A write has no result here when a record of its identifier appeared meanwhile, or one that stands in
-- its way: it is for the caller to look again.
create function create_records(p_account_id integer, p_by text, p_writes record_write[])
returns written_record[] language plpgsql as $$
declare
    v_results written_record[];
begin
    -- The counter is locked first and the identifier looked up once more under that lock, or a
    -- racer for it would have numbered a record that it cannot write, and given its batch up.
    perform from counters c
      where c.account_id = p_account_id and c.object_id = any (array(select w.object_id from unnest(p_writes) as w))
        and (select o.autoincrement_enabled from objects o
              where o.account_id = p_account_id and o.object_id = c.object_id)
      order by c.object_id
        for update;
    with missing as materialized (
        select w.position, w.object_id, w.definition_version, w.identifier, w.record_id, w.user_id,
               coalesce(w.name, case when p_by = 'name' then w.identifier end) as name,
               coalesce(w.external_id, case when p_by = 'external_id' then w.identifier end) as external_id,
               jsonb_strip_nulls(w.patch) as fields, o.*
          from unnest(p_writes) as w
         cross join lateral (
               select naming, is_unique, autoincrement_enabled, autoincrement_prefix, null_fields, inactive_fields,
                      required_fields
                 from objects
                where account_id = p_account_id and object_id = w.object_id
               offset 0) as o
         where p_by = 'none'
            or find_record(p_account_id, w.object_id, p_by, w.identifier) is null),
    judged as materialized (
        select m.*,
               case when p_by = 'record_id' then 'missing'
                    when p_by = 'name' and name_key(m.name) <> name_key(m.identifier) then 'name_differs'
                    when m.name is null and not m.autoincrement_enabled then 'name_required'
                    when not m.fields ?& m.required_fields then 'field_required'
                    -- a number has at most 19 digits
                    when is_too_large(m.fields, coalesce(m.name, m.autoincrement_prefix || repeat('0', 19)), m.external_id)
                         then 'too_large'
                    when m.external_id is not null and p_by <> 'external_id'
                         and find_record(p_account_id, m.object_id, 'external_id', m.external_id) is not null
                         then 'external_id_taken'
                    when m.is_unique and p_by <> 'name'
                         and find_record(p_account_id, m.object_id, 'name', m.name) is not null then 'name_taken'
                    else 'created' end as outcome
          from missing m),
    -- A number written by hand ahead of the counter is stepped over.
    counted as (
        select c.object_id, greatest(c.next_number, (
                   select max(r.number) + 1 from records r
                    where r.account_id = p_account_id and r.object_id = c.object_id
                      and r.number is not null)) as next_number
          from counters c
         where c.account_id = p_account_id and c.object_id = any (array(
               select j.object_id from judged j where j.autoincrement_enabled))),
    numbered as materialized (
        select j.*, n.number, coalesce(j.name, autonumber_name(j.naming, n.number)) as given_name,
               clock_timestamp() as created_at
          from (select j.*, row_number() over (partition by j.object_id order by j.position) as place
                  from judged j where j.outcome = 'created') as j
         cross join lateral (
               select case when j.autoincrement_enabled then (
                      select c.next_number from counted c where c.object_id = j.object_id) + j.place - 1 end as number
               offset 0) as n),
    written as (
        insert into records as r (
            account_id, object_id, record_id, naming, number, name, external_id, fields,
            definition_version, created_by_user_id, updated_by_user_id, created_at, updated_at)
        select p_account_id, n.object_id, n.record_id, n.naming, n.number, n.given_name, n.external_id, n.fields,
               n.definition_version, n.user_id, n.user_id, n.created_at, n.created_at
          from numbered n
         order by n.object_id, n.external_id, n.name
            on conflict do nothing
     returning r.record_id, r.object_id, r.number),
    -- Numbers between those written would be burnt when a rival took an identifier just now.
    raised as (
        update counters c
           set next_number = case when t.written = t.numbered then t.next_number else rivals_interfered() end
          from (select n.object_id, max(n.number) + 1 as next_number, count(*) as numbered,
                       (select count(*) from written w where w.object_id = n.object_id) as written
                  from numbered n
                 where n.number is not null
                 group by n.object_id) t
         where c.account_id = p_account_id and c.object_id = t.object_id and t.written > 0),
    results as (
        select row(n.position, n.outcome, null, n.record_id, n.given_name, n.external_id,
                   n.null_fields || (n.fields - n.inactive_fields), 1, n.created_at, n.created_at,
                   n.user_id, n.user_id)::written_record as result
          from numbered n
         where n.record_id = any (array(select record_id from written))
         union all
        select row(j.position, j.outcome,
                   case when j.outcome = 'field_required' then missing_keys(j.required_fields, j.fields) end,
                   null, null, null, null, null, null, null, null, null)::written_record
          from judged j
         where j.outcome <> 'created')
    select array_agg(result) into v_results from results;
    return coalesce(v_results, '{}');
end $$;

-- Of each identifier its first write: one statement may touch a record once. A creation outright is
-- identified by its external_id, where it has one.
create function first_of_each(p_by text, p_writes record_write[]) returns record_write[]
language plpgsql stable as $$
begin
    if cardinality(p_writes) < 2 then
        return p_writes;
    end if;
    return array(
        select (array_agg(w order by w.position))[1] from unnest(p_writes) as w
         group by w.object_id, case p_by when 'name' then name_key(w.identifier)
                                         when 'none' then coalesce(w.external_id, w.identifier)
                                         else w.identifier end);
end $$;

-- The writes that have no result yet.
create function unsettled(p_writes record_write[], p_results written_record[]) returns record_write[]
language plpgsql stable as $$
begin
    return array(select w from unnest(p_writes) as w
                  where w.position <> all (array(select r.position from unnest(p_results) as r)));
end $$;

-- A result for each write that another version of its object's definition judged, or whose object is gone.
create function stale_results(p_account_id integer, p_writes record_write[]) returns written_record[]
language plpgsql stable as $$
begin
    return array(
        select row(w.position, 'stale', null, null, null, null, null, null, null, null, null, null)::written_record
          from unnest(p_writes) as w
         where w.definition_version is distinct from (
               select o.version from objects o
                where o.account_id = p_account_id and o.object_id = w.object_id and o.deleted_at is null));
end $$;

-- Writes records of one account, found by 'external_id', 'name' or 'record_id' and created when
-- missing (by record_id never), or created outright ('none'). One refused write never spoils another;
-- writes of one identifier are applied in the order of their positions. Each has one result, in any order.
--
-- A definition is written against under the shared form of an advisory lock that its changes take
-- exclusively. Row locks FOR SHARE would do, but their holders overtake a waiting change for ever,
-- and each one writes the definition's page.
create function write_records(p_account_id integer, p_by text, p_writes record_write[])
returns written_record[] language plpgsql as $$
declare
    v_waiting   record_write[] := p_writes;
    v_turn      record_write[] := p_writes;
    v_results   written_record[] := '{}';
    v_rounds    integer := 0;
begin
    perform pg_advisory_xact_lock_shared(p_account_id, w.object_id) from unnest(p_writes) as w;
    -- Each round settles the writes whose record stands or could be created. What is left met a
    -- rival in between, or waits for an earlier write of its own identifier.
    loop
        if p_by <> 'none' then
            v_results := v_results || update_records(p_account_id, p_by, v_turn);
            exit when cardinality(v_results) = cardinality(p_writes);  -- at once, nearly always
        end if;
        if v_rounds = 0 then
            v_results := v_results || stale_results(p_account_id, unsettled(p_writes, v_results));
        end if;
        v_turn := first_of_each(p_by, unsettled(v_turn, v_results));
        if cardinality(v_turn) > 0 then
            v_results := v_results || create_records(p_account_id, p_by, v_turn);
        end if;
        v_waiting := unsettled(v_waiting, v_results);
        exit when cardinality(v_waiting) = 0;
        v_turn := first_of_each(p_by, v_waiting);
        v_rounds := v_rounds + 1;
        if v_rounds > 10 + cardinality(p_writes) then
            perform rivals_interfered();
        end if;
    end loop;
    return v_results;
end $$;
