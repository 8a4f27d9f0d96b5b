-- What was written to records: where to begin reading it, and a page of it.

-- The time of a change that counts for a start_time: it falls by a minute at most, whatever the clock does.
create or replace function change_time(p_changed_at timestamptz, p_effective_at timestamptz) returns timestamptz
language sql immutable parallel safe
return coalesce(p_effective_at, p_changed_at);

-- The first transaction of an object's changes that wrote at a time or later, or a later one that is under way; all
-- that comes after it is to be read, whatever its time.
--
-- The ids and the times rise together, but for a minute, and for what a long transaction wrote. So half of the changes
-- left are out of the question with each look, down to ten minutes before the time; then the changes from some way
-- before are gone through. Where the time is not among so many, the export begins early rather than late.
create or replace function first_transaction_since(p_account_id integer, p_object_id integer, p_time timestamptz) returns xid8
language plpgsql stable as $$
declare
    c_back    constant integer := 10000;
    c_forward constant integer := 100000;
    v_low     bigint := (select c.transaction_id::text from changes c
                          where c.account_id = p_account_id and c.object_id = p_object_id
                          order by c.transaction_id limit 1);
    v_high    bigint := (select c.transaction_id::text from changes c
                          where c.account_id = p_account_id and c.object_id = p_object_id
                          order by c.transaction_id desc limit 1);
    v_middle  bigint;
    v_found   record;
    v_first   xid8;
    v_oldest  xid8 := pg_snapshot_xmin(pg_current_snapshot());
begin
    while v_low < v_high loop
        v_middle := v_low + (v_high - v_low) / 2;
        select c.transaction_id::text::bigint as transaction_id, change_time(c.changed_at, c.effective_at) as at
          into v_found
          from changes c
         where c.account_id = p_account_id and c.object_id = p_object_id
           and c.transaction_id >= v_middle::text::xid8
         order by c.transaction_id
         limit 1;
        if v_found.at < p_time - interval '10 minutes' then
            v_low := v_found.transaction_id + 1;
        else
            v_high := v_middle;
        end if;
    end loop;
    v_first := coalesce(
        (select min(transaction_id)
           from (select c.transaction_id from changes c
                  where c.account_id = p_account_id and c.object_id = p_object_id
                    and c.transaction_id < v_low::text::xid8
                  order by c.transaction_id desc
                  limit c_back) as before),
        v_low::text::xid8, v_oldest);
    for v_found in
        select c.transaction_id, change_time(c.changed_at, c.effective_at) as at from changes c
         where c.account_id = p_account_id and c.object_id = p_object_id and c.transaction_id >= v_first
         order by c.transaction_id
         limit c_forward
    loop
        v_first := v_found.transaction_id;
        exit when v_found.at >= p_time;
    end loop;
    if v_found.at < p_time and not exists (
            select from changes c
             where c.account_id = p_account_id and c.object_id = p_object_id and c.transaction_id > v_first) then
        v_first := v_oldest;  -- there is nothing yet
    end if;
    -- never past a transaction under way, whose changes are not to be seen yet
    return least(v_first, v_oldest);
end $$;

-- A page of an incremental export: the records and tombstones whose last change is among the next ones, in the order of
-- their changes, and last a row without a name that says how far the page has come and whether there is more. A change that
-- another followed is passed over: its record comes later. What a transaction under way writes is not shown before all
-- earlier transactions have ended.
--
-- The page is full with so many records, or so many bytes of them, and ends in any case after so many changes. The
-- changes that a restored dump brought are all of the transaction 3: of these alone it is asked when they were made.
create or replace function export_page(
    p_account_id integer, p_object_id integer, p_transaction_id xid8, p_record_id text, p_version bigint,
    p_since timestamptz, p_exclude_deleted boolean, p_scan_limit integer, p_size integer, p_bytes integer)
returns table (record_id text, name text, external_id text, fields text, version bigint, created_at timestamptz,
               updated_at timestamptz, created_by_user_id integer, updated_by_user_id integer,
               deleted_at timestamptz, transaction_id xid8, has_more boolean)
language plpgsql stable as $$
#variable_conflict use_column
declare
    v_row     record;
    v_scanned integer := 0;
    v_shown   integer := 0;
    v_bytes   integer := 0;
begin
    record_id := p_record_id;
    version := p_version;
    transaction_id := p_transaction_id;
    has_more := false;
    for v_row in
        select s.transaction_id, s.record_id as changed_record_id, s.version as changed_version, l.*
          from (select * from changes c
                 where c.account_id = p_account_id and c.object_id = p_object_id
                   and (c.transaction_id, c.record_id, c.version) > (p_transaction_id, p_record_id, p_version)
                   and c.transaction_id < pg_snapshot_xmin(pg_current_snapshot())
                 order by c.transaction_id, c.record_id, c.version
                 limit p_scan_limit) as s
         cross join lateral (
               select null_fields, inactive_fields, removals from objects
                where account_id = s.account_id and object_id = s.object_id
               offset 0) as o
          left join lateral (
               select r.name, r.external_id,
                      shown_fields(o.null_fields, o.inactive_fields, o.removals, r.fields, r.definition_version)::text
                      as fields, r.created_at, r.updated_at, r.created_by_user_id, r.updated_by_user_id,
                      null::timestamptz as deleted_at
                 from records r
                where r.account_id = s.account_id and r.object_id = s.object_id and r.record_id = s.record_id
                  and r.version = s.version and s.kind <> 'deleted'
                union all
               select '[DELETED]', t.external_id,
                      coalesce((select jsonb_object_agg(key, '[DELETED]')
                                  from jsonb_object_keys(o.null_fields) as key)::text, '{}'),
                      t.created_at, t.deleted_at, t.created_by_user_id, t.deleted_by_user_id, t.deleted_at
                 from tombstones t
                where t.account_id = s.account_id and t.object_id = s.object_id and t.record_id = s.record_id
                  and s.kind = 'deleted' and t.deleted_at > now() - tombstone_retention()
                  and not p_exclude_deleted) as l
            on s.transaction_id <> '3'
               or change_time(s.changed_at, s.effective_at) >= p_since - interval '1 minute'
         order by s.transaction_id, s.record_id, s.version
    loop
        if v_row.name is not null then
            v_bytes := v_bytes + octet_length(v_row.fields) + octet_length(v_row.name) + 500;
            has_more := v_shown = p_size or v_shown > 0 and v_bytes > p_bytes;
            exit when has_more;
            v_shown := v_shown + 1;
        end if;
        v_scanned := v_scanned + 1;
        record_id := v_row.changed_record_id;
        version := v_row.changed_version;
        transaction_id := v_row.transaction_id;
        if v_row.name is not null then
            name := v_row.name;
            external_id := v_row.external_id;
            fields := v_row.fields;
            created_at := v_row.created_at;
            updated_at := v_row.updated_at;
            created_by_user_id := v_row.created_by_user_id;
            updated_by_user_id := v_row.updated_by_user_id;
            deleted_at := v_row.deleted_at;
            return next;
        end if;
    end loop;
    has_more := has_more or v_scanned = p_scan_limit;
    name := null;
    fields := null;
    return next;
end $$;
