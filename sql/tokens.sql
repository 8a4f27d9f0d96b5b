-- name: ensure_account
-- The update is there to answer the row that stands.
insert into accounts (name) values (:name)
    on conflict (name) do update set name = excluded.name
returning account_id;

-- name: take_ids
-- One counter an account: the row's lock also lines up what is limited by count.
update accounts set last_id = last_id + :count where account_id = :account_id returning last_id;

-- name: ensure_user
insert into users (account_id, user_id, email, role) values (:account_id, :user_id, :email, :role)
    on conflict (account_id, email) do update set role = excluded.role
returning user_id, old.role as earlier_role;

-- name: insert_token
insert into tokens (account_id, token_id, user_id, name, token_hash, last_four)
values (:account_id, :token_id, :user_id, :name, :token_hash, :last_four)
    on conflict (token_hash) do nothing
returning token_id;

-- name: list_tokens
select t.token_id, a.name as account, u.user_id, u.email, u.role, t.name, t.last_four, t.created_at, t.revoked_at
  from tokens t
  join users u using (account_id, user_id)
  join accounts a using (account_id)
 order by t.created_at, t.account_id, t.token_id;

-- name: revoke_token
update tokens t
   set revoked_at = now()
  from accounts a
 where a.account_id = t.account_id and a.name = :account and t.token_id = :token_id and t.revoked_at is null
returning t.token_id;

-- name: revoke_earlier
update tokens t
   set revoked_at = now()
  from accounts a
 where a.account_id = t.account_id and a.name = :account and t.name = :name and t.token_id <> :token_id
   and t.revoked_at is null
returning t.token_id;

-- name: ensure_key
insert into service_keys (name, secret) values (:name, :secret) on conflict (name) do nothing;

-- name: noted_key
select secret from service_keys where name = :name;

-- name: renew_key
insert into service_keys (name, secret) values (:name, :secret) on conflict (name) do update set secret = excluded.secret;
