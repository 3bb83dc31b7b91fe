"""${message}"""

from __future__ import annotations

from retinue.database.migrations.policies import script

revision = "${up_revision}"
down_revision = "${down_revision}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    script("""
    """)
