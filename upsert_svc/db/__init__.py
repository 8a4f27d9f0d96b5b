"""PostgreSQL: connections and their pools, named statements, the embedded server."""
