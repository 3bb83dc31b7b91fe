"""The ledger: heads, events, append and the feed's reads."""

from __future__ import annotations

from retinue.database.migrations.policies import grant_function, script, tenant_table

revision = "0001_ledger"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the ledger. The application may insert events and read them, never change or delete one."""
    script("""
    CREATE TABLE heads (
        tenant_id uuid PRIMARY KEY,
        position  bigint NOT NULL
    ) WITH (fillfactor = 50);  -- one hot row a tenant: leave room for HOT updates

    -- What is known of every event without reading it stands in typed columns: ids as JSON text took three times the
    -- space. data is JSON text; nothing queries inside it.
    CREATE TABLE events (
        tenant_id   uuid NOT NULL,
        position    bigint NOT NULL,
        recorded_at timestamptz NOT NULL,
        version     integer NOT NULL,
        schema      smallint NOT NULL,
        owner_id    uuid,
        session_id  uuid,
        run_id      uuid,
        actor_id    uuid,
        trace_id    uuid,
        actor       text COLLATE "C" NOT NULL,
        stream      text COLLATE "C" NOT NULL,
        type        text COLLATE "C" NOT NULL,
        cause       text COLLATE "C",
        data        text NOT NULL,
        PRIMARY KEY (tenant_id, position),
        CONSTRAINT events_stream UNIQUE (tenant_id, stream, version)
    );

    -- Numbers and inserts a batch for one tenant; returns the position of its last event.
    -- The head row's lock, held until commit, makes the order gapless: nobody can see 8 before 7.
    -- Actor, trace and cause are the same for the whole batch; the last two are kept with its first event only.
    CREATE FUNCTION ledger_append(
        p_tenant uuid, p_streams text[], p_expected integer[],
        p_stream text[], p_version integer[], p_type text[], p_schema smallint[], p_data text[],
        p_owner uuid[], p_session uuid[], p_run uuid[],
        p_actor text, p_actor_id uuid, p_trace uuid, p_cause text, p_at timestamptz
    ) RETURNS bigint LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
    DECLARE
        v_count  integer := cardinality(p_stream);
        v_last   bigint;
        v_actual integer;
    BEGIN
        INSERT INTO heads AS h (tenant_id, position) VALUES (p_tenant, v_count)
            ON CONFLICT (tenant_id) DO UPDATE SET position = h.position + v_count
            RETURNING position INTO v_last;
        FOR i IN 1 .. cardinality(p_streams) LOOP
            SELECT version INTO v_actual FROM events
                WHERE tenant_id = p_tenant AND stream = p_streams[i] ORDER BY version DESC LIMIT 1;
            IF coalesce(v_actual, 0) <> p_expected[i] THEN
                RAISE EXCEPTION '%: expected version %, found %', p_streams[i], p_expected[i], coalesce(v_actual, 0)
                    USING ERRCODE = 'RT409';
            END IF;
            v_actual := NULL;
        END LOOP;
        INSERT INTO events (tenant_id, position, recorded_at, version, schema, owner_id, session_id, run_id,
                            actor_id, trace_id, actor, stream, type, cause, data)
            SELECT p_tenant, v_last - v_count + n, p_at, version, schema, owner, session, run,
                   p_actor_id, CASE WHEN n = 1 THEN p_trace END, p_actor, stream, type,
                   CASE WHEN n = 1 THEN p_cause END, data
            FROM unnest(p_stream, p_version, p_type, p_schema, p_data, p_owner, p_session, p_run)
                WITH ORDINALITY AS e (stream, version, type, schema, data, owner, session, run, n);
        RETURN v_last;
    END $$;

    -- An append that is a transaction by itself, or one of several in a transaction: it enters its tenant itself.
    -- In company it waits for a head only briefly, so that no tenant has to wait for another's.
    CREATE FUNCTION ledger_append_alone(
        p_tenant uuid, p_streams text[], p_expected integer[],
        p_stream text[], p_version integer[], p_type text[], p_schema smallint[], p_data text[],
        p_owner uuid[], p_session uuid[], p_run uuid[],
        p_actor text, p_actor_id uuid, p_trace uuid, p_cause text, p_at timestamptz, p_company boolean
    ) RETURNS bigint LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
    BEGIN
        PERFORM set_config('app.tenant_id', p_tenant::text, true);
        IF p_company THEN
            PERFORM set_config('lock_timeout', '100ms', true);
        END IF;
        RETURN ledger_append(p_tenant, p_streams, p_expected, p_stream, p_version, p_type, p_schema, p_data, p_owner,
                             p_session, p_run, p_actor, p_actor_id, p_trace, p_cause, p_at);
    END $$;

    -- One round trip for a reader outside a transaction: it enters the tenant itself.
    CREATE FUNCTION ledger_feed(p_tenant uuid, p_after bigint, p_limit integer)
    RETURNS TABLE (event_position bigint, event_version integer, event_schema smallint, event_at timestamptz,
                   event_stream text, event_type text, event_data text, event_actor text, event_actor_id uuid,
                   event_owner uuid, event_session uuid, event_run uuid, event_trace uuid, event_cause text)
    LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
    BEGIN
        PERFORM set_config('app.tenant_id', p_tenant::text, true);
        RETURN QUERY SELECT position, version, schema, recorded_at, stream, type, data, actor, actor_id,
                            owner_id, session_id, run_id, trace_id, cause
            FROM events WHERE tenant_id = p_tenant AND position > p_after ORDER BY position LIMIT p_limit;
    END $$;
    """)
    tenant_table("heads", "SELECT, INSERT, UPDATE")
    tenant_table("events", "SELECT, INSERT")
    script("""
    -- Positions only, for many tenants at once: how a process learns who is behind.
    CREATE FUNCTION ledger_heads(p_tenants uuid[])
    RETURNS TABLE (head_tenant uuid, head_position bigint)
    LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
    DECLARE v_tenant uuid;
    BEGIN
        FOREACH v_tenant IN ARRAY p_tenants LOOP
            PERFORM set_config('app.tenant_id', v_tenant::text, true);
            RETURN QUERY SELECT h.tenant_id, h.position FROM heads h WHERE h.tenant_id = v_tenant;
        END LOOP;
    END $$;
    """)
    batch = (
        "uuid, text[], integer[], text[], integer[], text[], smallint[], text[], uuid[], uuid[], uuid[], "
        "text, uuid, uuid, text, timestamptz"
    )
    grant_function(f"ledger_append({batch})")
    grant_function(f"ledger_append_alone({batch}, boolean)")
    grant_function("ledger_feed(uuid, bigint, integer)")
    grant_function("ledger_heads(uuid[])")
