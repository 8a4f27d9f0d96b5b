-- The answers to requests that came with an Idempotency-Key, for a day. Each is committed with what it tells of.
create table idempotency_keys (
    account_id   integer not null references accounts,
    key          text collate "C" not null,
    request_hash bytea not null,     -- SHA-256 of method, path, query and body
    status       smallint not null,
    headers      jsonb not null,     -- [[name, value], …]
    body         bytea not null,
    created_at   timestamptz not null default now(),
    primary key (account_id, key)
);
create index idempotency_keys_created_at_idx on idempotency_keys (account_id, created_at);

grant select, insert, update, delete on idempotency_keys to upsert_svc;
