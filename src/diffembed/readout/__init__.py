"""Token states -> vectors."""
