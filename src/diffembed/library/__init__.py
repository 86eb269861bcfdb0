"""A person's files, made searchable."""
