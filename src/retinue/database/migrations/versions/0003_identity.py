"""Users, logins and API keys.

Users and logins belong to no tenant. The application's role cannot read these tables: it calls functions that each
answer one question. API keys belong to a tenant and a user; the owner's role may look one up by its hash, because a
caller's tenant is not known before its key is.
"""

from __future__ import annotations

from retinue.database.migrations.policies import grant_function, script, tenant_table

revision = "0003_identity"
down_revision = "0002_dispatch"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables and the functions of the room ``identity``."""
    script(_TABLES)
    tenant_table("api_keys", "SELECT, INSERT, UPDATE")
    script("CREATE POLICY routing ON api_keys FOR SELECT TO CURRENT_USER USING (true)")
    script(_USERS)
    script(_LOGINS)
    script(_KEYS)
    for signature in _FUNCTIONS:
        grant_function(signature)


_TABLES = """
CREATE TABLE users (
    user_id         uuid PRIMARY KEY,
    home_tenant     uuid NOT NULL,
    email           text COLLATE "C" UNIQUE,  -- NFKC, case-folded; null when an issuer did not verify one
    name            text NOT NULL,
    password_hash   text,                     -- null for users of an external issuer
    session_version integer NOT NULL DEFAULT 1,
    created_at      timestamptz NOT NULL
);
CREATE TABLE user_issuers (
    issuer  text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    user_id uuid NOT NULL REFERENCES users,
    PRIMARY KEY (issuer, subject)
);
CREATE TABLE logins (
    login_id        uuid PRIMARY KEY,
    user_id         uuid NOT NULL REFERENCES users,
    session_version integer NOT NULL,
    generation      integer NOT NULL DEFAULT 1,  -- which refresh token of the family is the live one
    started_at      timestamptz NOT NULL,
    refreshed_at    timestamptz NOT NULL,
    expires_at      timestamptz NOT NULL,
    ended_at        timestamptz,
    end_reason      text
);
CREATE INDEX logins_of_user ON logins (user_id);
CREATE TABLE api_keys (
    tenant_id    uuid NOT NULL,
    key_id       uuid NOT NULL,
    user_id      uuid NOT NULL,
    name         text NOT NULL,
    hint         text NOT NULL,
    digest       bytea NOT NULL,
    scopes       text[],
    created_at   timestamptz NOT NULL,
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz,
    replaced_by  uuid,
    PRIMARY KEY (tenant_id, key_id),
    FOREIGN KEY (tenant_id, replaced_by) REFERENCES api_keys
);
CREATE INDEX api_keys_by_digest ON api_keys (digest);
CREATE INDEX api_keys_of_user ON api_keys (tenant_id, user_id);
"""

_USERS = """
CREATE FUNCTION identity_add_user(
    p_user uuid, p_home uuid, p_email text, p_name text, p_password_hash text, p_now timestamptz
) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    INSERT INTO users (user_id, home_tenant, email, name, password_hash, created_at)
        VALUES (p_user, p_home, p_email, p_name, p_password_hash, p_now) ON CONFLICT (email) DO NOTHING;
    RETURN FOUND;
END $$;

CREATE FUNCTION identity_find_for_login(p_email text)
RETURNS TABLE (r_user uuid, r_home uuid, r_password_hash text, r_version integer)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    RETURN QUERY SELECT user_id, home_tenant, password_hash, session_version FROM users WHERE email = p_email;
END $$;

CREATE FUNCTION identity_find_by_email(p_email text)
RETURNS uuid LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    RETURN (SELECT user_id FROM users WHERE email = p_email);
END $$;

CREATE FUNCTION identity_people(p_users uuid[])
RETURNS TABLE (r_user uuid, r_home uuid, r_email text, r_name text, r_created_at timestamptz)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    RETURN QUERY SELECT user_id, home_tenant, email, name, created_at FROM users WHERE user_id = ANY (p_users);
END $$;

-- A new hash for the same password. Nothing happens when the password was changed in the meantime.
CREATE FUNCTION identity_rehash(p_user uuid, p_former text, p_fresh text)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    UPDATE users SET password_hash = p_fresh WHERE user_id = p_user AND password_hash = p_former;
END $$;

CREATE FUNCTION identity_find_external(p_issuer text, p_subject text)
RETURNS TABLE (r_user uuid, r_home uuid)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    RETURN QUERY SELECT u.user_id, u.home_tenant FROM user_issuers i JOIN users u USING (user_id)
        WHERE i.issuer = p_issuer AND i.subject = p_subject;
END $$;

