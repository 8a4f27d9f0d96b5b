-- A listing spent most of its time on unpacking its object's row once more for each record.

drop function shown_fields;

-- What is answered of a record's fields: every active key, null when unset. It takes the columns of the object
-- that it needs one by one: of a whole row each would be unpacked anew for every record.
create function shown_fields(p_null_fields jsonb, p_inactive_fields text[], p_removals jsonb,
                             p_fields jsonb, p_definition_version integer) returns jsonb
language sql immutable parallel safe
return p_null_fields || (
    case when p_removals is null then p_fields else live_fields(p_fields, p_definition_version, p_removals) end
    - p_inactive_fields);
