-- The words of the field for what had words of our own. The functions themselves follow, from functions/.

drop function rivals_interfered();
drop function first_of_each(text, record_write[]);
drop function unsettled(record_write[], written_record[]);

alter type written_record rename attribute blamed_fields to invalid_fields;
alter type record_change rename attribute sent to delta;

alter table objects rename column search_filled_to to search_built_to;
alter table objects rename constraint objects_search_filled_to_not_null to objects_search_built_to_not_null;
alter table objects drop constraint objects_search_state_check;
drop index objects_search_idx;
update objects
   set search_state = case search_state when 'wanted' then 'requested' when 'filling' then 'building' else 'ready' end
 where search_state is not null;
alter table objects
  add constraint objects_search_state_check check (search_state in ('requested', 'building', 'ready'));
create index objects_search_idx on objects (account_id, object_id) where search_state in ('requested', 'building');
