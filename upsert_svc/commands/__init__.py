"""The commands of `upsert-svc`, a module an area; `__main__.py` puts them together."""
