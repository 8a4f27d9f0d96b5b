-- name: list_fields
select *
  from (select *, /*bytes_so_far*/
          from (select *, /*field_bytes*/ as row_bytes
                  from described_fields
                 where account_id = :account_id and object_key = :object_key and (:include_system or not system)
                   and (position, field_id) > (:after_position, :after_id)
                 order by position, field_id
                 limit :limit) as f
        window page as (order by position, field_id rows unbounded preceding)) as f
 where /*within_bytes*/
 order by position, field_id;

-- name: list_fields_backwards
select *
  from (select *, /*bytes_so_far*/
          from (select *, /*field_bytes*/ as row_bytes
                  from described_fields
                 where account_id = :account_id and object_key = :object_key and (:include_system or not system)
                   and (position, field_id) < (:before_position, :before_id)
                 order by position desc, field_id desc
                 limit :limit) as f
        window page as (order by position desc, field_id desc rows unbounded preceding)) as f
 where /*within_bytes*/
 order by position desc, field_id desc;

-- name: show_field
-- By key or by id, whichever the path named.
select * from described_fields
 where account_id = :account_id and object_key = :object_key and (key = :field_key or field_id = :field_id);

-- name: count_fields
select count(*) as fields, count(*) filter (where type = any (:target_types::text[])) as lookups,
       coalesce(max(position) + 1, 0) as next_position
  from fields
 where account_id = :account_id and object_id = :object_id and not system;

-- name: list_patterns
-- Of an object's fields but for the one that is being changed.
select regexp_for_validation as pattern
  from fields
 where account_id = :account_id and object_id = :object_id and type = any (:pattern_types::text[])
   and field_id is distinct from :except_field_id::integer and regexp_for_validation is not null;

-- name: insert_field
insert into fields (account_id, object_id, field_id, key, type, title, description, position, active, required,
                    system, regexp_for_validation, tag, options, relationship_target_type, relationship_filter, currency)
values (:account_id, :object_id, :field_id, :key, :type, :title, :description, :position, :active, :required,
        :system, :regexp_for_validation, :tag, :options, :relationship_target_type, :relationship_filter,
        :currency);

-- name: update_field
update fields
   set title = :title, description = :description, active = :active, required = :required,
       regexp_for_validation = :regexp_for_validation, tag = :tag, options = :options,
       relationship_filter = :relationship_filter, updated_at = now()
 where account_id = :account_id and object_id = :object_id and field_id = :field_id;

-- name: delete_field
delete from fields where account_id = :account_id and object_id = :object_id and field_id = :field_id;

-- name: reorder_fields
-- The named fields come first, in the order given; the others follow as they stood.
with places as (
    select f.field_id, row_number() over (order by t.place nulls last, f.position, f.field_id) - 1 as position
      from fields f
      left join unnest(:field_ids::integer[]) with ordinality as t(field_id, place) using (field_id)
     where f.account_id = :account_id and f.object_id = :object_id and not f.system)
update fields f
   set position = p.position, updated_at = case when f.position = p.position then f.updated_at else now() end
  from places p
 where f.account_id = :account_id and f.object_id = :object_id and f.field_id = p.field_id;
