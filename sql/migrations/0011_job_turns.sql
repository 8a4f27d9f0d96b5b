-- Jobs are carried on by accounts in turn: the oldest unfinished one of each is looked up by its key.

create index jobs_unfinished_idx on jobs (account_id, job_id) where finished_at is null;
drop index jobs_touched_at_idx;
