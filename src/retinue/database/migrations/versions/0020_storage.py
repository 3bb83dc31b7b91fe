"""Smaller rows and keys: much of what a turn added to the disk was ids that stand twice, and pages half empty.

**Streams of runs and sessions.** Nearly all events are on a stream ``run:<id>`` or ``session:<id>``, and the id stands
in ``run_id`` or ``session_id`` too. Rows that are written from now on leave it out of ``stream`` (36 bytes of text),
and the keys take it from its column (16 bytes). Rows that were written before stay as they are and are in the same
keys; ``ledger_stream`` returns the whole name of either.

**Keys that begin with what grows.** A B-tree fills its pages to 90% where everybody inserts at its end. Where each
tenant inserts at a place of its own, pages are split in the middle, and the lower halves stay empty for ever. The ids
of runs and sessions grow with time, for all tenants together. So these keys begin with the id and end with the tenant:
they hold the same columns, so they are as unique as before and tell a tenant as little of others.

Such a key competes with those that begin with the tenant. The planner must not take a new tenant, whom its statistics
do not name, for one without rows: then any key would seem as good. So it keeps no statistics of ``tenant_id`` there.

A server of before this revision does not find the streams that are begun after it. Nothing is released yet, so they
need not run side by side.

``runs_of_session`` held the run's id to sort by; without it all runs of a session share one entry.
"""

from __future__ import annotations

from retinue.database.migrations.policies import grant_function, script

revision = "0020_storage"
down_revision = "0019_costs"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Replace the keys and the ledger's functions. No row of ``events`` is touched."""
    script(_STREAMS)
    script(_APPEND)
    script(_FEED)
    script(_KEYS)
    grant_function("ledger_stream(text, uuid, uuid)")


_STREAMS = """
CREATE FUNCTION ledger_stream(p_stream text, p_session uuid, p_run uuid) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN p_session IS NULL AND p_run IS NULL THEN p_stream  -- cheaper than to compare texts
    WHEN p_stream = 'run:' THEN 'run:' || p_run::text
    WHEN p_stream = 'session:' THEN 'session:' || p_session::text
    ELSE p_stream END;

CREATE UNIQUE INDEX events_run ON events (run_id, version, tenant_id) WHERE starts_with(stream, 'run:');
CREATE UNIQUE INDEX events_session ON events (session_id, version, tenant_id) WHERE starts_with(stream, 'session:');
ALTER TABLE events DROP CONSTRAINT events_stream;
CREATE UNIQUE INDEX events_stream ON events (tenant_id, stream, version)
    WHERE NOT starts_with(stream, 'run:') AND NOT starts_with(stream, 'session:');
"""

_APPEND = """
-- Numbers and inserts a batch for one tenant; returns the position of its last event.
-- The head row's lock, held until commit, makes the order gapless: nobody can see 8 before 7.
-- Actor, trace and cause are the same for the whole batch; the last two are kept with its first event only.
-- The id of a run's or a session's stream is kept in its column only.
CREATE OR REPLACE FUNCTION ledger_append(
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
        IF starts_with(p_streams[i], 'run:') THEN
            SELECT version INTO v_actual FROM events
                WHERE tenant_id = p_tenant AND run_id = substr(p_streams[i], 5)::uuid AND starts_with(stream, 'run:')
                ORDER BY version DESC LIMIT 1;
        ELSIF starts_with(p_streams[i], 'session:') THEN
            SELECT version INTO v_actual FROM events
                WHERE tenant_id = p_tenant AND session_id = substr(p_streams[i], 9)::uuid
                    AND starts_with(stream, 'session:')
                ORDER BY version DESC LIMIT 1;
        ELSE
            SELECT version INTO v_actual FROM events
                WHERE tenant_id = p_tenant AND stream = p_streams[i]
                    AND NOT starts_with(stream, 'run:') AND NOT starts_with(stream, 'session:')
                ORDER BY version DESC LIMIT 1;
        END IF;
        IF coalesce(v_actual, 0) <> p_expected[i] THEN
            RAISE EXCEPTION '%: expected version %, found %', p_streams[i], p_expected[i], coalesce(v_actual, 0)
                USING ERRCODE = 'RT409';
        END IF;
        v_actual := NULL;
    END LOOP;
    INSERT INTO events (tenant_id, position, recorded_at, version, schema, owner_id, session_id, run_id,
                        actor_id, trace_id, actor, stream, type, cause, data)
        SELECT p_tenant, v_last - v_count + n, p_at, version, schema, owner, session, run,
               p_actor_id, CASE WHEN n = 1 THEN p_trace END, p_actor,
               CASE stream WHEN 'run:' || run::text THEN 'run:' WHEN 'session:' || session::text THEN 'session:'
                   ELSE stream END,
               type, CASE WHEN n = 1 THEN p_cause END, data
        FROM unnest(p_stream, p_version, p_type, p_schema, p_data, p_owner, p_session, p_run)
            WITH ORDINALITY AS e (stream, version, type, schema, data, owner, session, run, n);
    RETURN v_last;
END $$;
"""

_FEED = """
-- One round trip for a reader outside a transaction: it enters the tenant itself.
CREATE OR REPLACE FUNCTION ledger_feed(p_tenant uuid, p_after bigint, p_limit integer)
RETURNS TABLE (event_position bigint, event_version integer, event_schema smallint, event_at timestamptz,
               event_stream text, event_type text, event_data text, event_actor text, event_actor_id uuid,
               event_owner uuid, event_session uuid, event_run uuid, event_trace uuid, event_cause text)
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant::text, true);
    RETURN QUERY SELECT position, version, schema, recorded_at, ledger_stream(stream, session_id, run_id), type, data,
                        actor, actor_id, owner_id, session_id, run_id, trace_id, cause
        FROM events WHERE tenant_id = p_tenant AND position > p_after ORDER BY position LIMIT p_limit;
END $$;
"""

_KEYS = """
ALTER TABLE runs DROP CONSTRAINT runs_pkey, ADD PRIMARY KEY (run_id, tenant_id);
DROP INDEX runs_of_session;
CREATE INDEX runs_of_session ON runs (tenant_id, session_id);
ALTER TABLE messages DROP CONSTRAINT messages_pkey, ADD PRIMARY KEY (session_id, ordinal, tenant_id);
ALTER TABLE events ALTER COLUMN tenant_id SET STATISTICS 0;
ALTER TABLE runs ALTER COLUMN tenant_id SET STATISTICS 0;
ALTER TABLE messages ALTER COLUMN tenant_id SET STATISTICS 0;
DO $$
DECLARE v_table text;
BEGIN
    -- What was gathered before would stay; older versions have no function to forget it.
    IF current_setting('server_version_num')::integer >= 180000 THEN
        FOREACH v_table IN ARRAY ARRAY['events', 'runs', 'messages'] LOOP
            PERFORM pg_clear_attribute_stats('public', v_table, 'tenant_id', false);
        END LOOP;
    END IF;
END $$;
"""
