-- What values are made of and compared by, and how long things are kept. Needs no table: the schema needs some of these.

-- One rule for comparing unique names: NFC of the casefold of the NFC, so that
-- Straße = STRASSE and é is é however it was composed. The name is kept as typed.
-- (In PL/pgSQL, like the next: an SQL function in a generated column or a check is inlined anew at every statement.)
create or replace function name_key(p_name text) returns text language plpgsql immutable strict parallel safe as $$
begin
    if octet_length(p_name) = char_length(p_name) then
        return lower(p_name collate "C");  -- the same for ASCII, and spares it the normalizations
    end if;
    -- nearly every text is normalized, and to see that takes a fraction of doing it
    if p_name is not nfc normalized then
        p_name := normalize(p_name, nfc);
    end if;
    p_name := casefold(p_name collate pg_unicode_fast);
    return case when p_name is nfc normalized then p_name else normalize(p_name, nfc) end;
end $$;

-- The name that a number has under an autonumbering object's naming.
create or replace function autonumber_name(p_naming text, p_number bigint) returns text
language plpgsql immutable strict parallel safe as $$
begin
    return substring(p_naming from '^autonumber:[0-9]+:[0-9]+:(.*)$')
        || lpad(p_number::text, greatest(split_part(p_naming, ':', 2)::integer, length(p_number::text)), '0');
end $$;

-- The entity tag of a record: what is answered of it changes with its version and with its object's definition.
create or replace function entity_tag(p_record_id text, p_version bigint, p_definition_version integer) returns text
language sql immutable parallel safe
return p_record_id || '.' || p_version::text || '.' || p_definition_version::text;

-- How long what is left of a deleted record is shown to those who follow along, and its changes are kept.
create or replace function tombstone_retention() returns interval language sql immutable parallel safe
return interval '30 days';

-- How long the answer to a request with an Idempotency-Key is given again.
create or replace function answer_retention() returns interval language sql immutable parallel safe
return interval '24 hours';

-- How long a job can be read after its end.
create or replace function job_retention() returns interval language sql immutable parallel safe
return interval '24 hours';
