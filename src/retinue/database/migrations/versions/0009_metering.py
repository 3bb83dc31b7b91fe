"""Budgets, the reservations that hold parts of them, and usage by day."""

from __future__ import annotations

from retinue.database.migrations.policies import grant_function, script, tenant_table

revision = "0009_metering"
down_revision = "0008_approvals"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the views of the room ``metering`` and the functions of its hot path: one call, one round trip."""
    script(_TABLES)
    tenant_table("budgets", "SELECT, INSERT, UPDATE")
    tenant_table("reservations")
    tenant_table("usage_daily", "SELECT, INSERT, UPDATE")
    script(_LOCKED)
    script(_RESERVE)
    script(_SETTLE)
    script(_RELEASE)
    for signature in _FUNCTIONS:
        grant_function(signature)


_TABLES = """
-- A limit for all that one subject spends: the tenant (subject = tenant_id), or one of its agents.
CREATE TABLE budgets (
    tenant_id    uuid NOT NULL,
    subject      uuid NOT NULL,
    limit_nanos  bigint CHECK (limit_nanos >= 0),        -- NULL: taken away; the row keeps the stream's version
    spent        bigint NOT NULL CHECK (spent >= 0),     -- since period_start, with what unpriced calls count for
    reserved     bigint NOT NULL CHECK (reserved >= 0),  -- held for calls under way
    unpriced     integer NOT NULL,                       -- calls of unknown price within spent
    revision     integer NOT NULL,
    period_start date NOT NULL,
    warned       boolean NOT NULL,
    exhausted    boolean NOT NULL,
    period       text COLLATE "C" NOT NULL CHECK (period IN ('month', 'total')),
    PRIMARY KEY (tenant_id, subject)
) WITH (fillfactor = 50);

-- What one model call holds until its price is known. A settled one stays until its run ends, so that a call that
-- is settled twice counts once.
CREATE TABLE reservations (
    tenant_id uuid NOT NULL,
    run_id    uuid NOT NULL,
    step      integer NOT NULL,
    agent_id  uuid NOT NULL,
    amount    bigint NOT NULL CHECK (amount >= 0),
    by_tenant boolean NOT NULL,  -- held in the tenant's budget
    by_agent  boolean NOT NULL,  -- held in the agent's
    settled   boolean NOT NULL DEFAULT false,
    PRIMARY KEY (tenant_id, run_id, step)
);

CREATE TABLE usage_daily (
    tenant_id     uuid NOT NULL,
    day           date NOT NULL,  -- in UTC
    user_id       uuid NOT NULL,
    agent_id      uuid NOT NULL,
    model         text COLLATE "C" NOT NULL,
    calls         bigint NOT NULL,
    input_tokens  bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cost          bigint NOT NULL,  -- nano-dollars, of the calls whose price is known
    unpriced      bigint NOT NULL,  -- the other calls
    PRIMARY KEY (tenant_id, day, user_id, agent_id, model)
) WITH (fillfactor = 50);
"""

# The functions run with the caller's rights, so row-level security holds in them, and they set no search path: that
# would cost as much as their smaller statements do. Everything that moves money locks in one order: the tenant's
# budget, then the agent's, then reservations.
_LOCKED = """
-- Locks the budgets in force for an agent, the tenant's first, and begins a new month where one has come.
CREATE FUNCTION metering_locked(p_tenant uuid, p_agent uuid, p_now timestamptz) RETURNS SETOF budgets
LANGUAGE plpgsql AS $$
DECLARE
    v_month date := date_trunc('month', p_now AT TIME ZONE 'UTC')::date;
    b budgets;
BEGIN
    FOR b IN SELECT * FROM budgets WHERE subject IN (p_tenant, p_agent) AND limit_nanos IS NOT NULL
        ORDER BY subject <> p_tenant FOR UPDATE
    LOOP
        IF b.period = 'month' AND b.period_start < v_month THEN
            UPDATE budgets SET period_start = v_month, spent = 0, unpriced = 0, warned = false, exhausted = false
                WHERE subject = b.subject RETURNING * INTO b;
        END IF;
        RETURN NEXT b;
    END LOOP;
END $$;
"""

_RESERVE = """
-- Holds p_amount in every budget in force, or in none: then it returns the first budget that has no room.
CREATE FUNCTION metering_reserve(
    p_tenant uuid, p_agent uuid, p_run uuid, p_step integer, p_amount bigint, p_now timestamptz
) RETURNS SETOF budgets LANGUAGE plpgsql AS $$
DECLARE
    v_by_tenant boolean := false;
    v_by_agent  boolean := false;
    b budgets;
