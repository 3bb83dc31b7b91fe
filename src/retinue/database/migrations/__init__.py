"""Alembic's environment and the revisions; each room has its own revision file."""
