"""Agents and every version of their definitions."""

from __future__ import annotations

from retinue.database.migrations.policies import script, tenant_table

revision = "0007_agents"
down_revision = "0006_web"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the views of the room ``agents``."""
    script("""
    CREATE TABLE agents (
        tenant_id  uuid NOT NULL,
        agent_id   uuid NOT NULL,
        owner_id   uuid NOT NULL,
        name_key   text NOT NULL,  -- normalised: a function under row-level security would not use the index
        version    integer NOT NULL,
        revision   integer NOT NULL,
        paused     boolean NOT NULL,
        created_at timestamptz NOT NULL,
        changed_at timestamptz NOT NULL,
        deleted_at timestamptz,
        PRIMARY KEY (tenant_id, agent_id)
    );
    CREATE UNIQUE INDEX agents_name ON agents (tenant_id, owner_id, name_key) WHERE deleted_at IS NULL;
    CREATE INDEX agents_of_owner ON agents (tenant_id, owner_id, agent_id) WHERE deleted_at IS NULL;

    CREATE TABLE agent_versions (
        tenant_id  uuid NOT NULL,
        agent_id   uuid NOT NULL,
        version    integer NOT NULL,
        definition text NOT NULL,
        created_at timestamptz NOT NULL,
        PRIMARY KEY (tenant_id, agent_id, version),
        FOREIGN KEY (tenant_id, agent_id) REFERENCES agents (tenant_id, agent_id)
    );
    """)
    tenant_table("agents", "SELECT, INSERT, UPDATE")
    tenant_table("agent_versions", "SELECT, INSERT")
