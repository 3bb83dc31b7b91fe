"""Plans."""

from __future__ import annotations

revision = "0012_plans"
down_revision = "0011_chat"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables of the room."""
