"""Artifacts, their keys, and uploads under way."""

from __future__ import annotations

revision = "0017_artifacts"
down_revision = "0016_grants"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables of the room ``artifacts``."""
