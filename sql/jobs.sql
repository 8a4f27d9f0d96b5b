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
-- The results of the first that have so many bytes together, and of one at least.
select job_id, object_key, action, total, progress, status, message,
       case when page_bytes <= :byte_limit then results end as results
  from (select *, /*bytes_so_far*/
          from (select *, 500 + octet_length(results) as row_bytes
                  from (select /*job_columns*/ from jobs
                         where account_id = :account_id and job_id = any (:job_ids::text[]) and /*is_kept*/
                         order by job_id
                        offset 0) as j) as j
        window page as (order by job_id rows unbounded preceding)) as j
 order by job_id;

-- name: list
select *
  from (select *, /*bytes_so_far*/
          from (select *, 500 + octet_length(results) as row_bytes
                  from (select /*job_columns*/ from jobs
                         where account_id = :account_id and job_id > :after and /*is_kept*/
                         order by job_id
                         limit :limit) as j) as j
        window page as (order by job_id rows unbounded preceding)) as j
 where /*within_bytes*/
 order by job_id;

-- name: list_backwards
select *
  from (select *, /*bytes_so_far*/
          from (select *, 500 + octet_length(results) as row_bytes
                  from (select /*job_columns*/ from jobs
                         where account_id = :account_id and job_id < :before and /*is_kept*/
                         order by job_id desc
                         limit :limit) as j) as j
        window page as (order by job_id desc rows unbounded preceding)) as j
 where /*within_bytes*/
 order by job_id desc;

-- name: claim
-- An unfinished job with its next items, until the transaction ends; none while another worker is at it. Of the
-- items the first, and as many more as have so many characters together.
select object_id, object_key, user_id, action, total, progress,
       array(select item
               from (select item, place, sum(length(item)) over (order by place) as characters
                       from unnest(items[progress + 1 : progress + :limit]) with ordinality as t(item, place)) as next
              where place = 1 or characters <= :characters
              order by place) as items
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
