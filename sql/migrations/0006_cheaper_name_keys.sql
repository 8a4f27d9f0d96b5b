-- ASCII needs no normalization. What was stored by the function as it was is what it answers now.

create or replace function name_key(p_name text) returns text language plpgsql immutable strict parallel safe as $$
begin
    if octet_length(p_name) = char_length(p_name) then
        return lower(p_name collate "C");  -- the same for ASCII, and spares it the normalizations
    end if;
    return normalize(casefold(normalize(p_name, nfc) collate pg_unicode_fast), nfc);
end $$;
