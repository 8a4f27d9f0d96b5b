-- The functions that write records. write_records calls update_records and create_records; delete_record deletes.

-- Whether the conditions of a write hold for a record, by its entity tag; null where there is no record.
create or replace function conditions_hold(p_if_match text[], p_if_none_match text[], p_entity_tag text) returns boolean
language sql immutable parallel safe
return (p_if_match is null
        or p_entity_tag is not null and ('*' = any (p_if_match) or p_entity_tag = any (p_if_match)))
   and (p_if_none_match is null
        or p_entity_tag is null or not ('*' = any (p_if_none_match) or p_entity_tag = any (p_if_none_match)));

-- What counts as the time of a change where the clock has gone back since the object's last ones; null where not.
create or replace function effective_time(p_changed_at timestamptz, p_last_change_at timestamptz) returns timestamptz
language sql immutable parallel safe
return case when p_changed_at < p_last_change_at then p_last_change_at end;

-- Whether the time that an object notes of its last change is a minute old, or more.
create or replace function has_moved_on(p_changed_at timestamptz, p_last_change_at timestamptz) returns boolean
language sql stable parallel safe
return p_changed_at > p_last_change_at + interval '1 minute';

-- Notes the time of a change of some objects, which never falls. Whoever finds another at it leaves it to that one:
-- nobody waits here.
create or replace function note_change_time(p_account_id integer, p_object_ids integer[]) returns void
language plpgsql as $$
begin
    update objects set last_change_at = greatest(last_change_at, clock_timestamp())
     where ctid = any (array(
           select ctid from objects
            where account_id = p_account_id and object_id = any (p_object_ids)
              for no key update skip locked));
end $$;

-- The id of the record that an identifier names, null when there is none.
create or replace function find_record(p_account_id integer, p_object_id integer, p_by text, p_identifier text) returns text
language plpgsql stable parallel safe as $$
begin
    if p_by = 'external_id' then
        return (select record_id from records where account_id = p_account_id and object_id = p_object_id
                                                and external_id = p_identifier and external_id is not null);
    elsif p_by = 'name' then
        return (select record_id from records where account_id = p_account_id and object_id = p_object_id
                                                and name_key = name_key(p_identifier) and name_key is not null);
    end if;
    return (select record_id from records where account_id = p_account_id and object_id = p_object_id
                                            and record_id = p_identifier);
end $$;

-- Gives a statement up, to be tried again in smaller ones.
create or replace function raise_conflict() returns bigint language plpgsql as $$
begin
    raise exception 'others wrote the same records' using errcode = 'serialization_failure';
end $$;

-- Of each identifier its first write: one statement may touch a record once. A creation outright is
-- identified by its external_id, where it has one.
create or replace function first_per_identifier(p_by text, p_writes record_write[]) returns record_write[]
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
create or replace function pending(p_writes record_write[], p_results written_record[]) returns record_write[]
language plpgsql stable as $$
begin
    return array(select w from unnest(p_writes) as w
                  where w.position <> all (array(select r.position from unnest(p_results) as r)));
end $$;

-- A result for each write that was validated by another version of its object's definition, or whose object is gone.
create or replace function stale_results(p_account_id integer, p_writes record_write[]) returns written_record[]
language plpgsql stable as $$
begin
    return array(
        select row(w.position, 'stale', null, null, null, null, null, null, null, null, null, null)::written_record
          from unnest(p_writes) as w
         where w.definition_version is distinct from (
               select o.version from objects o
                where o.account_id = p_account_id and o.object_id = w.object_id and o.deleted_at is null));
end $$;

-- Updates the records that stand, of each the first write that names it. Writes whose record is missing, or that were
-- validated by another version of the definition, have no result here.
--
--     found      find      the writes of the current definition, each with its definition's columns and its record's id
--     locked     lock      their records, locked in the order of their ids, and as they were
--     merged     merge     the fields that would result
--     verdict    validate  what becomes of each write, by its conditions, its definition and its neighbours
--     validated            what is reported: the results, and what is to be written
--
-- Then one statement writes the changed records and logs their changes.
--
-- This is what nearly every write costs, so it is two statements of few expressions. Rows are looked up by
-- their whole key, never joined: a plan made while a table was small would go on to read all of the account's
-- rows. `offset 0` keeps the planner from seeing through that, and from copying an expression to each of its uses.
create or replace function update_records(p_account_id integer, p_by text, p_writes record_write[])
returns written_record[] language plpgsql as $$
declare
    v_results   written_record[];
    v_changes   record_change[];
    v_changed   bigint;
    v_reindexed integer[];
    v_relinked  integer[];
    v_moved_on  integer[];
