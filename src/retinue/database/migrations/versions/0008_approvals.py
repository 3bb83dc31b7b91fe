"""Approvals and the rules learnt from them."""

from __future__ import annotations

from retinue.database.migrations.policies import script, tenant_table

revision = "0008_approvals"
down_revision = "0007_agents"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the views of the room ``approvals``."""
    script("""
    CREATE TABLE approvals (
        tenant_id        uuid NOT NULL,
        approval_id      uuid NOT NULL,
        kind             text NOT NULL,
        owner_id         uuid NOT NULL,
        run_id           uuid NOT NULL,
        session_id       uuid,
        agent_id         uuid NOT NULL,
        tool             text,
        arguments        text,
        parameters       text,
        effect           text,
        reason           text NOT NULL,
        tainted_by       text,
        question         text,
        options          text[] NOT NULL,
        status           text NOT NULL,
        created_at       timestamptz NOT NULL,
        expires_at       timestamptz NOT NULL,
        decided_at       timestamptz,
        decided_by       text,
        comment          text,
        edited_arguments text,
        answer           text,
        resume_kind      text NOT NULL,
        resume_subject   uuid NOT NULL,
        revision         integer NOT NULL,
        PRIMARY KEY (tenant_id, approval_id)
    );
    CREATE INDEX approvals_of_owner ON approvals (tenant_id, owner_id, approval_id);
    CREATE INDEX approvals_pending ON approvals (tenant_id, run_id, approval_id) WHERE status = 'pending';

    CREATE TABLE approval_rules (
        tenant_id   uuid NOT NULL,
        rule_id     uuid NOT NULL,
        owner_id    uuid NOT NULL,
        agent_id    uuid NOT NULL,
        tool        text NOT NULL,
        decision    text NOT NULL,
        approval_id uuid NOT NULL,
        created_at  timestamptz NOT NULL,
        revision    integer NOT NULL,
        PRIMARY KEY (tenant_id, rule_id),
        UNIQUE (tenant_id, agent_id, tool)
    );
    """)
    tenant_table("approvals", "SELECT, INSERT, UPDATE")
    tenant_table("approval_rules")  # UPDATE is for FOR UPDATE: a rule is locked before it is removed
