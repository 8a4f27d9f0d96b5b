-- name: write
select write_readiness();
