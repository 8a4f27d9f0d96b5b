-- Records are replaced as well as patched, on conditions or without; a field may hold any JSON value.

alter table objects add column json_fields text[];
alter table fields drop constraint fields_type_check;
alter table fields add constraint fields_type_check check (type in (
    'text', 'textarea', 'regexp', 'checkbox', 'date', 'integer', 'decimal', 'dropdown', 'multiselect', 'lookup', 'json'));

alter type record_write add attribute strategy text;
alter type record_write add attribute clears_external_id boolean;
alter type record_write add attribute if_match text[];
alter type record_write add attribute if_none_match text[];

drop function delete_record;

-- A patch applied to a value by RFC 7396: level by level, null removes, arrays are replaced.
create function merge_patch(p_target jsonb, p_patch jsonb) returns jsonb
language plpgsql immutable parallel safe as $$
declare
    v_target jsonb := case when jsonb_typeof(p_target) = 'object' then p_target else '{}' end;
begin
    if jsonb_typeof(p_patch) <> 'object' then
        return p_patch;
    elsif v_target = '{}' and not jsonb_path_exists(p_patch, '$.** ? (@ == null)') then
        return p_patch;  -- there is nothing to merge with, and nothing to remove
    end if;
    return coalesce((
        select jsonb_object_agg(key, value)
          from (select key, value from jsonb_each(v_target) where not p_patch ? key
                 union all
                select key, case when jsonb_typeof(value) = 'object' then merge_patch(v_target -> key, value)
                                 else value end
                  from jsonb_each(p_patch)
                 where value <> 'null') as merged), '{}');
end $$;

-- A record's fields after a write of an object with json fields, or by a strategy. What lies in a json field may
-- hold nulls, so only the fields themselves are freed of them. What an inactive field holds can be neither seen nor
-- sent, so it stays.
create function resulting_fields(p_strategy text, p_fields jsonb, p_patch jsonb, p_inactive_fields text[],
                                 p_json_fields text[]) returns jsonb
language plpgsql immutable parallel safe as $$
declare
    v_fields jsonb;
    v_key    text;
begin
    if p_strategy in ('force', 'replace') then
        v_fields := p_patch || coalesce((select jsonb_object_agg(key, p_fields -> key)
                                           from unnest(p_inactive_fields) as key where p_fields ? key), '{}');
    else
        v_fields := p_fields || p_patch;
        foreach v_key in array coalesce(p_json_fields, '{}') loop
            if jsonb_typeof(p_patch -> v_key) = 'object' then
                v_fields := v_fields || jsonb_build_object(v_key, merge_patch(p_fields -> v_key, p_patch -> v_key));
            end if;
        end loop;
    end if;
    return v_fields - array(select key from jsonb_each(v_fields) where value = 'null');
end $$;

-- The places where a value would replace one of another JSON type, level by level in objects. Null on either side
-- never conflicts, nor does what is only on one.
create function type_conflicts(p_old jsonb, p_new jsonb, p_place text default null) returns text[]
language plpgsql immutable parallel safe as $$
begin
    if jsonb_typeof(p_old) = 'object' and jsonb_typeof(p_new) = 'object' then
        return array(select conflict
                       from jsonb_each(p_new) as n
                      cross join unnest(type_conflicts(p_old -> n.key, n.value,
                                                       concat_ws('.', p_place, n.key))) as conflict
                      where p_old ? n.key);
    elsif 'null' in (jsonb_typeof(p_old), jsonb_typeof(p_new)) or jsonb_typeof(p_old) = jsonb_typeof(p_new) then
        return '{}';
    end if;
    return array[p_place];
end $$;

-- The entity tag of a record: what is answered of it changes with its version and with its object's definition.
create function entity_tag(p_record_id text, p_version bigint, p_definition_version integer) returns text
language sql immutable parallel safe
return p_record_id || '.' || p_version::text || '.' || p_definition_version::text;

-- Whether the conditions of a write hold for a record, by its entity tag; null where there is no record.
create function conditions_hold(p_if_match text[], p_if_none_match text[], p_entity_tag text) returns boolean
language sql immutable parallel safe
return (p_if_match is null
        or p_entity_tag is not null and ('*' = any (p_if_match) or p_entity_tag = any (p_if_match)))
   and (p_if_none_match is null
        or p_entity_tag is null or not ('*' = any (p_if_none_match) or p_entity_tag = any (p_if_none_match)));

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
                   j.definition_version)::record_change) filter (where j.outcome = 'updated')
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

-- Deletes the record that an identifier names and leaves a tombstone; answers deleted, missing or
-- precondition_failed.
create function delete_record(p_account_id integer, p_object_id integer, p_by text, p_identifier text,
                              p_user_id integer, p_if_match text[], p_if_none_match text[])
returns text language plpgsql as $$
declare
    v_record records;
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
    insert into tombstones (account_id, object_id, record_id, name, external_id, deleted_by_user_id)
    values (p_account_id, p_object_id, v_record.record_id, v_record.name, v_record.external_id, p_user_id);
    return 'deleted';
end $$;
