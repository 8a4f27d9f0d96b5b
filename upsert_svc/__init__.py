"""A custom-object upsert service that speaks Zendesk's dialect, on PostgreSQL."""