begin
    select array_agg(
               row(validated.position, validated.outcome,
                   case validated.outcome
                        when 'field_required' then missing_keys(validated.required_fields, validated.fields)
                        when 'type_differs' then type_conflicts(validated.old_fields, validated.fields) end,
                   validated.record_id, validated.name, validated.external_id,
                   validated.null_fields || (validated.fields - validated.inactive_fields),
                   validated.version, validated.created_at, validated.updated_at,
                   validated.created_by_user_id, validated.updated_by_user_id)::written_record),
           array_agg(
               row(validated.place, validated.fields, validated.name, validated.external_id, validated.version,
                   validated.updated_at, validated.updated_by_user_id, validated.definition_version,
                   case when validated.strategy is null and validated.json_fields is null then validated.patch
                        else replaced_fields(validated.old_fields, validated.fields) end,
                   effective_time(validated.updated_at, validated.last_change_at))::record_change)
               filter (where validated.outcome = 'updated'),
           array_agg(validated.position) filter (where
               case when validated.searched_since is not null and validated.outcome = 'updated'
                    then validated.name <> validated.old_name
                         or searched_text(validated.fields, validated.searched_fields)
                            <> searched_text(validated.old_fields, validated.searched_fields) end),
           array_agg(validated.position) filter (where
               case when validated.lookup_fields is not null and validated.outcome = 'updated'
                         and (validated.strategy is not null or validated.patch ?| validated.lookup_fields)
                    then have_lookups_changed(validated.lookup_fields, validated.old_fields, validated.fields) end),
           array_agg(validated.object_id) filter (
               where validated.outcome = 'updated' and has_moved_on(validated.updated_at, validated.last_change_at))
      into v_results, v_changes, v_reindexed, v_relinked, v_moved_on
      from (select merged.*, verdict.outcome,
                   merged.old_version + (verdict.outcome = 'updated')::integer as version,
                   -- not now(): this statement may have waited behind a later one
                   case when verdict.outcome = 'updated' then greatest(clock_timestamp(), merged.old_updated_at)
                        else merged.old_updated_at end as updated_at,
                   case when verdict.outcome = 'updated' then merged.user_id
                        else merged.old_user_id end as updated_by_user_id
              from (select locked.*,
                           case when locked.strategy is null and locked.json_fields is null
                                then jsonb_strip_nulls(locked.old_fields || locked.patch)
                                when locked.json_fields is null and locked.inactive_fields = '{}'
                                     and locked.strategy <> 'merge'
                                then jsonb_strip_nulls(locked.patch)
                                else resulting_fields(locked.strategy, locked.old_fields, locked.patch,
                                                      locked.inactive_fields, locked.json_fields) end as fields
                      from (select found.position, found.object_id, found.user_id, found.definition_version,
                                   found.patch, found.strategy, found.if_match, found.if_none_match,
                                   found.null_fields, found.inactive_fields, found.required_fields,
                                   found.json_fields, found.searched_since, found.searched_fields,
                                   found.last_change_at, found.lookup_fields,
                                   r.place, r.record_id, r.naming, r.created_at, r.created_by_user_id,
                                   r.version as old_version, r.updated_at as old_updated_at,
                                   r.updated_by_user_id as old_user_id,
                                   r.name as old_name, coalesce(found.name, r.name) as name,
                                   r.external_id as old_external_id,
                                   case when found.clears_external_id then null
                                        else coalesce(found.external_id, r.external_id) end as external_id,
                                   case when p_by = 'name' then name_key(found.name) = r.name_key end as name_matches,
                                   case when found.removals is null then r.fields
                                        else live_fields(r.fields, r.definition_version, found.removals)
                                        end as old_fields
                              from (select distinct on (w.object_id, found_id)
                                           w.*, o.null_fields, o.inactive_fields, o.required_fields, o.json_fields,
                                           o.removals, o.searched_since, o.searched_fields, o.last_change_at,
                                           o.lookup_fields,
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
                                     order by w.object_id, found_id, w.position) as found
                             cross join lateral (
                                   select r.*, r.ctid as place from records r
                                    where r.account_id = p_account_id and r.object_id = found.object_id
                                      and r.record_id = found.found_id
                                      -- looked at again once the lock is held: it may have been re-keyed meanwhile
                                      and case p_by when 'external_id' then r.external_id = found.identifier
                                                    when 'name' then r.name_key = name_key(found.identifier)
                                                    else true end
                                      for no key update of r) as r
                            offset 0) as locked
                    offset 0) as merged
             cross join lateral (
                   select case when coalesce(merged.if_match, merged.if_none_match) is not null
                                    and not conditions_hold(merged.if_match, merged.if_none_match,
                                            entity_tag(merged.record_id, merged.old_version, merged.definition_version))
                                    then 'precondition_failed'
                               when merged.name_matches is false then 'name_differs'
                               when merged.strategy is not null and merged.name <> merged.old_name
                                    and merged.naming like 'autonumber:%' then 'name_generated'
                               when not merged.fields ?& merged.required_fields then 'field_required'
                               -- not by AND, which looks at its other half when the first is null
                               when case when merged.strategy = 'replace'
                                         then type_conflicts(merged.old_fields, merged.fields) <> '{}' end
                                    then 'type_differs'
                               when is_too_large(merged.fields, merged.name, merged.external_id) then 'too_large'
                               when merged.external_id is distinct from merged.old_external_id
                                    and find_record(p_account_id, merged.object_id, 'external_id', merged.external_id)
                                        <> merged.record_id then 'external_id_taken'
                               when merged.name <> merged.old_name and merged.naming like 'unique:%'
                                    and find_record(p_account_id, merged.object_id, 'name', merged.name)
                                        <> merged.record_id then 'name_taken'
                               when merged.fields <> merged.old_fields or merged.name <> merged.old_name
                                    or merged.external_id is distinct from merged.old_external_id
                                    -- to jsonb 1.0 and 1.00 are equal
                                    or merged.fields::text <> merged.old_fields::text then 'updated'
                               else 'unchanged' end as outcome
                   offset 0) as verdict
            offset 0) as validated;

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
                   new.version, new.updated_by_user_id, new.record_id, new.name, new.external_id, c.delta,
                   c.effective_at)
        insert into changes (account_id, object_id, previous_transaction_id, changed_at, version, user_id, kind,
                             record_id, name, external_id, fields, effective_at)
        select account_id, object_id, previous_transaction_id, updated_at, version, updated_by_user_id, 'updated',
               record_id, name, external_id, delta, effective_at
          from updated;
        get diagnostics v_changed = row_count;
        if v_changed <> cardinality(v_changes) then
            perform raise_conflict();
        end if;
    end if;
    if v_moved_on is not null then
        perform note_change_time(p_account_id, v_moved_on);
    end if;
    if v_reindexed is not null then
        perform keep_documents(p_account_id, p_writes, v_results, v_reindexed);
    end if;
    if v_relinked is not null then
        perform keep_lookups(p_account_id, p_writes, v_results, v_relinked);
    end if;
    return coalesce(v_results, '{}');
