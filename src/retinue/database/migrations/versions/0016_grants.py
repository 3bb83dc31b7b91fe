"""Grants of applications, what was used of them, and the nonces of their signed requests.

The owner's role may read grants and members across tenants, for two questions: in which tenant is this grant, and may
those who hold live streams by grants go on.
"""

from __future__ import annotations

from retinue.database.migrations.policies import grant_function, script, tenant_table

revision = "0016_grants"
down_revision = "0015_planning_policy"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables and the functions of the room ``grants``."""
    script(_TABLES)
    tenant_table("grants", "SELECT, INSERT, UPDATE")
    tenant_table("grant_uses", "SELECT, INSERT, UPDATE")
    tenant_table("signature_nonces")
    script("CREATE POLICY routing ON grants FOR SELECT TO CURRENT_USER USING (true)")
    script(_FUNCTIONS)
    for signature in ("grants_home(uuid, text)", "tenancy_standing_grants(uuid[], uuid[], text[], timestamptz)"):
        grant_function(signature)


_TABLES = """
CREATE TABLE grants (
    tenant_id         uuid NOT NULL,
    grant_id          uuid NOT NULL,
    owner_id          uuid NOT NULL,        -- the user who granted it, and in whose name it is used
    application       text NOT NULL,
    grantee           text COLLATE "C" NOT NULL,  -- the key: ed25519:<base64url> or eip155:<address>
    seal_to           bytea,                -- an X25519 public key
    drivers           text[] NOT NULL,
    models            text[] NOT NULL,
    files             uuid[],               -- null: none but what it uploads itself
    parameters        jsonb,                -- a JSON Schema; null: anything
    uses              integer,              -- null: as often as it likes
    budget            bigint,               -- nano-dollars; null: no limit of its own
    retention_seconds bigint,
    max_seconds       integer,
    created_at        timestamptz NOT NULL,
    expires_at        timestamptz,
    revoked_at        timestamptz,
    ended             boolean NOT NULL DEFAULT false,  -- its end was recorded: revoked, or expired
    PRIMARY KEY (tenant_id, grant_id)
);
CREATE INDEX grants_by_id ON grants (grant_id);  -- whose tenant is not known yet
CREATE INDEX grants_of_owner ON grants (tenant_id, owner_id, grant_id);

-- A row for each operation, and one more for each time that it is tried again. What a grant has used is their sum: the
-- end of an operation changes its own row and waits for nobody.
CREATE TABLE grant_uses (
    tenant_id    uuid NOT NULL,
    grant_id     uuid NOT NULL,
    operation_id uuid NOT NULL,
    try          integer NOT NULL,
    reserved     bigint NOT NULL,
    cost         bigint,                    -- null: it is under way
    used_at      timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, grant_id, operation_id, try),
    FOREIGN KEY (tenant_id, grant_id) REFERENCES grants
);

CREATE TABLE signature_nonces (
    tenant_id  uuid NOT NULL,
    grantee_id uuid NOT NULL,
    nonce      text COLLATE "C" NOT NULL,
    expires_at timestamptz NOT NULL,        -- no signature with it is accepted after that
    PRIMARY KEY (tenant_id, grantee_id, nonce)
);
CREATE INDEX signature_nonces_age ON signature_nonces (tenant_id, expires_at);
"""

_FUNCTIONS = """
-- The tenant of a grant, for whoever proves to be its grantee. Another key learns nothing.
CREATE FUNCTION grants_home(p_grant uuid, p_grantee text)
RETURNS uuid LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    RETURN (SELECT tenant_id FROM grants WHERE grant_id = p_grant AND grantee = p_grantee);
END $$;

-- As tenancy_standing, for those who came in by grants.
CREATE FUNCTION tenancy_standing_grants(p_tenant uuid[], p_grant uuid[], p_grantee text[], p_now timestamptz)
RETURNS TABLE (r_n bigint, r_user uuid, r_role text, r_grant uuid)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    RETURN QUERY SELECT c.n, g.owner_id, m.role, g.grant_id
        FROM unnest(p_tenant, p_grant, p_grantee) WITH ORDINALITY AS c (tenant, grnt, grantee, n)
        JOIN grants g ON g.tenant_id = c.tenant AND g.grant_id = c.grnt AND g.grantee = c.grantee
        JOIN members m ON m.tenant_id = g.tenant_id AND m.user_id = g.owner_id
        WHERE g.revoked_at IS NULL AND (g.expires_at IS NULL OR g.expires_at > p_now);
END $$;
"""
