"""Costs, rates and quotas."""

from __future__ import annotations

revision = "0019_costs"
down_revision = "0018_operations"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables of the room ``metering``."""
