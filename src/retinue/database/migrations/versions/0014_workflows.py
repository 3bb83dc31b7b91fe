"""Workflows, their triggers, and callbacks."""

from __future__ import annotations

from retinue.database.migrations.policies import script, tenant_table

revision = "0014_workflows"
down_revision = "0013_board"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the views of the room ``workflows``."""
    script("""
    CREATE TABLE workflows (
        tenant_id   uuid NOT NULL,
        workflow_id uuid NOT NULL,
        owner_id    uuid NOT NULL,
        name        text COLLATE "C" NOT NULL,
        number      integer NOT NULL,
        revision    integer NOT NULL,
        description text NOT NULL,
        created_at  timestamptz NOT NULL,
        changed_at  timestamptz NOT NULL,
        deleted_at  timestamptz,
        PRIMARY KEY (tenant_id, workflow_id)
    );
    CREATE UNIQUE INDEX workflows_name ON workflows (tenant_id, name) WHERE deleted_at IS NULL;

    CREATE TABLE workflow_versions (
        tenant_id   uuid NOT NULL,
        workflow_id uuid NOT NULL,
        number      integer NOT NULL,
        content     text NOT NULL,
        source      text NOT NULL,
        applied_by  text NOT NULL,
        created_at  timestamptz NOT NULL,
        PRIMARY KEY (tenant_id, workflow_id, number),
        FOREIGN KEY (tenant_id, workflow_id) REFERENCES workflows (tenant_id, workflow_id)
    );

    CREATE TABLE workflow_triggers (
        tenant_id    uuid NOT NULL,
        trigger_key  uuid NOT NULL,
        workflow_id  uuid NOT NULL,
        trigger_id   text COLLATE "C" NOT NULL,
        kind         text COLLATE "C" NOT NULL,
        event        text COLLATE "C",
        next_at      timestamptz,
        last_at      timestamptz,
        last_plan_id uuid,
        last_error   text,
        PRIMARY KEY (tenant_id, trigger_key),
        FOREIGN KEY (tenant_id, workflow_id) REFERENCES workflows (tenant_id, workflow_id)
    );
    CREATE INDEX workflow_triggers_of ON workflow_triggers (tenant_id, workflow_id);

    -- Messages that a webhook has taken: a second one of the same id is a replay.
    CREATE TABLE workflow_hook_messages (
        tenant_id   uuid NOT NULL,
        trigger_key uuid NOT NULL,
        message_id  text COLLATE "C" NOT NULL,
        received_at timestamptz NOT NULL,
        PRIMARY KEY (tenant_id, trigger_key, message_id)
    );

    -- Up to which position a tenant's events were looked at. It moves in the transaction of the plans they started.
    CREATE TABLE workflow_listeners (
        tenant_id uuid NOT NULL,
        position  bigint NOT NULL,
        listening boolean NOT NULL,
        PRIMARY KEY (tenant_id)
    );

    CREATE TABLE workflow_callbacks (
        tenant_id    uuid NOT NULL,
        callback_id  uuid NOT NULL,
        plan_id      uuid NOT NULL,
        workflow_id  uuid NOT NULL,
        owner_id     uuid NOT NULL,
        status       text COLLATE "C" NOT NULL,
        attempts     integer NOT NULL,
        revision     integer NOT NULL,
        url          text NOT NULL,
        body         text NOT NULL,
        reason       text,
        due_at       timestamptz NOT NULL,
        leased_until timestamptz,
        created_at   timestamptz NOT NULL,
        ended_at     timestamptz,
        PRIMARY KEY (tenant_id, callback_id)
    );
    CREATE INDEX workflow_callbacks_by_status ON workflow_callbacks (tenant_id, owner_id, status, callback_id);
    """)
    tables = ("workflows", "workflow_versions", "workflow_triggers", "workflow_hook_messages", "workflow_listeners")
    for table in (*tables, "workflow_callbacks"):
        tenant_table(table)
