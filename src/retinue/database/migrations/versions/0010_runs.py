"""Runs and the lanes of agents."""

from __future__ import annotations

from retinue.database.migrations.policies import script, tenant_table

revision = "0010_runs"
down_revision = "0009_metering"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the views of runs. Every column of ``runs`` can be computed again from the run's stream."""
    script("""
    CREATE TABLE runs (
        tenant_id     uuid NOT NULL,
        run_id        uuid NOT NULL,
        session_id    uuid NOT NULL,
        agent_id      uuid NOT NULL,
        owner_id      uuid NOT NULL,
        reply_id      uuid NOT NULL,
        created_at    timestamptz NOT NULL,
        started_at    timestamptz,
        ended_at      timestamptz,
        cost          bigint NOT NULL DEFAULT 0,
        agent_version integer NOT NULL,
        version       integer NOT NULL,
        priority      integer NOT NULL,
        epoch         integer NOT NULL DEFAULT 0,
        attempts      integer NOT NULL DEFAULT 0,
        model_calls   integer NOT NULL DEFAULT 0,
        tool_calls    integer NOT NULL DEFAULT 0,
        input_tokens  integer NOT NULL DEFAULT 0,
        output_tokens integer NOT NULL DEFAULT 0,
        unpriced      integer NOT NULL DEFAULT 0,
        ready         boolean NOT NULL DEFAULT false,
        has_slot      boolean NOT NULL DEFAULT false,
        demo          boolean NOT NULL DEFAULT false,
        tainted       boolean NOT NULL DEFAULT false,
        status        text COLLATE "C" NOT NULL,
        parent_id     uuid,
        parent_kind   text COLLATE "C",
        parent_key    text COLLATE "C",
        waiting_on    text,
        error         text,
        PRIMARY KEY (tenant_id, run_id)
    ) WITH (fillfactor = 85);
    CREATE INDEX runs_of_owner ON runs (tenant_id, owner_id, run_id);
    CREATE INDEX runs_of_session ON runs (tenant_id, session_id, run_id);
    CREATE INDEX runs_open ON runs (tenant_id, agent_id, status)
        WHERE status IN ('queued', 'running', 'waiting', 'dead_lettered');

    -- One row an agent: the exact count of its slots, kept under the row's lock.
    CREATE TABLE lanes (
        tenant_id   uuid NOT NULL,
        agent_id    uuid NOT NULL,
        running     integer NOT NULL DEFAULT 0 CHECK (running >= 0),
        queued      integer NOT NULL DEFAULT 0 CHECK (queued >= 0),
        paused      boolean NOT NULL DEFAULT false,
        stopped     boolean NOT NULL DEFAULT false,
        last_failed boolean NOT NULL DEFAULT false,
        PRIMARY KEY (tenant_id, agent_id)
    ) WITH (fillfactor = 50);

    -- Exact-match answers of models, for agents that switch it on; never across tenants.
    CREATE TABLE model_answers (
        tenant_id  uuid NOT NULL,
        digest     bytea NOT NULL,
        answer     text NOT NULL,
        expires_at timestamptz NOT NULL,
        PRIMARY KEY (tenant_id, digest)
    );
    """)
    for table in ("runs", "lanes", "model_answers"):
        tenant_table(table)
