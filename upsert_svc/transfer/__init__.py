"""Files in and out of a running service: a client of the HTTP API that imports nothing of the core."""
