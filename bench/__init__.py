"""`make bench`: upserts over HTTP beside pgbench doing the same in plain SQL, on one server, in one run."""
