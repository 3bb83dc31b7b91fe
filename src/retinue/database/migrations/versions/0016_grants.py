"""Grants of applications, and the nonces of their signed requests."""

from __future__ import annotations

revision = "0016_grants"
down_revision = "0015_planning_policy"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables of the room ``grants``."""
