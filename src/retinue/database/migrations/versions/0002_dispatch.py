"""Dispatch: the queue's tables, workers and activations. Ids and routing only, read across tenants."""

from __future__ import annotations

from pgqueuer.adapters.persistence.qb import QueryBuilderEnvironment
from pgqueuer.domain.settings import DBSettings, Durability

from retinue.database.migrations.policies import script
from retinue.database.roles import APPLICATION

revision = "0002_dispatch"
down_revision = "0001_ledger"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Install PgQueuer's own schema and the tables of takeover."""
    settings = DBSettings(db_schema="dispatch", durability=Durability.balanced)
    script(QueryBuilderEnvironment(settings=settings).build_install_query())
    script(f"""
    CREATE TABLE dispatch.workers (
        worker_id   uuid PRIMARY KEY,
        machine     text NOT NULL,
        pid         integer NOT NULL,
        pid_started double precision NOT NULL,
        works       boolean NOT NULL,
        started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
        beat_at     timestamptz NOT NULL DEFAULT clock_timestamp()
    );
    CREATE TABLE dispatch.activations (
        tenant_id  uuid NOT NULL,
        kind       text COLLATE "C" NOT NULL,
        subject_id uuid NOT NULL,
        worker_id  uuid NOT NULL,
        stop       text,
        PRIMARY KEY (tenant_id, kind, subject_id)
    );
    CREATE INDEX activations_of_worker ON dispatch.activations (worker_id);
    GRANT USAGE ON SCHEMA dispatch TO {APPLICATION};
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA dispatch TO {APPLICATION};
    GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA dispatch TO {APPLICATION};
    """)