end $$;

-- Creates the records that are missing; no two of the writes have one identifier. A write has no result here when a
-- record of its identifier appeared meanwhile, or one that stands in its way: it is for the caller to look again.
--
--     (counters)     lock      the counters of autonumbering objects
--     missing        find      the writes whose identifier finds nothing, with their definition's columns
--                    merge     and the fields that would result
--     validated      validate  what becomes of each, by its conditions, its definition and its neighbours
--     counted        number    the next number of each object
--     numbered                 the creations, each with its number and name
--     written        write     the records
--     logged                   their changes
--     counter_moved            the counters
--     results        report
create or replace function create_records(p_account_id integer, p_by text, p_writes record_write[])
returns written_record[] language plpgsql as $$
declare
    v_results   written_record[];
    v_reindexed integer[];
    v_linked    integer[];
    v_moved_on  integer[];
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
                      required_fields, json_fields, searched_since, last_change_at, lookup_fields
                 from objects
                where account_id = p_account_id and object_id = w.object_id
               offset 0) as o
         where p_by = 'none'
            or find_record(p_account_id, w.object_id, p_by, w.identifier) is null),
    validated as materialized (
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
               select v.object_id from validated v where v.autoincrement_enabled))),
    numbered as materialized (
        select v.*, n.number, coalesce(v.name, autonumber_name(v.naming, n.number)) as given_name,
               clock_timestamp() as created_at
          from (select v.*, row_number() over (partition by v.object_id order by v.position) as place
                  from validated v where v.outcome = 'created') as v
         cross join lateral (
               select case when v.autoincrement_enabled then (
                      select c.next_number from counted c where c.object_id = v.object_id) + v.place - 1 end as number
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
    logged as (
        insert into changes (account_id, object_id, changed_at, version, user_id, kind,
                             record_id, name, external_id, fields, effective_at)
        select w.account_id, w.object_id, w.created_at, w.version, w.created_by_user_id, 'created',
               w.record_id, w.name, w.external_id, w.fields,
               effective_time(w.created_at, (select n.last_change_at from numbered n where n.object_id = w.object_id limit 1))
          from written w),
    -- Numbers between those written would be burnt when another writer took an identifier just now.
    counter_moved as (
        update counters c
           set next_number = case when t.written = t.numbered then t.next_number else raise_conflict() end
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
        select row(v.position, v.outcome,
                   case when v.outcome = 'field_required' then missing_keys(v.required_fields, v.fields) end,
                   null, null, null, null, null, null, null, null, null)::written_record
          from validated v
         where v.outcome <> 'created')
    select array_agg(result), (select array_agg(n.position) from numbered n where n.searched_since is not null),
           (select array_agg(n.position) from numbered n where n.lookup_fields is not null),
           (select array_agg(n.object_id) from numbered n where has_moved_on(n.created_at, n.last_change_at))
      into v_results, v_reindexed, v_linked, v_moved_on
      from results;
    if v_moved_on is not null then
        perform note_change_time(p_account_id, v_moved_on);
    end if;
    if v_reindexed is not null then
        perform keep_documents(p_account_id, p_writes, v_results, v_reindexed);
    end if;
    if v_linked is not null then
        perform keep_lookups(p_account_id, p_writes, v_results, v_linked);
    end if;
    return coalesce(v_results, '{}');
end $$;

-- Writes records of one account, found by 'external_id', 'name' or 'record_id' and created when
-- missing (by record_id never), or created outright ('none'). One refused write never spoils another;
-- writes of one identifier are applied in the order of their positions. Each has one result, in any order.
--
-- A definition is written against under the shared form of an advisory lock that its changes take
-- exclusively. Row locks FOR SHARE would do, but their holders overtake a waiting change for ever,
-- and each one writes the definition's page.
create or replace function write_records(p_account_id integer, p_by text, p_writes record_write[])
returns written_record[] language plpgsql as $$
declare
    v_waiting   record_write[] := p_writes;
    v_turn      record_write[] := p_writes;
    v_results   written_record[] := '{}';
    v_rounds    integer := 0;
begin
    perform pg_advisory_xact_lock_shared(p_account_id, w.object_id) from unnest(p_writes) as w;
    -- Each round settles the writes whose record stands or could be created. What is left met
    -- another writer in between, or waits for an earlier write of its own identifier.
    loop
        if p_by <> 'none' then
            v_results := v_results || update_records(p_account_id, p_by, v_turn);
            exit when cardinality(v_results) = cardinality(p_writes);  -- at once, nearly always
        end if;
        if v_rounds = 0 then
            v_results := v_results || stale_results(p_account_id, pending(p_writes, v_results));
        end if;
        v_turn := first_per_identifier(p_by, pending(v_turn, v_results));
        if cardinality(v_turn) > 0 then
            v_results := v_results || create_records(p_account_id, p_by, v_turn);
        end if;
        v_waiting := pending(v_waiting, v_results);
        exit when cardinality(v_waiting) = 0;
        v_turn := first_per_identifier(p_by, v_waiting);
        v_rounds := v_rounds + 1;
        if v_rounds > 10 + cardinality(p_writes) then
            perform raise_conflict();
        end if;
    end loop;
    return v_results;
end $$;

-- Deletes the record that an identifier names and leaves a tombstone; answers deleted, missing or
-- precondition_failed.
create or replace function delete_record(p_account_id integer, p_object_id integer, p_by text, p_identifier text,
                              p_user_id integer, p_if_match text[], p_if_none_match text[])
returns text language plpgsql as $$
declare
    v_record         records;
    v_tombstone      tombstones;
    v_last_change_at timestamptz;
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
    delete from search_documents
     where account_id = p_account_id and object_id = p_object_id and record_id = v_record.record_id;
    delete from lookup_values
     where account_id = p_account_id and object_id = p_object_id and record_id = v_record.record_id;
    -- The tombstone is kept for a time from then on, so that it is not dated by a clock that went far back.
    v_last_change_at := (select last_change_at from objects
                          where account_id = p_account_id and object_id = p_object_id);
    insert into tombstones (account_id, object_id, record_id, name, external_id, deleted_at, deleted_by_user_id,
                            fields, version, created_at, created_by_user_id)
    values (p_account_id, p_object_id, v_record.record_id, v_record.name, v_record.external_id,
            greatest(clock_timestamp(), v_record.updated_at, v_last_change_at), p_user_id,
            v_record.fields, v_record.version + 1, v_record.created_at, v_record.created_by_user_id)
    returning * into v_tombstone;
    insert into changes (account_id, object_id, previous_transaction_id, changed_at, version, user_id, kind,
                         record_id, name, external_id)
    values (p_account_id, p_object_id, v_record.changed_in, v_tombstone.deleted_at, v_tombstone.version,
            p_user_id, 'deleted', v_record.record_id, v_record.name, v_record.external_id);
    if has_moved_on(v_tombstone.deleted_at, v_last_change_at) then
        perform note_change_time(p_account_id, array[p_object_id]);
    end if;
    return 'deleted';
end $$;
