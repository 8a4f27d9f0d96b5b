-- name: write
select outcome, blamed_fields, record_id, name, external_id, fields, version,
       created_at, updated_at, created_by_user_id, updated_by_user_id
  from write_records(:account_id, :by, :object_ids, :definition_versions, :identifiers, :record_ids,
                     :names, :external_ids, :patches, :user_ids)
 order by position;

-- name: delete
select delete_record(:account_id, :object_id, :by, :identifier, :user_id);

-- name: missing_targets
-- Of the lookup values sent, the fields whose target record does not exist.
select t.field_key
  from unnest(:field_keys::text[], :object_keys::text[], :record_ids::text[])
       as t(field_key, object_key, record_id)
 where not exists (
       select from objects o
         join records r using (account_id, object_id)
        where o.account_id = :account_id and o.key = t.object_key and o.deleted_at is null
          and r.record_id = t.record_id);

-- name: show
select r.record_id, r.name, r.external_id, shown_fields(o, r.fields, r.definition_version) as fields, r.version,
       r.created_at, r.updated_at, r.created_by_user_id, r.updated_by_user_id
  from objects o
  join records r using (account_id, object_id)
 where o.account_id = :account_id and o.key = :object_key and o.deleted_at is null
   and r.record_id = :record_id;

-- name: list
-- The listing adds its conditions, order and limit.
select r.record_id, r.name, r.external_id, shown_fields(o, r.fields, r.definition_version) as fields, r.version,
       r.created_at, r.updated_at, r.created_by_user_id, r.updated_by_user_id
  from objects o
  join records r using (account_id, object_id)
 where o.account_id = :account_id and o.key = :object_key and o.deleted_at is null;

-- name: count
select count(*) from records where account_id = :account_id and object_id = :object_id;
