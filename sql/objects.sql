-- name: load_definition
-- All that validating a write needs of a definition, in one row.
select o.object_id, o.version, o.is_unique, o.autoincrement_enabled,
       array(select jsonb_build_object(
                        'key', f.key, 'type', f.type, 'required', f.required, 'active', f.active,
                        'regexp_for_validation', f.regexp_for_validation,
                        'relationship_target_type', f.relationship_target_type,
                        'options', (select coalesce(jsonb_agg(option -> 'value'), '[]')
                                      from jsonb_array_elements(f.options) as option))::text
               from fields f
              where f.account_id = o.account_id and f.object_id = o.object_id and not f.system) as fields
  from objects o
 where o.account_id = :account_id and o.key = :key and o.deleted_at is null;

-- name: current_version
select object_id, version from objects where account_id = :account_id and key = :key and deleted_at is null;

-- name: lock_definition
-- Waits for the writers of the definition, and has later ones wait; see write_records.
select pg_advisory_xact_lock(:account_id, :object_id);

-- name: show_object
select * from objects where account_id = :account_id and key = :key and deleted_at is null;

-- name: list_objects
select *
  from (select *, /*bytes_so_far*/
          from (select /*object_columns*/ from objects
                 where account_id = :account_id and deleted_at is null and object_id > :after
                 order by object_id
                 limit :limit) as o
        window page as (order by object_id rows unbounded preceding)) as o
 where /*within_bytes*/
 order by object_id;

-- name: list_objects_backwards
select *
  from (select *, /*bytes_so_far*/
          from (select /*object_columns*/ from objects
                 where account_id = :account_id and deleted_at is null and object_id < :before
                 order by object_id desc
                 limit :limit) as o
        window page as (order by object_id desc rows unbounded preceding)) as o
 where /*within_bytes*/
 order by object_id desc;

-- name: count_objects
select count(*) from objects where account_id = :account_id and deleted_at is null;

-- name: insert_object
insert into objects (account_id, object_id, key, title, title_pluralized, description, include_in_list_view,
                     allows_photos, allows_attachments, created_by_user_id, updated_by_user_id)
values (:account_id, :object_id, :key, :title, :title_pluralized, :description, :include_in_list_view,
        :allows_photos, :allows_attachments, :user_id, :user_id)
returning *;

-- name: insert_counter
insert into counters (account_id, object_id, next_number) values (:account_id, :object_id, 1);

-- name: update_object
update objects
   set title = :title, title_pluralized = :title_pluralized, description = :description,
       include_in_list_view = :include_in_list_view, allows_photos = :allows_photos,
       allows_attachments = :allows_attachments, updated_at = now(), updated_by_user_id = :user_id
 where account_id = :account_id and object_id = :object_id
returning *;

-- name: update_naming
-- Refused by the records' foreign key while there is a record.
update objects
   set is_unique = :is_unique, autoincrement_enabled = :autoincrement_enabled,
       autoincrement_prefix = :autoincrement_prefix, autoincrement_padding = :autoincrement_padding,
       autoincrement_start = :autoincrement_start
 where account_id = :account_id and object_id = :object_id;

-- name: update_counter
update counters set next_number = :next_number where account_id = :account_id and object_id = :object_id;

-- name: next_number
select next_number from counters where account_id = :account_id and object_id = :object_id;

-- name: compile_definition
-- Every change of a definition ends here: what the statements need of the fields is made anew. Search documents are
-- out of date when a field that they hold is searched no more, or one that was inactive is searched again.
update objects o
   set version = o.version + 1, updated_at = now(), updated_by_user_id = :user_id,
       null_fields = coalesce((select jsonb_object_agg(f.key, null) from fields f
                                where f.account_id = o.account_id and f.object_id = o.object_id
                                  and not f.system and f.active), '{}'),
       inactive_fields = array(select f.key from fields f
                                where f.account_id = o.account_id and f.object_id = o.object_id
                                  and not f.system and not f.active),
       required_fields = array(select f.key from fields f
                                where f.account_id = o.account_id and f.object_id = o.object_id
                                  and not f.system and f.active and f.required order by f.position),
       json_fields = nullif(array(select f.key from fields f
                                where f.account_id = o.account_id and f.object_id = o.object_id
                                  and not f.system and f.type = any (:merged_types::text[])), '{}'),
       lookup_fields = nullif(array(select f.key from fields f
                                     where f.account_id = o.account_id and f.object_id = o.object_id
                                       and not f.system and starts_with(f.relationship_target_type, 'zen:custom_object:')
                                     order by f.field_id), '{}'),
       lookup_field_ids = nullif(array(select f.field_id from fields f
                                        where f.account_id = o.account_id and f.object_id = o.object_id
                                          and not f.system and starts_with(f.relationship_target_type, 'zen:custom_object:')
                                        order by f.field_id), '{}'),
       searched_fields = n.searched_fields,
       search_state = case when n.is_outdated then 'building' else o.search_state end,
       searched_since = case when n.is_outdated then o.version + 1 else o.searched_since end,
       search_built_to = case when n.is_outdated then '' else o.search_built_to end,
       removals = case when jsonb_array_length(:removals::jsonb) = 0 then o.removals
                       else coalesce(o.removals, '[]') || (
                            select jsonb_agg(removal || jsonb_build_object('version', o.version + 1))
                              from jsonb_array_elements(:removals::jsonb) as removal) end,
       purged_to = case when jsonb_array_length(:removals::jsonb) = 0 then o.purged_to else '' end
  from (select p.searched_fields,
               b.searched_since is not null and (not b.searched_fields <@ p.searched_fields
                                                 or b.inactive_fields && p.searched_fields) as is_outdated
          from objects b
         cross join lateral (
               select array(select f.key from fields f
                             where f.account_id = b.account_id and f.object_id = b.object_id
                               and not f.system and f.active and f.type = any (:searched_types::text[])
                             order by f.position) as searched_fields) as p
         where b.account_id = :account_id and b.object_id = :object_id) as n
 where o.account_id = :account_id and o.object_id = :object_id
returning o.*;

-- name: delete_object
-- Takes effect at once; the records and the row itself are purged in the background.
update objects set deleted_at = now(), version = version + 1, updated_by_user_id = :user_id, purged_to = ''
 where account_id = :account_id and object_id = :object_id;

-- name: count_records_of_account
-- Records of a deleted object count no more, though the purge has yet to come by.
select count(*)
  from objects o
  join records r using (account_id, object_id)
 where o.account_id = :account_id and o.deleted_at is null;
