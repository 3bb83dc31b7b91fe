"""Artifacts, their keys, and uploads under way.

``loose_blobs`` lists every blob of the store that nothing owns: one that is being written, one whose owner is gone.
A blob is listed before it is written, so that after any crash the list tells what is to be removed.
"""

from __future__ import annotations

from retinue.database.migrations.policies import script, tenant_table

revision = "0017_artifacts"
down_revision = "0016_grants"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables of the room ``artifacts``."""
    script(_ARTIFACTS)
    tenant_table("artifacts", "SELECT, INSERT, UPDATE")
    script(_KEYS)
    tenant_table("artifact_keys", "SELECT, INSERT, UPDATE, DELETE")
    tenant_table("artifact_recipients", "SELECT, INSERT, DELETE")
    script(_INCOMING)
    tenant_table("incoming_artifacts", "SELECT, INSERT, UPDATE, DELETE")
    tenant_table("loose_blobs", "SELECT, INSERT, UPDATE, DELETE")
    tenant_table("storage_used", "SELECT, INSERT, UPDATE")
    tenant_table("storage_accruals", "SELECT, INSERT, UPDATE, DELETE")
    script(_UPLOADS)
    tenant_table("uploads", "SELECT, INSERT, UPDATE, DELETE")
    tenant_table("upload_parts", "SELECT, INSERT, DELETE")


_ARTIFACTS = """
CREATE TABLE artifacts (
    tenant_id    uuid NOT NULL,
    artifact_id  uuid NOT NULL,
    version      integer NOT NULL,
    owner_id     uuid NOT NULL,
    grant_id     uuid,
    operation_id uuid,
    kind         text NOT NULL,
    name         text NOT NULL,
    series_id    uuid NOT NULL,
    number       integer NOT NULL,
    media_type   text NOT NULL,
    size         bigint NOT NULL,
    sha256       bytea NOT NULL,
    stored_at    timestamptz NOT NULL,
    expires_at   timestamptz,
    held_by      text,
    held_since   timestamptz,
    hold_reason  text,
    deleted_at   timestamptz,
    deleted_for  text,
    accrued_at   timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, artifact_id),
    UNIQUE (tenant_id, series_id, number)
);
CREATE INDEX artifacts_of_owner ON artifacts (tenant_id, owner_id, artifact_id) WHERE deleted_at IS NULL;
CREATE INDEX artifacts_of_grant ON artifacts (tenant_id, grant_id, artifact_id) WHERE grant_id IS NOT NULL;
CREATE INDEX artifacts_of_operation ON artifacts (tenant_id, operation_id, artifact_id)
    WHERE operation_id IS NOT NULL;
CREATE INDEX artifacts_by_name ON artifacts (tenant_id, owner_id, name) WHERE deleted_at IS NULL;
"""

_KEYS = """
-- What deletion empties: without its row here nobody can read an artifact, wherever copies of the blob are.
CREATE TABLE artifact_keys (
    tenant_id   uuid NOT NULL,
    artifact_id uuid NOT NULL,
    key_id      uuid NOT NULL,
    wrapped     bytea NOT NULL,
    PRIMARY KEY (tenant_id, artifact_id)
);
CREATE TABLE artifact_recipients (
    tenant_id   uuid NOT NULL,
    artifact_id uuid NOT NULL,
    label       text NOT NULL,
    public_key  bytea NOT NULL,
    sealed      bytea NOT NULL,
    PRIMARY KEY (tenant_id, artifact_id, label)
);
"""

_INCOMING = """
CREATE TABLE incoming_artifacts (
    tenant_id    uuid NOT NULL,
    artifact_id  uuid NOT NULL,
    owner_id     uuid NOT NULL,
    grant_id     uuid,
    operation_id uuid,
    kind         text NOT NULL,
    name         text NOT NULL,
    version_of   text,
    reserved     bigint NOT NULL,
    expires_at   timestamptz,
    begun_at     timestamptz NOT NULL,
    media_type   text,
    size         bigint,
    sha256       bytea,
    PRIMARY KEY (tenant_id, artifact_id)
);
CREATE TABLE loose_blobs (
    tenant_id uuid NOT NULL,
    blob_id   uuid NOT NULL,
    due_at    timestamptz NOT NULL,
    doomed    boolean NOT NULL,
    tries     integer NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, blob_id)
);
CREATE TABLE storage_used (
    tenant_id uuid NOT NULL,
    user_id   uuid NOT NULL,
    used      bigint NOT NULL CHECK (used >= 0),
    PRIMARY KEY (tenant_id, user_id)
);
CREATE TABLE storage_accruals (
    tenant_id uuid NOT NULL,
    due_at    timestamptz NOT NULL,
    PRIMARY KEY (tenant_id)
);
"""

_UPLOADS = """
CREATE TABLE uploads (
    tenant_id   uuid NOT NULL,
    upload_id   uuid NOT NULL,
    owner_id    uuid NOT NULL,
    grant_id    uuid,
    actor_kind  text NOT NULL,
    actor_id    uuid,
    name        text NOT NULL,
    version_of  text,
    length      bigint NOT NULL,
    received    bigint NOT NULL,
    parts       integer NOT NULL,
    state       text NOT NULL,
    problem     text,
    artifact_id uuid,
    retention_seconds bigint,
    created_at  timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, upload_id)
);
CREATE TABLE upload_parts (
    tenant_id uuid NOT NULL,
    upload_id uuid NOT NULL,
    number    integer NOT NULL,
    blob_id   uuid NOT NULL,
    size      bigint NOT NULL,
    PRIMARY KEY (tenant_id, upload_id, number),
    FOREIGN KEY (tenant_id, upload_id) REFERENCES uploads (tenant_id, upload_id) ON DELETE CASCADE
);
"""
