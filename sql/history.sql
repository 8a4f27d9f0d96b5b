-- name: events
-- A page of the changes of a record that stands, oldest first or newest first, each with the attributes that it
-- changed. What was sent with the value that it had already is left out. Of a record with very many changes the
-- latest are answered, so that it can be read at all; what an attribute was before these is left out.
with recursive history as (
    select c.*, 1 as depth
      from (select * from objects where account_id = :account_id and key = :object_key and deleted_at is null
            offset 0) as o
     cross join lateral (
           select * from records
            where account_id = o.account_id and object_id = o.object_id and record_id = :record_id
           offset 0) as r
     cross join lateral (
           select * from changes
            where account_id = r.account_id and object_id = r.object_id and transaction_id = r.changed_in
              and record_id = r.record_id and version = r.version
           offset 0) as c
     union all
    select c.*, h.depth + 1
      from history h
     cross join lateral (
           select * from changes
            where account_id = h.account_id and object_id = h.object_id
              and transaction_id = h.previous_transaction_id
              and record_id = h.record_id and version = h.version - 1
           offset 0) as c
     where h.depth < :depth_limit),
values_set as (
    select h.version, h.kind, h.user_id, h.changed_at, a.attribute, a.value,
           coalesce(lag(a.value) over (partition by a.attribute order by h.version),
                    case when exists (select from history where kind = 'created') then 'null'::jsonb end) as previous
      from history h
     cross join lateral (
           select 'name', to_jsonb(h.name)
            union all
           select 'external_id', coalesce(to_jsonb(h.external_id), 'null')
            union all
           select 'custom_object_fields.' || key, value from jsonb_each(h.fields)) as a(attribute, value))
select version, kind, user_id, changed_at,
       -- as text, for to jsonb 1.0 and 1.00 are equal
       coalesce(jsonb_object_agg(attribute, jsonb_build_object('previous', previous, 'current', value))
                filter (where value::text <> previous::text), '{}') as attributes
  from values_set
 group by version, kind, user_id, changed_at
having case when :is_descending then version < :position else version > :position end
 order by case when :is_descending then -version else version end
 limit :limit;

-- name: latest
-- The records and tombstones whose last change is among the next ones, in the order of their changes; and, where
-- these do not fill the page, how far it looked. A change that another followed is passed over: its record comes
-- later. What a transaction under way writes is not shown before all earlier transactions have ended.
with latest as materialized (
    select s.transaction_id, l.*
      from (select * from changes
             where account_id = :account_id and object_id = :object_id
               and (transaction_id, record_id, version) > (:transaction_id::text::xid8, :record_id::text, :version::bigint)
               and transaction_id < pg_snapshot_xmin(pg_current_snapshot())
             order by transaction_id, record_id, version
             limit :scan_limit) as s
     cross join lateral (
           select null_fields, inactive_fields, removals from objects
            where account_id = s.account_id and object_id = s.object_id
           offset 0) as o
     cross join lateral (
           select /*record_columns*/,
                  null::timestamptz as deleted_at
             from records r
            where r.account_id = s.account_id and r.object_id = s.object_id and r.record_id = s.record_id
              and r.version = s.version and s.kind <> 'deleted'
            union all
           select t.record_id, '[DELETED]', t.external_id,
                  coalesce((select jsonb_object_agg(key, '[DELETED]') from jsonb_object_keys(o.null_fields) as key),
                           '{}'),
                  t.version, t.created_at, t.deleted_at, t.created_by_user_id, t.deleted_by_user_id, t.deleted_at
             from tombstones t
            where t.account_id = s.account_id and t.object_id = s.object_id and t.record_id = s.record_id
              and s.kind = 'deleted' and t.deleted_at > now() - tombstone_retention()
              and not :exclude_deleted::boolean) as l
     where s.changed_at >= :since::timestamptz
     order by s.transaction_id, s.record_id, s.version
     limit :limit),
reached as (
    select transaction_id, record_id, version,
           row_number() over (order by transaction_id, record_id, version) as scanned_count
      from (select * from changes
             where account_id = :account_id and object_id = :object_id
               and (transaction_id, record_id, version) > (:transaction_id::text::xid8, :record_id::text, :version::bigint)
               and transaction_id < pg_snapshot_xmin(pg_current_snapshot())
               and (select count(*) from latest) < :limit
             order by transaction_id, record_id, version
             limit :scan_limit) as s
     order by transaction_id desc, record_id desc, version desc
     limit 1)
select l.record_id, l.name, l.external_id, l.fields, l.version, l.created_at, l.updated_at,
       l.created_by_user_id, l.updated_by_user_id, l.deleted_at, l.transaction_id::text as transaction_id,
       r.scanned_count, r.transaction_id::text as reached_transaction_id, r.record_id as reached_record_id,
       r.version as reached_version
  from (values (1)) as always
  left join reached r on true
  left join latest l on true
 order by l.transaction_id, l.record_id, l.version;

-- name: first_since
-- The transaction to begin with for the changes since a time. Transactions begin in the order of their ids, and
-- write for some minutes at most.
select first_transaction_since(:account_id, :object_id, :since::timestamptz - interval '10 minutes')::text;

-- name: timeline
-- Where transaction ids mean what they mean: another cluster, or one restored to an earlier time, gives them anew; and a
-- dump that is restored brings back a table of its own, with less in it than was read.
select (select system_identifier from pg_control_system()) || '.' || (select timeline_id from pg_control_checkpoint())
       || '.' || 'changes'::regclass::oid;
