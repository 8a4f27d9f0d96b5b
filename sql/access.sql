-- name: find_principal
select * from find_principal(:token_hash);

-- name: find_key
select service_key(:name);

-- name: user_created_at
select user_created_at(:account_id, :user_id);
