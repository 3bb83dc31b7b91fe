"""Workflows."""

from __future__ import annotations

revision = "0014_workflows"
down_revision = "0013_board"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables of the room."""
