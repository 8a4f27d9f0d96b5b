-- A change for every write: for record events and the incremental export. Every record that stands begins its
-- history here, as it is now.

-- A row a write that changed something: who, when, and what the record became. Record events and the incremental
-- export read it. It is kept as long as its record or tombstone.
--
-- The rows of an object are in the order of their transactions, because whoever follows along may read up to the
-- oldest transaction under way and has missed nothing. Each leads to the one before it of its record, so that
-- the table needs no second index, whose pages every update would touch at random.
create table changes (
    account_id              integer not null,
    object_id               integer not null,
    transaction_id          xid8 not null default pg_current_xact_id(),
    previous_transaction_id xid8,     -- of the record's change before; null of the first
    changed_at              timestamptz not null,
    version                 bigint not null,
    user_id                 integer not null,
    kind                    text not null,
    record_id               text collate "C" not null,
    -- as they became, or were when the record was deleted
    name                    text not null,
    external_id             text,
    -- All that the record was created with; the values that a later write sent, changed or not, null where cleared.
    fields                  jsonb,
    primary key (account_id, object_id, transaction_id, record_id, version),
    constraint changes_kind_check check (kind in ('created', 'updated', 'deleted'))
);

alter table records add column changed_in xid8 not null default pg_current_xact_id();
alter table tombstones
    add column fields jsonb not null default '{}',
    add column version bigint not null default 1,
    add column created_at timestamptz not null default now(),
    add column created_by_user_id integer,
    add column changed_in xid8 not null default pg_current_xact_id();
update tombstones set created_at = deleted_at, created_by_user_id = deleted_by_user_id;
alter table tombstones alter column created_by_user_id set not null;

insert into changes (account_id, object_id, changed_at, version, user_id, kind, record_id, name, external_id, fields)
select account_id, object_id, now(), version, updated_by_user_id, 'created', record_id, name, external_id, fields
  from records;
insert into changes (account_id, object_id, changed_at, version, user_id, kind, record_id, name, external_id)
select account_id, object_id, now(), version, deleted_by_user_id, 'deleted', record_id, name, external_id
  from tombstones;

alter type record_change add attribute sent jsonb;

-- What a change tells of fields that were replaced or merged level by level: the new ones, null where one is gone.
create function replaced_fields(p_old jsonb, p_new jsonb) returns jsonb
language sql immutable parallel safe
return coalesce((select jsonb_object_agg(key, null) from jsonb_object_keys(p_old) as key), '{}') || p_new;

-- The first transaction of an object's changes that may be of a time or later: transactions begin in the order of
-- their ids, so half of those left are out of the question with each look.
create function first_transaction_since(p_account_id integer, p_object_id integer, p_time timestamptz) returns xid8
language plpgsql stable as $$
declare
    v_low    bigint := (select c.transaction_id::text from changes c
                         where c.account_id = p_account_id and c.object_id = p_object_id
                         order by c.transaction_id limit 1);
    v_high   bigint := (select c.transaction_id::text from changes c
                         where c.account_id = p_account_id and c.object_id = p_object_id
                         order by c.transaction_id desc limit 1);
    v_middle bigint;
    v_found  record;
begin
    while v_low < v_high loop
        v_middle := v_low + (v_high - v_low) / 2;
        select c.transaction_id::text::bigint as transaction_id, c.changed_at into v_found
          from changes c
         where c.account_id = p_account_id and c.object_id = p_object_id
           and c.transaction_id >= v_middle::text::xid8
         order by c.transaction_id
         limit 1;
        if v_found.changed_at < p_time then
            v_low := v_found.transaction_id + 1;
        else
            v_high := v_middle;
        end if;
    end loop;
    -- never past a transaction under way, whose changes are not to be seen yet
    return least(coalesce(v_low, 0)::text::xid8, pg_snapshot_xmin(pg_current_snapshot()));
end $$;

