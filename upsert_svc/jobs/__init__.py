"""Bulk jobs: queued, shown, and carried out by a worker."""
