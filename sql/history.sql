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
           select 'custom_object_fields.' || key, value from jsonb_each(h.fields)) as a(attribute, value)),
events as (
    select version, kind, user_id, changed_at,
           -- as text, for to jsonb 1.0 and 1.00 are equal
           coalesce(jsonb_object_agg(attribute, jsonb_build_object('previous', previous, 'current', value))
                    filter (where value::text <> previous::text), '{}')::text as attributes
      from values_set
     group by version, kind, user_id, changed_at
    having case when :is_descending then version < :position else version > :position end
     order by case when :is_descending then -version else version end
     limit :limit)
select version, kind, user_id, changed_at, attributes, page_bytes
  from (select *, /*bytes_so_far*/
          from (select *, octet_length(attributes) + 500 as row_bytes from events) as e
        window page as (order by case when :is_descending then -version else version end rows unbounded preceding)) as e
 where /*within_bytes*/
 order by case when :is_descending then -version else version end;

-- name: export
select record_id, name, external_id, fields, version, created_at, updated_at, created_by_user_id, updated_by_user_id,
       deleted_at, transaction_id::text as transaction_id, has_more
  from export_page(:account_id, :object_id, :transaction_id::text::xid8, :record_id, :version, :since,
                   :exclude_deleted, :scan_limit, :limit, :byte_limit);

-- name: first_since
-- The transaction to begin with for the changes since a time.
select first_transaction_since(:account_id, :object_id, :since)::text;

-- name: timeline
-- Where transaction ids mean what they mean: another cluster, or one restored to an earlier time, gives them anew; and a
-- dump that is restored brings back a table of its own, with less in it than was read. A base backup brings all three
-- back: there the life is another one, which `migrate` has begun; a database that was never restored has none.
select (select system_identifier from pg_control_system()) || '.' || (select timeline_id from pg_control_checkpoint())
       || '.' || 'changes'::regclass::oid || coalesce('.' || encode(service_key('life'), 'hex'), '');