-- The writes whose record stands, of each record the first: locks the records in the order of their ids,
-- merges, judges what would result, and updates what would change. Writes whose record is missing, or that
-- were judged by another version of the definition, have no result here.
--
-- This is what nearly every write costs, so it is two statements of few expressions. Rows are looked up by
-- their whole key, never joined: a plan made while a table was small would go on to read all of the account's
-- rows. `offset 0` keeps the planner from seeing through that, and from copying an expression to each of its uses.
create or replace function update_records(p_account_id integer, p_by text, p_writes record_write[])
returns written_record[] language plpgsql as $$
declare
    v_results written_record[];
    v_changes record_change[];
    v_changed bigint;
begin
    select array_agg(
               row(j.position, j.outcome,
                   case j.outcome when 'field_required' then missing_keys(j.required_fields, j.fields)
                                  when 'type_differs' then type_conflicts(j.old_fields, j.fields) end,
                   j.record_id, j.name, j.external_id, j.null_fields || (j.fields - j.inactive_fields),
                   j.version, j.created_at, j.updated_at, j.created_by_user_id, j.updated_by_user_id)::written_record),
           array_agg(
               row(j.place, j.fields, j.name, j.external_id, j.version, j.updated_at, j.updated_by_user_id,
                   j.definition_version,
                   case when j.strategy is null and j.json_fields is null then j.patch
                        else replaced_fields(j.old_fields, j.fields) end)::record_change) filter (where j.outcome = 'updated')
      into v_results, v_changes
      from (select m.*, o.outcome,
                   m.old_version + (o.outcome = 'updated')::integer as version,
                   -- not now(): this statement may have waited behind a later one
                   case when o.outcome = 'updated' then greatest(clock_timestamp(), m.old_updated_at)
                        else m.old_updated_at end as updated_at,
                   case when o.outcome = 'updated' then m.user_id else m.old_user_id end as updated_by_user_id
              from (select s.*,
                           case when s.strategy is null and s.json_fields is null
                                then jsonb_strip_nulls(s.old_fields || s.patch)
                                when s.json_fields is null and s.inactive_fields = '{}' and s.strategy <> 'merge'
                                then jsonb_strip_nulls(s.patch)
                                else resulting_fields(s.strategy, s.old_fields, s.patch, s.inactive_fields,
                                                      s.json_fields) end as fields
                      from (select f.position, f.object_id, f.user_id, f.definition_version, f.patch,
                                   f.strategy, f.if_match, f.if_none_match,
                                   f.null_fields, f.inactive_fields, f.required_fields, f.json_fields,
                                   r.place, r.record_id, r.naming, r.created_at, r.created_by_user_id,
                                   r.version as old_version, r.updated_at as old_updated_at,
                                   r.updated_by_user_id as old_user_id,
                                   r.name as old_name, coalesce(f.name, r.name) as name,
                                   r.external_id as old_external_id,
                                   case when f.clears_external_id then null
                                        else coalesce(f.external_id, r.external_id) end as external_id,
                                   case when p_by = 'name' then name_key(f.name) = r.name_key end as respelt,
                                   case when f.removals is null then r.fields
                                        else live_fields(r.fields, r.definition_version, f.removals) end as old_fields
                              from (select distinct on (w.object_id, found_id)
                                           w.*, o.null_fields, o.inactive_fields, o.required_fields, o.json_fields,
                                           o.removals,
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
                   select case when coalesce(m.if_match, m.if_none_match) is not null
                                    and not conditions_hold(m.if_match, m.if_none_match,
                                            entity_tag(m.record_id, m.old_version, m.definition_version))
                                    then 'precondition_failed'
                               when m.respelt is false then 'name_differs'
                               when m.strategy is not null and m.name <> m.old_name and m.naming like 'autonumber:%'
                                    then 'name_generated'
                               when not m.fields ?& m.required_fields then 'field_required'
                               -- not by AND, which looks at its other half when the first is null
                               when case when m.strategy = 'replace'
                                         then type_conflicts(m.old_fields, m.fields) <> '{}' end
                                    then 'type_differs'
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
        with updated as (
            update records r
               set fields = c.fields, name = c.name, external_id = c.external_id, version = c.version,
                   updated_at = c.updated_at, updated_by_user_id = c.updated_by_user_id,
                   definition_version = c.definition_version, changed_in = pg_current_xact_id()
              from unnest(v_changes) as c
             where r.ctid = c.place
         returning new.account_id, new.object_id, old.changed_in as previous_transaction_id, new.updated_at,
                   new.version, new.updated_by_user_id, new.record_id, new.name, new.external_id, c.sent)
        insert into changes (account_id, object_id, previous_transaction_id, changed_at, version, user_id, kind,
                             record_id, name, external_id, fields)
        select account_id, object_id, previous_transaction_id, updated_at, version, updated_by_user_id, 'updated',
               record_id, name, external_id, sent
          from updated;
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
create or replace function create_records(p_account_id integer, p_by text, p_writes record_write[])
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
               w.strategy, w.if_match,
               coalesce(w.name, case when p_by = 'name' then w.identifier end) as name,
               coalesce(w.external_id, case when p_by = 'external_id' then w.identifier end) as external_id,
               case when o.json_fields is null then jsonb_strip_nulls(w.patch)
                    else resulting_fields(case when p_by = 'none' then 'force' else w.strategy end, '{}', w.patch,
                                          '{}', o.json_fields) end as fields, o.*
          from unnest(p_writes) as w
         cross join lateral (
               select naming, is_unique, autoincrement_enabled, autoincrement_prefix, null_fields, inactive_fields,
                      required_fields, json_fields
                 from objects
                where account_id = p_account_id and object_id = w.object_id
               offset 0) as o
         where p_by = 'none'
            or find_record(p_account_id, w.object_id, p_by, w.identifier) is null),
    judged as materialized (
        select m.*,
               case when p_by = 'record_id' then 'missing'
                    when not conditions_hold(m.if_match, null, null) then 'precondition_failed'
                    when m.strategy is not null and m.name is not null and m.autoincrement_enabled
                         then 'name_generated'
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
     returning r.*),
    told as (
        insert into changes (account_id, object_id, changed_at, version, user_id, kind,
                             record_id, name, external_id, fields)
        select account_id, object_id, created_at, version, created_by_user_id, 'created',
               record_id, name, external_id, fields
          from written),
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

-- Deletes the record that an identifier names and leaves a tombstone; answers deleted, missing or
-- precondition_failed.
create or replace function delete_record(p_account_id integer, p_object_id integer, p_by text, p_identifier text,
                              p_user_id integer, p_if_match text[], p_if_none_match text[])
returns text language plpgsql as $$
declare
    v_record    records;
    v_tombstone tombstones;
begin
    loop
        select r.* into v_record
          from records r
         where r.account_id = p_account_id and r.object_id = p_object_id
           and r.record_id = find_record(p_account_id, p_object_id, p_by, p_identifier)
           -- looked at again once the lock is held: it may have been re-keyed meanwhile
           and case p_by when 'external_id' then r.external_id = p_identifier
                         when 'name' then r.name_key = name_key(p_identifier) else true end
           for update;
        exit when found;
        if find_record(p_account_id, p_object_id, p_by, p_identifier) is null then
            return 'missing';
        end if;
    end loop;
    if not conditions_hold(p_if_match, p_if_none_match, entity_tag(
            v_record.record_id, v_record.version,
            (select version from objects where account_id = p_account_id and object_id = p_object_id))) then
        return 'precondition_failed';
    end if;
    delete from records
     where account_id = p_account_id and object_id = p_object_id and record_id = v_record.record_id;
    insert into tombstones (account_id, object_id, record_id, name, external_id, deleted_at, deleted_by_user_id,
                            fields, version, created_at, created_by_user_id)
    values (p_account_id, p_object_id, v_record.record_id, v_record.name, v_record.external_id,
            greatest(clock_timestamp(), v_record.updated_at), p_user_id,
            v_record.fields, v_record.version + 1, v_record.created_at, v_record.created_by_user_id)
    returning * into v_tombstone;
    insert into changes (account_id, object_id, previous_transaction_id, changed_at, version, user_id, kind,
                         record_id, name, external_id)
    values (p_account_id, p_object_id, v_record.changed_in, v_tombstone.deleted_at, v_tombstone.version,
            p_user_id, 'deleted', v_record.record_id, v_record.name, v_record.external_id);
    return 'deleted';
end $$;

grant select, insert, delete on changes to upsert_svc;
