-- name: claim
-- One object with something to purge that no other process is at.
select account_id, object_id, version, removals, purged_to, deleted_at
  from objects
 where removals is not null or deleted_at is not null
 order by account_id, object_id
 limit 1
   for no key update skip locked;

-- name: forget_lookups
-- Part of what removed lookup fields pointed to; answers how many. Whoever deletes such a record now is not waited for.
with gone as (
    delete from lookup_values
     where ctid = any (array(
           select ctid from lookup_values
            where account_id = :account_id
              and field_id = any (array(
                  select (removal ->> 'field_id')::integer from jsonb_array_elements(:removals::jsonb) as removal
                   where removal ? 'field_id'))
            limit :limit
              for update skip locked))
 returning 1)
select count(*) from gone;

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
       and r.record_id = any (array(select record_id from next))),
forgotten as (
    delete from search_documents d
     where d.account_id = :account_id and d.object_id = :object_id
       and d.record_id = any (array(select record_id from next))),
pointing_nowhere as (
    delete from lookup_values v
     where v.account_id = :account_id and v.object_id = :object_id
       and v.record_id = any (array(select record_id from next)))
select max(record_id) from next;

-- name: move_on
update objects set purged_to = :purged_to where account_id = :account_id and object_id = :object_id;

-- name: finish_removals
-- Whatever was removed during the pass had it start again, so nothing is left.
update objects set purged_to = '', removals = null where account_id = :account_id and object_id = :object_id;

-- name: delete_history
-- Part of the changes and tombstones of an object without records; answers how many.
with changes_gone as (
    delete from changes
     where ctid = any (array(
           select ctid from changes where account_id = :account_id and object_id = :object_id limit :limit))
 returning 1),
tombstones_gone as (
    delete from tombstones
     where ctid = any (array(
           select ctid from tombstones where account_id = :account_id and object_id = :object_id limit :limit))
 returning 1)
select (select count(*) from changes_gone) + (select count(*) from tombstones_gone);

-- name: finish_object
delete from objects where account_id = :account_id and object_id = :object_id;

-- name: forget_tombstones
-- With the changes of their records, the latest first. Of a record with many changes some go, and its tombstone leads to
-- the next. Answers whether there may be more.
with recursive old as (
    select * from tombstones
     where account_id = any (select account_id from accounts) and deleted_at < now() - tombstone_retention()
     limit :limit),
history as (
    select account_id, object_id, record_id, changed_in as transaction_id, version, 1 as depth from old
     union all
    select c.account_id, c.object_id, c.record_id, c.previous_transaction_id, c.version - 1, h.depth + 1
      from history h
     cross join lateral (
           select * from changes
            where account_id = h.account_id and object_id = h.object_id and transaction_id = h.transaction_id
              and record_id = h.record_id and version = h.version
           offset 0) as c
     where c.previous_transaction_id is not null and h.depth <= :depth_limit),
history_gone as (
    delete from changes c
     using history h
     where c.account_id = h.account_id and c.object_id = h.object_id and c.transaction_id = h.transaction_id
       and c.record_id = h.record_id and c.version = h.version and h.depth <= :depth_limit),
shortened as (
    update tombstones t
       set changed_in = h.transaction_id, version = h.version
      from history h
     where t.account_id = h.account_id and t.object_id = h.object_id and t.record_id = h.record_id
       and h.depth > :depth_limit
 returning t.account_id, t.object_id, t.record_id),
gone as (
    delete from tombstones t
     using old
     where t.account_id = old.account_id and t.object_id = old.object_id and t.record_id = old.record_id
       and not exists (select from history h
                        where h.account_id = old.account_id and h.object_id = old.object_id
                          and h.record_id = old.record_id and h.depth > :depth_limit)
 returning 1)
select exists (select from shortened) or (select count(*) from gone) = :limit;

-- name: forget_answers
delete from idempotency_keys
 where ctid = any (array(
       select ctid from idempotency_keys
        where account_id = any (select account_id from accounts) and created_at < now() - answer_retention()
        limit :limit));

-- name: forget_jobs
delete from jobs
 where ctid = any (array(
       select ctid from jobs
        where account_id = any (select account_id from accounts) and finished_at < now() - job_retention()
        limit :limit));

-- name: forget_queue_log
-- What the library notes of the queue and never reads again.
delete from pgqueuer.log
 where ctid = any (array(select ctid from pgqueuer.log where created < now() - job_retention() limit :limit));
