-- What the service may ask for and not list: a token by its hash, one of its own keys by its name, when a user was
-- made. They run as the owner; their tables are found when they are made, so that no search_path of a caller leads
-- them elsewhere.

-- Whose token it is; no row when it is unknown or revoked. By the hash alone: the account comes from the credential.
create or replace function find_principal(token_hash bytea)
    returns table (account_id integer, user_id integer, email text, role text, token_id integer)
    language sql stable security definer
begin atomic
    select u.account_id, u.user_id, u.email, u.role, t.token_id
      from tokens t
      join users u using (account_id, user_id)
     where t.token_hash = find_principal.token_hash and t.revoked_at is null;
end;

create or replace function service_key(name text) returns bytea
    language sql stable security definer
begin atomic
    select k.secret from service_keys k where k.name = service_key.name;
end;

create or replace function user_created_at(account_id integer, user_id integer) returns timestamptz
    language sql stable security definer
begin atomic
    select u.created_at from users u
     where u.account_id = user_created_at.account_id and u.user_id = user_created_at.user_id;
end;

revoke execute on function find_principal(bytea), service_key(text), user_created_at(integer, integer) from public;
grant execute on function find_principal(bytea), service_key(text), user_created_at(integer, integer) to upsert_svc;
