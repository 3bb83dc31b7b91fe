"""Policies of plans, and drafts that may be used again."""

from __future__ import annotations

from retinue.database.migrations.policies import script, tenant_table

revision = "0015_planning_policy"
down_revision = "0014_workflows"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the view of the policy and the memory of drafts. A draft is lost without harm."""
    script("""
    CREATE TABLE planning_policies (
        tenant_id uuid PRIMARY KEY,
        version   integer NOT NULL,
        policy    text NOT NULL
    );

    CREATE TABLE plan_drafts (
        tenant_id  uuid NOT NULL,
        owner_id   uuid NOT NULL,
        digest     bytea NOT NULL,
        draft      text NOT NULL,
        expires_at timestamptz NOT NULL,
        PRIMARY KEY (tenant_id, owner_id, digest)
    );
    """)
    for table in ("planning_policies", "plan_drafts"):
        tenant_table(table)
