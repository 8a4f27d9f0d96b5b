-- name: write
-- The results come in no order.
select position, outcome, blamed_fields, record_id, name, external_id, fields, version,
       created_at, updated_at, created_by_user_id, updated_by_user_id
  from unnest(write_records(:account_id, :by, :writes));

-- name: delete
select delete_record(:account_id, :object_id, :by, :identifier, :user_id);

-- name: missing_targets
-- Of the lookup values sent, the fields whose target record does not exist.
select t.field_key
  from unnest(:field_keys::text[], :object_keys::text[], :record_ids::text[])
       as t(field_key, object_key, record_id)
 where find_record(:account_id, (select o.object_id from objects o
                                  where o.account_id = :account_id and o.key = t.object_key
                                    and o.deleted_at is null), 'record_id', t.record_id) is null;

-- name: show
select r.record_id, r.name, r.external_id, shown_fields(o, r.fields, r.definition_version) as fields, r.version,
       r.created_at, r.updated_at, r.created_by_user_id, r.updated_by_user_id
  from objects o
 cross join lateral (
       select * from records
        where account_id = o.account_id and object_id = o.object_id and record_id = :record_id
       offset 0) as r  -- by its whole key; a join might be planned to read all records
 where o.account_id = :account_id and o.key = :object_key and o.deleted_at is null;

-- name: list
-- The listing adds its conditions, order and limit.
select r.record_id, r.name, r.external_id,
       shown_fields((select o from objects o where o.account_id = :account_id and o.object_id = :object_id),
                    r.fields, r.definition_version) as fields,
       r.version, r.created_at, r.updated_at, r.created_by_user_id, r.updated_by_user_id
  from records r
 where r.account_id = :account_id
   and r.object_id = (select case when o.deleted_at is null then o.object_id end from objects o
                       where o.account_id = :account_id and o.object_id = :object_id);

-- name: count
select count(*) from records where account_id = :account_id and object_id = :object_id;
