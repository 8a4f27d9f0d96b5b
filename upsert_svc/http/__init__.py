"""HTTP/1.1 within bounds: connections, the requests on them, and what they may hold together."""
