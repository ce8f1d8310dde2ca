"""Alembic's migrations of a gallery's tables."""
