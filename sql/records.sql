-- name: write
-- The results come in no order.
select position, outcome, invalid_fields, record_id, name, external_id, fields, version,
       created_at, updated_at, created_by_user_id, updated_by_user_id
  from unnest(write_records(:account_id, :by, :writes));

-- name: delete
select delete_record(:account_id, :object_id, :by, :identifier, :user_id, :if_match, :if_none_match);

-- name: find_targets
-- The ids of the records that lookup values name, null where there is none. A name finds one only where
-- the names of its object are unique.
select t.field_key, find_record(:account_id, (select o.object_id from objects o
                                               where o.account_id = :account_id and o.key = t.object_key
                                                 and o.deleted_at is null), t.by, t.identifier) as record_id
  from unnest(:field_keys::text[], :object_keys::text[], :bys::text[], :identifiers::text[])
       as t(field_key, object_key, by, identifier);

-- name: without_unique_names
-- Which objects have names that find no record, because they need not be unique.
select key from objects
 where account_id = :account_id and key = any(:object_keys::text[]) and deleted_at is null and not is_unique;

-- name: show
-- Records by their ids, whoever asked for each. They are looked up by their whole key; a join might be planned
-- to read all records.
select s.place - 1 as place, o.version as definition_version, /*record_columns*/
  from unnest(:account_ids::integer[], :object_keys::text[], :record_ids::text[])
       with ordinality as s(account_id, object_key, record_id, place)
 cross join lateral (
       select * from objects
        where account_id = s.account_id and key = s.object_key and deleted_at is null
       offset 0) as o
 cross join lateral (
       select * from records
        where account_id = o.account_id and object_id = o.object_id and record_id = s.record_id
       offset 0) as r;

-- name: list
-- search/page_query.py puts the conditions, position, order and limit of a page in the place of the comments.
select /*record_columns*/
  from /*object_of_page*/
 cross join lateral (
       select * from records r
        where r.account_id = o.account_id and r.object_id = o.object_id /*conditions*/ /*position*/
       /*order*/ /*limit*/) as r
 /*end_of_page*/;

-- name: count
select count(*) from records where account_id = :account_id and object_id = :object_id;

-- name: count_chosen
-- search/page_query.py puts the conditions in the place of the comment.
select count(*) from records r where r.account_id = :account_id and r.object_id = :object_id /*conditions*/;

-- name: find
-- The id and the external_id of the record that an identifier names.
select record_id, external_id from records
 where account_id = :account_id and object_id = :object_id
   and record_id = (select find_record(:account_id, :object_id, :by, :identifier));

-- name: is_another_in_the_way
-- Whether a name or an external_id that a write asks for is held by another record than its own.
select exists (
       select from unnest(:identifiers::text[], :names::text[], :external_ids::text[])
                as w(identifier, name, external_id)
        cross join lateral (
              select coalesce(find_record(:account_id, :object_id, :by, w.identifier), '') as record_id
              offset 0) as own
        where find_record(:account_id, :object_id, 'name', w.name) <> own.record_id
           or find_record(:account_id, :object_id, 'external_id', w.external_id) <> own.record_id);

-- name: find_relationship
-- The active lookup field of an object, by key or by id, that points to the records of another one, and the object; no row
-- where there is none, or no such record.
select f.object_id, f.field_id
  from objects s
 cross join lateral (
       select object_id, field_id from fields
        where account_id = s.account_id and object_id = s.object_id and (key = :field_key or field_id = :field_id)
          and active and not system and relationship_target_type = 'zen:custom_object:' || :target_key::text
       offset 0) as f
 cross join lateral (
       select from objects t
        where t.account_id = :account_id and t.key = :target_key and t.deleted_at is null
          and find_record(:account_id, t.object_id, 'record_id', :target_id) is not null
       offset 0) as t
 where s.account_id = :account_id and s.key = :source_key and s.deleted_at is null;

-- name: list_sources
-- The records that point to one by a field; they are found in their order by an index.
select /*record_columns*/
  from /*object_of_page*/
 cross join lateral (
       select r.*
         from (select r.record_id from lookup_values r
                where r.account_id = :account_id and r.field_id = :field_id and r.target_id = :target_id /*position*/
               /*order*/ /*limit*/) as f
        cross join lateral /*record_found*/) as r
 /*end_of_page*/;
