"""The board and teams."""

from __future__ import annotations

revision = "0013_board"
down_revision = "0012_plans"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables of the room."""
