-- What is answered of a job's results.

-- The results of a job as they are answered. Those that were kept before they were bounded are cut as they would be now.
create or replace function shown_results(p_results jsonb) returns text
language plpgsql immutable parallel safe as $$
declare
    v_text text := p_results::text;
begin
    if octet_length(v_text) <= 1000000 then
        return v_text;
    end if;
    return (select jsonb_agg(result || jsonb_build_object(
                       'id', echoed(result ->> 'id'), 'external_id', echoed(result ->> 'external_id'),
                       'errors', (select coalesce(jsonb_agg(error || jsonb_build_object('detail', echoed(error ->> 'detail'))
                                                            order by place), '[]')
                                    from jsonb_array_elements(result -> 'errors') with ordinality as e(error, place)
                                   where place <= 20)) order by position)
              from jsonb_array_elements(p_results) with ordinality as r(result, position));
end $$;

-- As `echoed` in upsert_svc/payloads.py cuts what a caller sent.
create or replace function echoed(p_text text) returns text
language sql immutable parallel safe
return case when char_length(p_text) > 255 then left(p_text, 255) || '…' else p_text end;
