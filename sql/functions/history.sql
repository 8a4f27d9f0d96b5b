-- Where to begin reading what was written to records.

-- The first transaction of an object's changes that may be of a time or later: transactions begin in the order of
-- their ids, so half of those left are out of the question with each look.
create or replace function first_transaction_since(p_account_id integer, p_object_id integer, p_time timestamptz) returns xid8
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
