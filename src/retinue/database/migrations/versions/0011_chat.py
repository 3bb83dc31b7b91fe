"""Conversations and their messages."""

from __future__ import annotations

from retinue.database.migrations.policies import script, tenant_table

revision = "0011_chat"
down_revision = "0010_runs"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the views of the chat room; both can be computed again from the sessions' streams."""
    script("""
    CREATE TABLE sessions (
        tenant_id     uuid NOT NULL,
        session_id    uuid NOT NULL,
        owner_id      uuid NOT NULL,
        active_run_id uuid,
        created_at    timestamptz NOT NULL,
        changed_at    timestamptz NOT NULL,
        version       integer NOT NULL,
        messages      integer NOT NULL DEFAULT 0,
        line          integer NOT NULL DEFAULT 0 CHECK (line >= 0),
        deleted       boolean NOT NULL DEFAULT false,
        title         text NOT NULL,
        PRIMARY KEY (tenant_id, session_id)
    ) WITH (fillfactor = 70);
    CREATE INDEX sessions_of_owner ON sessions (tenant_id, owner_id, session_id);

    CREATE TABLE messages (
        tenant_id  uuid NOT NULL,
        session_id uuid NOT NULL,
        ordinal    integer NOT NULL,
        message_id uuid NOT NULL,
        run_id     uuid,
        agent_id   uuid,
        created_at timestamptz NOT NULL,
        role       text COLLATE "C" NOT NULL,
        status     text COLLATE "C" NOT NULL,
        content    text NOT NULL,
        PRIMARY KEY (tenant_id, session_id, ordinal)
    );

    -- Which run of a session comes next: runs of one session take turns, by place and then by age. An interruption
    -- goes before everybody who waits.
    CREATE TABLE session_turns (
        tenant_id  uuid NOT NULL,
        session_id uuid NOT NULL,
        run_id     uuid NOT NULL,
        place      integer NOT NULL DEFAULT 0,
        PRIMARY KEY (tenant_id, session_id, run_id)
    );
    """)
    for table in ("sessions", "messages", "session_turns"):
        tenant_table(table)
