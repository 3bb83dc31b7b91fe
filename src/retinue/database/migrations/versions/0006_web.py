"""The web: idempotency keys and one-time tickets for live streams."""

from __future__ import annotations

from retinue.database.migrations.policies import script, tenant_table

revision = "0006_web"
down_revision = "0005_vault"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the two tables. Both hold rows for hours or seconds only."""
    script("""
    CREATE TABLE idempotency_keys (
        tenant_id   uuid NOT NULL,
        user_id     uuid NOT NULL,
        key         bytea NOT NULL,        -- a digest of the caller's key
        fingerprint bytea NOT NULL,        -- of the request it was used for
        answer      bytea,                 -- encrypted with a key derived from the caller's; null: not kept
        created_at  timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant_id, user_id, key)
    );
    CREATE INDEX idempotency_keys_age ON idempotency_keys (tenant_id, created_at);

    CREATE TABLE stream_tickets (
        tenant_id  uuid NOT NULL,
        ticket     bytea NOT NULL,         -- a digest of the secret part
        credential jsonb NOT NULL,         -- who may open a stream with it; no secret
        expires_at timestamptz NOT NULL,
        PRIMARY KEY (tenant_id, ticket)
    );
    CREATE INDEX stream_tickets_age ON stream_tickets (tenant_id, expires_at);
    """)
    tenant_table("idempotency_keys")
    tenant_table("stream_tickets")
