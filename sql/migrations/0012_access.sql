-- The service's role sees less, and readiness includes writing. Tokens and keys are found by functions (access.sql).
revoke select on accounts, users, tokens, service_keys from upsert_svc;
grant select (account_id, last_id) on accounts to upsert_svc;

create table readiness (
    is_only    boolean primary key default true,
    checked_at timestamptz not null default clock_timestamp(),
    constraint readiness_is_only_check check (is_only)
);
grant select, insert, update on readiness to upsert_svc;

-- Where the owner may not do this, it is the business of whoever owns the database.
do $$
begin
    execute format('revoke temporary on database %I from public', current_database());
exception when insufficient_privilege then null;
end $$;
do $$
begin
    execute format('revoke create on schema %I from public', current_schema());
exception when insufficient_privilege then null;
end $$;
do $$
begin
    revoke execute on function lo_creat(integer), lo_create(oid), lo_from_bytea(oid, bytea) from public;
exception when insufficient_privilege then null;
end $$;
