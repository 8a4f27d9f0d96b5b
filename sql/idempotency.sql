-- name: lock_key
-- Held until the transaction ends, which must not wait for another of the same key.
select pg_try_advisory_xact_lock(hashtextextended(:key, :account_id));

-- name: find_answer
select request_hash, status, headers, body from idempotency_keys
 where account_id = :account_id and key = :key and created_at > now() - answer_retention();

-- name: keep_answer
-- One that stands has had its day, or it would have been found.
insert into idempotency_keys (account_id, key, request_hash, status, headers, body)
values (:account_id, :key, :request_hash, :status, :headers, :body)
    on conflict (account_id, key) do update
       set request_hash = excluded.request_hash, status = excluded.status, headers = excluded.headers,
           body = excluded.body, created_at = excluded.created_at;
