-- The fields of a record: what is left of them, what a patch makes of them, what is answered.

-- A record's fields without what its object's definition removed since the record was written.
create or replace function live_fields(p_fields jsonb, p_definition_version integer, p_removals jsonb) returns jsonb
language plpgsql immutable parallel safe as $$
declare
    v_removal jsonb;
    v_key     text;
begin
    for v_removal in select jsonb_array_elements(p_removals) loop
        v_key := v_removal ->> 'key';
        continue when p_definition_version >= (v_removal ->> 'version')::integer or not p_fields ? v_key;
        if jsonb_typeof(p_fields -> v_key) = 'array' and v_removal ? 'options' then
            p_fields := jsonb_set(p_fields, array[v_key], (p_fields -> v_key) - array(
                select jsonb_array_elements_text(v_removal -> 'options')));
            if p_fields -> v_key = '[]' then
                p_fields := p_fields - v_key;
            end if;
        elsif not v_removal ? 'options' or v_removal -> 'options' ? (p_fields ->> v_key) then
            p_fields := p_fields - v_key;
        end if;
    end loop;
    return p_fields;
end $$;

-- What is answered of a record's fields: every active key, null when unset. It takes the columns of the object
-- that it needs one by one: of a whole row each would be unpacked anew for every record.
create or replace function shown_fields(p_null_fields jsonb, p_inactive_fields text[], p_removals jsonb,
                             p_fields jsonb, p_definition_version integer) returns jsonb
language sql immutable parallel safe
return p_null_fields || (
    case when p_removals is null then p_fields else live_fields(p_fields, p_definition_version, p_removals) end
    - p_inactive_fields);

-- Whether a record is larger than 32 KB as JSON text. Text is at most six times as long as its jsonb.
create or replace function is_too_large(p_fields jsonb, p_name text, p_external_id text) returns boolean
language sql stable parallel safe
return pg_column_size(p_fields) > 4000
   and octet_length(p_fields::text) + octet_length(p_name) + coalesce(octet_length(p_external_id), 0) > 32768;

-- The keys that the fields lack.
create or replace function missing_keys(p_keys text[], p_fields jsonb) returns text[]
language sql immutable parallel safe
return array(select key from unnest(p_keys) as key where not p_fields ? key);

-- A patch applied to a value by RFC 7396: level by level, null removes, arrays are replaced.
create or replace function merge_patch(p_target jsonb, p_patch jsonb) returns jsonb
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
create or replace function resulting_fields(p_strategy text, p_fields jsonb, p_patch jsonb, p_inactive_fields text[],
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

-- What a change tells of fields that were replaced or merged level by level: the new ones, null where one is gone.
create or replace function replaced_fields(p_old jsonb, p_new jsonb) returns jsonb
language sql immutable parallel safe
return coalesce((select jsonb_object_agg(key, null) from jsonb_object_keys(p_old) as key), '{}') || p_new;

-- The places where a value would replace one of another JSON type, level by level in objects. Null on either side
-- never conflicts, nor does what is only on one. A place is cut, and there are no more than anybody would read:
-- the key of an object is told again with each of its thousands of values.
create or replace function type_conflicts(p_old jsonb, p_new jsonb, p_place text default null) returns text[]
language plpgsql immutable parallel safe as $$
begin
    if jsonb_typeof(p_old) = 'object' and jsonb_typeof(p_new) = 'object' then
        return array(select conflict
                       from jsonb_each(p_new) as n
                      cross join unnest(type_conflicts(p_old -> n.key, n.value,
                                                       left(concat_ws('.', p_place, n.key), 200))) as conflict
                      where p_old ? n.key
                      limit 1000);
    elsif 'null' in (jsonb_typeof(p_old), jsonb_typeof(p_new)) or jsonb_typeof(p_old) = jsonb_typeof(p_new) then
        return '{}';
    end if;
    return array[p_place];
end $$;
