-- Bulk jobs: what is asked for, how far it has come, what became of each item. The queue holds only their ids.
create table jobs (
    account_id  integer not null references accounts,
    job_id      text collate "C" not null,           -- begins with its time
    object_id   integer not null,
    object_key  text not null,
    user_id     integer not null,
    action      text not null,
    items       text[] not null,                     -- JSON, digit by digit as it was sent; none once it is finished
    total       smallint not null,
    progress    smallint not null default 0,         -- the items that have a result
    results     jsonb not null default '[]',
    status      text not null default 'queued',
    message     text,
    attempts    smallint not null default 0,         -- that failed since the last item
    created_at  timestamptz not null default now(),
    touched_at  timestamptz not null default now(),  -- by whoever works on it, or looks after it
    finished_at timestamptz,
    primary key (account_id, job_id),
    constraint jobs_job_id_check check (job_id ~ '^[0-9a-f]{32}$'),
    constraint jobs_action_check check (action in ('create', 'update', 'delete', 'delete_by_external_id',
                                                   'create_or_update_by_external_id', 'create_or_update_by_name')),
    constraint jobs_progress_check check (progress between 0 and total and progress = jsonb_array_length(results)),
    constraint jobs_status_check check (case status when 'queued' then finished_at is null and progress = 0
                                                    when 'working' then finished_at is null
                                                    when 'completed' then finished_at is not null and progress = total
                                                    when 'failed' then finished_at is not null
                                                    else false end)
);
create index jobs_touched_at_idx on jobs (account_id, touched_at) where finished_at is null;
create index jobs_finished_at_idx on jobs (account_id, finished_at) where finished_at is not null;

grant select, insert, update, delete on jobs to upsert_svc;
