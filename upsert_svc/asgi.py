"""What our server and our application tell each other beyond ASGI, by extensions of the scope."""

WAITED_SECONDS = "upsert_svc.waited_seconds"  # () → for how many seconds the server has listened for the body
TAKEN = "upsert_svc.taken"  # async () → when the client has taken what was sent so far, or is gone
