-- name: lock_account
-- One at a time of an account counts its jobs and adds another.
select account_id from accounts where account_id = :account_id for no key update;

-- name: count_unfinished
select count(*) from jobs where account_id = :account_id and finished_at is null;

-- name: add
insert into jobs (account_id, job_id, object_id, object_key, user_id, action, items, total)
values (:account_id, :job_id, :object_id, :object_key, :user_id, :action, :items, cardinality(:items::text[]))
returning job_id, object_key, action, total, progress, status, message, results;

-- name: show
select job_id, object_key, action, total, progress, status, message, results
  from jobs
 where account_id = :account_id and job_id = any (:job_ids::text[])
   and (finished_at is null or finished_at > now() - job_retention())
 order by job_id;

-- name: list
select job_id, object_key, action, total, progress, status, message, results
  from jobs
 where account_id = :account_id and job_id > :after
   and (finished_at is null or finished_at > now() - job_retention())
 order by job_id
 limit :limit;

-- name: list_backwards
select job_id, object_key, action, total, progress, status, message, results
  from jobs
 where account_id = :account_id and job_id < :before
   and (finished_at is null or finished_at > now() - job_retention())
 order by job_id desc
 limit :limit;

-- name: claim
-- An unfinished job with its next items, until the transaction ends; none while another worker is at it.
select object_id, object_key, user_id, action, total, progress, items[progress + 1 : progress + :limit] as items
  from jobs
 where account_id = :account_id and job_id = :job_id and finished_at is null
   for no key update skip locked;

-- name: next_in_turn
-- Whether a job is unfinished, and the job that comes next: the oldest of the next account that nobody works for, or
-- else any. What is put aside is passed over.
select exists (select from jobs
                where account_id = :account_id and job_id = :job_id and finished_at is null) as is_unfinished,
       n.account_id, n.job_id
  from (select) as always
  left join lateral (
       (select account_id, job_id from jobs
         where finished_at is null and account_id > :last_account_id
           and account_id <> all (:busy_account_ids::integer[]) and job_id <> all (:passed_over::text[])
         order by account_id, job_id limit 1)
       union all
       (select account_id, job_id from jobs
         where finished_at is null and account_id <= :last_account_id
           and account_id <> all (:busy_account_ids::integer[]) and job_id <> all (:passed_over::text[])
         order by account_id, job_id limit 1)
       union all
       (select account_id, job_id from jobs
         where finished_at is null and job_id <> all (:passed_over::text[])
         order by account_id, job_id limit 1)
        limit 1) as n on true;

-- name: is_unfinished
select exists (select from jobs where account_id = :account_id and job_id = :job_id and finished_at is null);

-- name: move_on
update jobs
   set results = results || :results::jsonb, progress = progress + jsonb_array_length(:results::jsonb),
       status = 'working', attempts = 0, touched_at = now()
 where account_id = :account_id and job_id = :job_id;

-- name: finish
update jobs
   set status = :status, message = :message, finished_at = now(), items = '{}'
 where account_id = :account_id and job_id = :job_id and finished_at is null;

-- name: count_failure
update jobs set attempts = attempts + 1, touched_at = now()
 where account_id = :account_id and job_id = :job_id and finished_at is null
returning attempts;

-- name: requeue_stalled
-- Unfinished jobs that nobody has touched for a while. Whoever is at one holds its lock.
update jobs set touched_at = now()
 where ctid = any (array(
       select ctid from jobs
        where account_id = any (select account_id from accounts) and finished_at is null
          and touched_at < now() - make_interval(secs => :seconds)
        limit :limit
          for no key update skip locked))
returning account_id, job_id;
