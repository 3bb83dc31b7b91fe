"""Operations and the policy of a tenant for them."""

from __future__ import annotations

revision = "0018_operations"
down_revision = "0017_artifacts"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables of the room ``operations``."""
