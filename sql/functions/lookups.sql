-- Which records point to which: what the lookup fields of records hold, for those who ask the other way round.

-- Whether a lookup field holds something else.
create or replace function have_lookups_changed(p_lookup_fields text[], p_old jsonb, p_new jsonb) returns boolean
language plpgsql immutable parallel safe as $$
declare
    v_key text;
begin
    foreach v_key in array p_lookup_fields loop
        if p_new -> v_key is distinct from p_old -> v_key then
            return true;
        end if;
    end loop;
    return false;
end $$;

-- Notes what the records point to that the writes at these positions created or updated. Their locks are held, so nobody
-- else notes it of them.
create or replace function keep_lookups(p_account_id integer, p_writes record_write[], p_results written_record[],
                             p_positions integer[]) returns void language plpgsql as $$
begin
    with noted as materialized (
        select w.object_id, r.record_id, l.field_id, r.fields ->> l.key as target_id
          from unnest(p_results) as s
          join unnest(p_writes) as w on w.position = s.position
         cross join lateral (
               select lookup_fields, lookup_field_ids from objects
                where account_id = p_account_id and object_id = w.object_id
               offset 0) as o
         cross join lateral (
               select record_id, fields from records
                where account_id = p_account_id and object_id = w.object_id and record_id = s.record_id
               offset 0) as r
         cross join lateral unnest(o.lookup_fields, o.lookup_field_ids) as l(key, field_id)
         where s.position = any (p_positions) and s.outcome in ('created', 'updated')),
    gone as (
        delete from lookup_values
         where ctid = any (array(
               select v.ctid
                 from noted n
                cross join lateral (
                      select ctid from lookup_values
                       where account_id = p_account_id and object_id = n.object_id and record_id = n.record_id
                         and field_id = n.field_id
                      offset 0) as v
                where n.target_id is null)))
    insert into lookup_values as v (account_id, object_id, field_id, record_id, target_id)
    select p_account_id, n.object_id, n.field_id, n.record_id, n.target_id
      from noted n
     where n.target_id is not null
     order by n.object_id, n.record_id, n.field_id
        on conflict (account_id, object_id, record_id, field_id) do update
       set target_id = excluded.target_id
     where v.target_id <> excluded.target_id;
end $$;
