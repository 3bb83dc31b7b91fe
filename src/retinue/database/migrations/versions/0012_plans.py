"""Plans, and approvals that belong to a plan instead of a run."""

from __future__ import annotations

from retinue.database.migrations.policies import script, tenant_table

revision = "0012_plans"
down_revision = "0011_chat"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the views of plans; every column can be computed again from the plan's stream."""
    script("""
    CREATE TABLE plans (
        tenant_id   uuid NOT NULL,
        plan_id     uuid NOT NULL,
        owner_id    uuid NOT NULL,
        session_id  uuid NOT NULL,
        workflow_id uuid,
        parent_id   uuid,
        approval_id uuid,
        created_at  timestamptz NOT NULL,
        started_at  timestamptz,
        ended_at    timestamptz,
        cost        bigint NOT NULL DEFAULT 0,
        tokens      bigint NOT NULL DEFAULT 0,
        version     integer NOT NULL,
        tasks       integer NOT NULL,
        completed   integer NOT NULL DEFAULT 0,
        failed      integer NOT NULL DEFAULT 0,
        status      text COLLATE "C" NOT NULL,
        origin      text COLLATE "C" NOT NULL,
        parent_kind text COLLATE "C",
        parent_key  text COLLATE "C",
        title       text NOT NULL,
        error       text,
        PRIMARY KEY (tenant_id, plan_id)
    ) WITH (fillfactor = 85);
    CREATE INDEX plans_of_owner ON plans (tenant_id, owner_id, plan_id);
    CREATE INDEX plans_of_session ON plans (tenant_id, session_id, plan_id);
    CREATE INDEX plans_of_workflow ON plans (tenant_id, workflow_id, plan_id) WHERE workflow_id IS NOT NULL;

    -- Tasks that wait for an event of the ledger, by its type.
    CREATE TABLE plan_waits (
        tenant_id uuid NOT NULL,
        plan_id   uuid NOT NULL,
        task_id   text NOT NULL,
        event     text COLLATE "C" NOT NULL,
        since     timestamptz NOT NULL,
        PRIMARY KEY (tenant_id, plan_id, task_id)
    );
    CREATE INDEX plan_waits_by_event ON plan_waits (tenant_id, event);

    ALTER TABLE approvals ALTER run_id DROP NOT NULL, ALTER agent_id DROP NOT NULL,
        ADD plan_id uuid, ADD task_id text, ADD assignees text[] NOT NULL DEFAULT '{}',
        ADD CHECK (run_id IS NOT NULL OR plan_id IS NOT NULL);
    CREATE INDEX approvals_of_plan ON approvals (tenant_id, plan_id, approval_id) WHERE plan_id IS NOT NULL;
    CREATE INDEX approvals_assigned ON approvals USING gin (assignees) WHERE assignees <> '{}';
    """)
    for table in ("plans", "plan_waits"):
        tenant_table(table)
