-- name: claim
-- One object with something to purge that no other process is at.
select account_id, object_id, version, removals, purged_to, deleted_at
  from objects
 where removals is not null or deleted_at is not null
 order by account_id, object_id
 limit 1
   for no key update skip locked;

-- name: strip_removed
-- The next records in the order of their ids, freed of what the definition removed since they were written.
with next as (
    select record_id, definition_version from records
     where account_id = :account_id and object_id = :object_id and record_id > :purged_to
     order by record_id
     limit :limit),
locked as (
    select r.record_id from records r
     where r.account_id = :account_id and r.object_id = :object_id
       and r.record_id = any (array(select record_id from next)) and r.definition_version < :version
       and r.fields ?| array(select removal ->> 'key' from jsonb_array_elements(:removals::jsonb) as removal)
     order by r.record_id
       for no key update of r),
stripped as (
    update records r
       set fields = live_fields(r.fields, r.definition_version, :removals::jsonb), definition_version = :version
     where r.account_id = :account_id and r.object_id = :object_id
       and r.record_id = any (array(select record_id from locked)))
select max(record_id) from next;

-- name: delete_records
-- By a cursor, or each batch would walk over the index entries of all that went before.
with next as (
    select record_id from records
     where account_id = :account_id and object_id = :object_id and record_id > :purged_to
     order by record_id
     limit :limit),
gone as (
    delete from records r
     where r.account_id = :account_id and r.object_id = :object_id
       and r.record_id = any (array(select record_id from next)))
select max(record_id) from next;

-- name: move_on
update objects set purged_to = :purged_to where account_id = :account_id and object_id = :object_id;

-- name: finish_removals
-- Whatever was removed during the pass had it start again, so nothing is left.
update objects set purged_to = '', removals = null where account_id = :account_id and object_id = :object_id;

-- name: finish_object
delete from objects where account_id = :account_id and object_id = :object_id;

-- name: forget_tombstones
delete from tombstones where account_id = any (select account_id from accounts)
   and deleted_at < now() - interval '30 days';

-- name: forget_answers
delete from idempotency_keys
 where ctid = any (array(
       select ctid from idempotency_keys
        where account_id = any (select account_id from accounts) and created_at < now() - interval '24 hours'
        limit :limit));