-- Makes the user of an issuer's subject. False when somebody else just made it. An e-mail that is already in use is
-- left out: accounts are never joined by e-mail.
CREATE FUNCTION identity_add_external(
    p_issuer text, p_subject text, p_user uuid, p_home uuid, p_email text, p_name text, p_now timestamptz
) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(p_issuer || ' ' || p_subject, 0));
    IF EXISTS (SELECT 1 FROM user_issuers WHERE issuer = p_issuer AND subject = p_subject) THEN
        RETURN false;
    END IF;
    IF NOT identity_add_user(p_user, p_home, p_email, p_name, NULL, p_now) THEN
        PERFORM identity_add_user(p_user, p_home, NULL, p_name, NULL, p_now);
    END IF;
    INSERT INTO user_issuers (issuer, subject, user_id) VALUES (p_issuer, p_subject, p_user);
    RETURN true;
END $$;
"""

_LOGINS = """
CREATE FUNCTION identity_start_login(
    p_login uuid, p_user uuid, p_version integer, p_now timestamptz, p_expires timestamptz
) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    DELETE FROM logins WHERE user_id = p_user
        AND (ended_at < p_now - interval '30 days' OR expires_at < p_now - interval '30 days');
    INSERT INTO logins (login_id, user_id, session_version, started_at, refreshed_at, expires_at)
        SELECT p_login, p_user, p_version, p_now, p_now, p_expires FROM users
        WHERE user_id = p_user AND session_version = p_version;
    RETURN FOUND;
END $$;

-- Takes one refresh token and says what became of it. An earlier token of a living family means that it was stolen
-- from the client or from the thief; the family ends either way.
CREATE FUNCTION identity_refresh(p_login uuid, p_generation integer, p_now timestamptz, p_expires timestamptz)
RETURNS TABLE (r_outcome text, r_version integer, r_generation integer)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    v_login   logins;
    v_version integer;
BEGIN
    SELECT * INTO v_login FROM logins WHERE login_id = p_login FOR UPDATE;
    SELECT session_version INTO v_version FROM users WHERE user_id = v_login.user_id;
    IF v_login.login_id IS NULL OR v_login.ended_at IS NOT NULL OR v_login.expires_at <= p_now
            OR v_login.session_version <> v_version OR p_generation > v_login.generation THEN
        RETURN QUERY SELECT 'ended', 0, 0;
    ELSIF p_generation < v_login.generation THEN
        UPDATE logins SET ended_at = p_now, end_reason = 'reuse' WHERE login_id = p_login;
        RETURN QUERY SELECT 'reused', 0, 0;
    ELSE
        UPDATE logins SET generation = p_generation + 1, refreshed_at = p_now, expires_at = p_expires
            WHERE login_id = p_login;
        RETURN QUERY SELECT 'rotated', v_version, p_generation + 1;
    END IF;
END $$;

CREATE FUNCTION identity_end_login(p_login uuid, p_user uuid, p_reason text, p_now timestamptz)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    UPDATE logins SET ended_at = p_now, end_reason = p_reason
        WHERE login_id = p_login AND user_id = p_user AND ended_at IS NULL;
    RETURN FOUND;
END $$;

-- Changes the password if it is still the one that was checked, and ends every login of the user at once.
CREATE FUNCTION identity_change_password(p_user uuid, p_former text, p_fresh text)
RETURNS integer LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE v_version integer;
BEGIN
    UPDATE users SET password_hash = p_fresh, session_version = session_version + 1
        WHERE user_id = p_user AND password_hash = p_former RETURNING session_version INTO v_version;
    RETURN v_version;
END $$;

CREATE FUNCTION identity_password_hash(p_user uuid)
RETURNS text LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    RETURN (SELECT password_hash FROM users WHERE user_id = p_user);
END $$;
"""

_KEYS = """
-- The tenant of a key; all that may be known of a key before its tenant is entered.
CREATE FUNCTION identity_key_home(p_digest bytea)
RETURNS uuid LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    RETURN (SELECT tenant_id FROM api_keys WHERE digest = p_digest);
END $$;
"""

_FUNCTIONS = (
    "identity_add_user(uuid, uuid, text, text, text, timestamptz)",
    "identity_find_for_login(text)",
    "identity_find_by_email(text)",
    "identity_people(uuid[])",
    "identity_rehash(uuid, text, text)",
    "identity_find_external(text, text)",
    "identity_add_external(text, text, uuid, uuid, text, text, timestamptz)",
    "identity_start_login(uuid, uuid, integer, timestamptz, timestamptz)",
    "identity_refresh(uuid, integer, timestamptz, timestamptz)",
    "identity_end_login(uuid, uuid, text, timestamptz)",
    "identity_change_password(uuid, text, text)",
    "identity_password_hash(uuid)",
    "identity_key_home(bytea)",
)
