-- name: find_principal
select * from find_principal(:token_hash);

-- name: find_key
select service_key(:name);
