"""Operations and the policy of a tenant for them."""

from __future__ import annotations

from retinue.database.migrations.policies import script, tenant_table

revision = "0018_operations"
down_revision = "0017_artifacts"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables of the room ``operations``, and let a lane have a bound that its row itself tells."""
    script("""
    -- The attempt is the fence: whoever ends an operation holds the row's lock and must have the newest attempt.
    CREATE TABLE operations (
        tenant_id    uuid NOT NULL,
        operation_id uuid NOT NULL,
        owner_id     uuid NOT NULL,
        run_id       uuid NOT NULL,
        grant_id     uuid,
        caller_run   uuid,
        created_at   timestamptz NOT NULL,
        started_at   timestamptz,
        ended_at     timestamptz,
        cost         bigint NOT NULL DEFAULT 0,
        version      integer NOT NULL,
        attempt      integer NOT NULL DEFAULT 0,
        worker_id    uuid,
        status       text COLLATE "C" NOT NULL,
        phase        text COLLATE "C" NOT NULL DEFAULT '',
        driver       text COLLATE "C" NOT NULL,
        application  text NOT NULL,
        level        text COLLATE "C",
        cancel_cause text COLLATE "C",
        kind         text COLLATE "C",
        PRIMARY KEY (tenant_id, operation_id)
    ) WITH (fillfactor = 85);
    CREATE INDEX operations_of_owner ON operations (tenant_id, owner_id, operation_id);
    CREATE INDEX operations_of_grant ON operations (tenant_id, grant_id, operation_id) WHERE grant_id IS NOT NULL;
    CREATE INDEX operations_open ON operations (tenant_id, operation_id) WHERE ended_at IS NULL;

    -- Small files that came with a request, sealed; they go when the operation does not need them any more.
    CREATE TABLE operation_files (
        tenant_id    uuid NOT NULL,
        operation_id uuid NOT NULL,
        name         text NOT NULL,
        key_id       uuid NOT NULL,
        wrapped      bytea NOT NULL,
        sealed       bytea NOT NULL,
        PRIMARY KEY (tenant_id, operation_id, name)
    );

    CREATE TABLE operation_policies (
        tenant_id uuid PRIMARY KEY,
        version   integer NOT NULL,
        policy    text NOT NULL
    );

    -- Where it is set, it bounds the lane whatever the definitions of the runs in it say.
    ALTER TABLE lanes ADD COLUMN most integer;
    """)
    tenant_table("operations", "SELECT, INSERT, UPDATE")
    for table in ("operation_files", "operation_policies"):
        tenant_table(table)
