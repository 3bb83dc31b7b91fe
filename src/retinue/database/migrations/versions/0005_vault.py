"""Keys and secrets, all of them sealed: the database alone opens none."""

from __future__ import annotations

from retinue.database.migrations.policies import grant, grant_function, script, tenant_table

revision = "0005_vault"
down_revision = "0004_tenancy"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables of the room ``vault``."""
    script("""
    -- One row: the server's own key, wrapped by the root key. It is the check value of the root key too.
    CREATE TABLE server_keys (
        only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
        root_id  text NOT NULL,
        wrapped  bytea NOT NULL
    );
    CREATE TABLE tenant_keys (
        tenant_id  uuid NOT NULL,
        key_id     uuid NOT NULL,
        root_id    text COLLATE "C" NOT NULL,
        wrapped    bytea NOT NULL,
        created_at timestamptz NOT NULL,
        PRIMARY KEY (tenant_id, key_id)
    );
    CREATE TABLE secrets (
        tenant_id  uuid NOT NULL,
        purpose    text COLLATE "C" NOT NULL,
        name       text COLLATE "C" NOT NULL,
        key_id     uuid NOT NULL,
        sealed     bytea NOT NULL,
        created_at timestamptz NOT NULL,
        changed_at timestamptz NOT NULL,
        PRIMARY KEY (tenant_id, purpose, name),
        FOREIGN KEY (tenant_id, key_id) REFERENCES tenant_keys
    );
    """)
    grant("server_keys", "SELECT, INSERT, UPDATE")
    tenant_table("tenant_keys", "SELECT, INSERT, UPDATE")
    tenant_table("secrets")
    script("""
    CREATE POLICY routing ON tenant_keys FOR SELECT TO CURRENT_USER USING (true);

    -- Which tenants have keys under another root key than the given one: ids only, for a rotation.
    CREATE FUNCTION vault_tenants_to_rewrap(p_root text, p_limit integer)
    RETURNS SETOF uuid LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    BEGIN
        RETURN QUERY SELECT DISTINCT k.tenant_id FROM tenant_keys k WHERE k.root_id <> p_root LIMIT p_limit;
    END $$;
    """)
    grant_function("vault_tenants_to_rewrap(text, integer)")
