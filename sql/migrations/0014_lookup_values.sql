-- What lookup fields point to, so that the records that point to one are found by an index.
--
-- The first change locks objects until the end of the migration: whoever was writing has committed, and whoever comes
-- then writes by the new functions. So no value is missed.

alter table objects
  add column lookup_fields text[],
  add column lookup_field_ids integer[];

create table lookup_values (
    account_id integer not null,
    object_id  integer not null,
    field_id   integer not null,
    record_id  text collate "C" not null,
    target_id  text collate "C" not null,
    primary key (account_id, object_id, record_id, field_id)
);

update objects o
   set lookup_fields = l.keys, lookup_field_ids = l.ids
  from (select f.account_id, f.object_id, array_agg(f.key order by f.field_id) as keys,
               array_agg(f.field_id order by f.field_id) as ids
          from fields f
         where not f.system and starts_with(f.relationship_target_type, 'zen:custom_object:')
         group by f.account_id, f.object_id) as l
 where o.account_id = l.account_id and o.object_id = l.object_id and o.deleted_at is null;

insert into lookup_values (account_id, object_id, field_id, record_id, target_id)
select r.account_id, r.object_id, l.field_id, r.record_id, v.target_id
  from objects o
 cross join unnest(o.lookup_fields, o.lookup_field_ids) as l(key, field_id)
  join records r on r.account_id = o.account_id and r.object_id = o.object_id
 cross join lateral (
       -- without what the definition removed since the record was written
       select r.fields ->> l.key as target_id
        where not exists (
              select from jsonb_array_elements(o.removals) as removal
               where removal ->> 'key' = l.key and r.definition_version < (removal ->> 'version')::integer)
       offset 0) as v
 where v.target_id is not null;

create index lookup_values_target_idx on lookup_values (account_id, field_id, target_id, record_id);

grant select, insert, update, delete on lookup_values to upsert_svc;