BEGIN
    FOR b IN SELECT * FROM metering_locked(p_tenant, p_agent, p_now) LOOP
        IF EXISTS (SELECT FROM reservations WHERE run_id = p_run AND step = p_step) THEN
            RETURN;  -- another activation of the run held it for the same call
        END IF;
        IF b.spent + b.reserved + p_amount > b.limit_nanos THEN
            RETURN NEXT b;
            RETURN;
        END IF;
        v_by_tenant := v_by_tenant OR b.subject = p_tenant;
        v_by_agent := v_by_agent OR b.subject = p_agent;
    END LOOP;
    IF NOT (v_by_tenant OR v_by_agent) THEN
        RETURN;
    END IF;
    UPDATE budgets SET reserved = reserved + p_amount
        WHERE (subject = p_tenant AND v_by_tenant) OR (subject = p_agent AND v_by_agent);
    INSERT INTO reservations (tenant_id, run_id, step, agent_id, amount, by_tenant, by_agent)
        VALUES (p_tenant, p_run, p_step, p_agent, p_amount, v_by_tenant, v_by_agent);
END $$;
"""

_SETTLE = """
-- Counts a model call and takes what it cost from the budgets in force, which it returns.
-- A price that is not known counts for what was reserved, else for p_assumed a call.
CREATE FUNCTION metering_settle(
    p_tenant uuid, p_agent uuid, p_user uuid, p_run uuid, p_step integer, p_model text, p_calls integer,
    p_input bigint, p_output bigint, p_cost bigint, p_assumed bigint, p_now timestamptz
) RETURNS SETOF budgets LANGUAGE plpgsql AS $$
DECLARE
    v_unpriced integer := CASE WHEN p_cost IS NULL THEN p_calls ELSE 0 END;
    v_budgeted boolean;
    v_held     reservations;
BEGIN
    -- A budget that is set right now is set before this call or after it: see metering.commands.
    PERFORM pg_advisory_xact_lock_shared(uuid_hash_extended(p_tenant, 9));
    v_budgeted := EXISTS (SELECT FROM budgets WHERE subject IN (p_tenant, p_agent) AND limit_nanos IS NOT NULL);
    IF v_budgeted THEN
        PERFORM FROM metering_locked(p_tenant, p_agent, p_now);
        SELECT * INTO v_held FROM reservations WHERE run_id = p_run AND step = p_step;
        IF v_held.settled THEN
            RETURN;
        END IF;
        RETURN QUERY UPDATE budgets SET spent = spent + coalesce(p_cost, v_held.amount, p_assumed * p_calls),
                reserved = reserved - CASE
                    WHEN (subject = p_tenant AND v_held.by_tenant) OR (subject = p_agent AND v_held.by_agent)
                    THEN v_held.amount ELSE 0 END,
                unpriced = unpriced + v_unpriced
            WHERE subject IN (p_tenant, p_agent) AND limit_nanos IS NOT NULL RETURNING *;
        INSERT INTO reservations (tenant_id, run_id, step, agent_id, amount, by_tenant, by_agent, settled)
            VALUES (p_tenant, p_run, p_step, p_agent, 0, false, false, true)
            ON CONFLICT (tenant_id, run_id, step) DO UPDATE
            SET amount = 0, by_tenant = false, by_agent = false, settled = true;
    END IF;
    INSERT INTO usage_daily AS u (tenant_id, day, user_id, agent_id, model, calls, input_tokens, output_tokens,
            cost, unpriced)
        VALUES (p_tenant, (p_now AT TIME ZONE 'UTC')::date, p_user, p_agent, p_model, p_calls, p_input, p_output,
            coalesce(p_cost, 0), v_unpriced)
        ON CONFLICT (tenant_id, day, user_id, agent_id, model) DO UPDATE SET
            calls = u.calls + excluded.calls, input_tokens = u.input_tokens + excluded.input_tokens,
            output_tokens = u.output_tokens + excluded.output_tokens, cost = u.cost + excluded.cost,
            unpriced = u.unpriced + excluded.unpriced;
END $$;
"""

_RELEASE = """
-- Gives back what a run still holds, and forgets which of its calls were settled.
CREATE FUNCTION metering_release(p_tenant uuid, p_run uuid, p_now timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_agent uuid := (SELECT agent_id FROM reservations WHERE run_id = p_run LIMIT 1);
BEGIN
    IF v_agent IS NULL THEN
        RETURN;
    END IF;
    PERFORM metering_locked(p_tenant, v_agent, p_now);
    WITH gone AS (DELETE FROM reservations WHERE run_id = p_run RETURNING amount, by_tenant, by_agent),
        held AS (
            SELECT coalesce(sum(amount) FILTER (WHERE by_tenant), 0) AS by_tenant,
                coalesce(sum(amount) FILTER (WHERE by_agent), 0) AS by_agent FROM gone
        )
    UPDATE budgets b SET reserved = reserved - CASE WHEN subject = p_tenant THEN h.by_tenant ELSE h.by_agent END
        FROM held h WHERE subject IN (p_tenant, v_agent) AND limit_nanos IS NOT NULL
            AND CASE WHEN subject = p_tenant THEN h.by_tenant ELSE h.by_agent END > 0;
END $$;
"""

_FUNCTIONS = (
    "metering_locked(uuid, uuid, timestamptz)",
    "metering_reserve(uuid, uuid, uuid, integer, bigint, timestamptz)",
    "metering_settle(uuid, uuid, uuid, uuid, integer, text, integer, bigint, bigint, bigint, bigint, timestamptz)",
    "metering_release(uuid, uuid, timestamptz)",
)
