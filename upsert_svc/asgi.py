"""What our server and our application share: extensions of the scope, by which they tell each other more than
ASGI does, and the type of every answer.
"""

WAITED_SECONDS = "upsert_svc.waited_seconds"  # () → for how many seconds the server has listened for the body
TAKEN = "upsert_svc.taken"  # async () → when the client has taken what was sent so far, or is gone
JSON_TYPE = b"application/json; charset=utf-8"  # some clients take what says no charset for latin-1
AT_ONCE = "upsert_svc.at_once"  # () has each piece of the body handed on as it comes, however small
