"""The HTTP face of the service: an endpoint turns a request into one call of the core and an answer."""
