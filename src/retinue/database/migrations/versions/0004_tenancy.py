"""Tenants and members, and the questions that are asked at the door of a tenant.

The owner's role may read both tables across tenants, for the functions below alone: which tenants has a user, and may
this login or key enter that tenant.
"""

from __future__ import annotations

from retinue.database.migrations.policies import grant_function, script, tenant_table

revision = "0004_tenancy"
down_revision = "0003_identity"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables and the functions of the room ``tenancy``."""
    script(_TABLES)
    tenant_table("tenants", "SELECT, INSERT, UPDATE")
    tenant_table("members", "SELECT, INSERT, UPDATE, DELETE")
    script("CREATE POLICY routing ON tenants FOR SELECT TO CURRENT_USER USING (true)")
    script("CREATE POLICY routing ON members FOR SELECT TO CURRENT_USER USING (true)")
    script(_ENTER)
    script(_STANDING)
    for signature in _FUNCTIONS:
        grant_function(signature)


_TABLES = """
CREATE TABLE tenants (
    tenant_id   uuid PRIMARY KEY,
    name        text NOT NULL,
    personal    boolean NOT NULL,
    created_at  timestamptz NOT NULL,
    stopped_at  timestamptz,
    stop_reason text
);
CREATE TABLE members (
    tenant_id uuid NOT NULL REFERENCES tenants,
    user_id   uuid NOT NULL,
    role      text NOT NULL CHECK (role IN ('viewer', 'member', 'manager', 'admin')),
    joined_at timestamptz NOT NULL,
    shown     boolean NOT NULL,
    PRIMARY KEY (tenant_id, user_id)
);
CREATE INDEX members_of_user ON members (user_id);
"""

_ENTER = """
CREATE FUNCTION tenancy_of_user(p_user uuid)
RETURNS TABLE (r_tenant uuid, r_name text, r_personal boolean, r_role text, r_created_at timestamptz,
               r_stopped_at timestamptz, r_stop_reason text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    RETURN QUERY SELECT t.tenant_id, t.name, t.personal, m.role, t.created_at, t.stopped_at, t.stop_reason
        FROM members m JOIN tenants t USING (tenant_id) WHERE m.user_id = p_user ORDER BY t.tenant_id;
END $$;

-- Does this login live, and what is its user in this tenant? No role: no member, or no such tenant.
CREATE FUNCTION tenancy_enter_login(
    p_user uuid, p_login uuid, p_version integer, p_tenant uuid, p_now timestamptz,
    OUT r_alive boolean, OUT r_user uuid, OUT r_role text
) LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    SELECT true, p_user, (SELECT m.role FROM members m WHERE m.tenant_id = p_tenant AND m.user_id = p_user)
        INTO r_alive, r_user, r_role
        FROM logins l JOIN users u USING (user_id)
        WHERE l.login_id = p_login AND l.user_id = p_user AND l.ended_at IS NULL AND l.expires_at > p_now
            AND l.session_version = p_version AND u.session_version = p_version;
END $$;

-- The same for a user of an external issuer, whose logins are the issuer's affair.
CREATE FUNCTION tenancy_enter_external(
    p_issuer text, p_subject text, p_tenant uuid, OUT r_alive boolean, OUT r_user uuid, OUT r_role text
) LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    SELECT true, i.user_id, (SELECT m.role FROM members m WHERE m.tenant_id = p_tenant AND m.user_id = i.user_id)
        INTO r_alive, r_user, r_role
        FROM user_issuers i WHERE i.issuer = p_issuer AND i.subject = p_subject;
END $$;

-- The same for an API key, which opens one tenant only. Its last use is noted once a minute, and never waited for.
CREATE FUNCTION tenancy_enter_key(
    p_digest bytea, p_tenant uuid, p_now timestamptz, p_note boolean,
    OUT r_alive boolean, OUT r_user uuid, OUT r_role text, OUT r_key uuid, OUT r_scopes text[]
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE v_key api_keys;
BEGIN
    SELECT * INTO v_key FROM api_keys k
        WHERE k.digest = p_digest AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > p_now);
    IF NOT FOUND THEN
        RETURN;
    END IF;
    r_alive := true; r_user := v_key.user_id; r_key := v_key.key_id; r_scopes := v_key.scopes;
    IF v_key.tenant_id <> p_tenant THEN
        RETURN;
    END IF;
    SELECT m.role INTO r_role FROM members m WHERE m.tenant_id = p_tenant AND m.user_id = v_key.user_id;
    IF p_note AND (v_key.last_used_at IS NULL OR v_key.last_used_at <= p_now - interval '1 minute') THEN
        UPDATE api_keys SET last_used_at = p_now WHERE (tenant_id, key_id) IN (
            SELECT k.tenant_id, k.key_id FROM api_keys k
            WHERE k.tenant_id = p_tenant AND k.key_id = v_key.key_id FOR UPDATE SKIP LOCKED);
    END IF;
END $$;
"""

_STANDING = """
-- Asks the three questions for many at once; element n of each array belongs to the n-th caller.
CREATE FUNCTION tenancy_standing(
    p_kind text[], p_tenant uuid[], p_user uuid[], p_login uuid[], p_version integer[], p_digest bytea[],
    p_issuer text[], p_subject text[], p_now timestamptz
) RETURNS TABLE (r_n bigint, r_alive boolean, r_user uuid, r_role text, r_key uuid, r_scopes text[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    RETURN QUERY
        SELECT c.n, e.r_alive, e.r_user, e.r_role, NULL::uuid, NULL::text[]
            FROM unnest(p_kind, p_tenant, p_user, p_login, p_version)
                WITH ORDINALITY AS c (kind, tenant, usr, login, version, n),
            LATERAL tenancy_enter_login(c.usr, c.login, c.version, c.tenant, p_now) e WHERE c.kind = 'login'
        UNION ALL
        SELECT c.n, e.r_alive, e.r_user, e.r_role, NULL::uuid, NULL::text[]
            FROM unnest(p_kind, p_tenant, p_issuer, p_subject) WITH ORDINALITY AS c (kind, tenant, issuer, subject, n),
            LATERAL tenancy_enter_external(c.issuer, c.subject, c.tenant) e WHERE c.kind = 'external'
        UNION ALL
        SELECT c.n, e.r_alive, e.r_user, e.r_role, e.r_key, e.r_scopes
            FROM unnest(p_kind, p_tenant, p_digest) WITH ORDINALITY AS c (kind, tenant, digest, n),
            LATERAL tenancy_enter_key(c.digest, c.tenant, p_now, false) e WHERE c.kind = 'key';
END $$;
"""

_FUNCTIONS = (
    "tenancy_of_user(uuid)",
    "tenancy_enter_login(uuid, uuid, integer, uuid, timestamptz)",
    "tenancy_enter_external(text, text, uuid)",
    "tenancy_enter_key(bytea, uuid, timestamptz, boolean)",
    "tenancy_standing(text[], uuid[], uuid[], uuid[], integer[], bytea[], text[], text[], timestamptz)",
)
