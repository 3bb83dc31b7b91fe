"""Costs, rates and quotas."""

from __future__ import annotations

from retinue.database.migrations.policies import grant_function, script, tenant_table

revision = "0019_costs"
down_revision = "0018_operations"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables of costs in the room ``metering``, and let it count model calls by application."""
    script(_TABLES)
    tenant_table("rates", "SELECT, INSERT, UPDATE")
    tenant_table("charges", "SELECT, INSERT")
    tenant_table("operation_calls", "SELECT, INSERT, UPDATE")
    tenant_table("tiers", "SELECT, INSERT, UPDATE")
    tenant_table("quotas", "SELECT, INSERT, UPDATE")
    tenant_table("counted_operations", "SELECT, INSERT")
    script(_BY_APPLICATION)
    script(_SETTLE)
    grant_function(_SIGNATURE)


_TABLES = """
-- What a tenant's admin set; NULL stands for the server's own rate. Nano-dollars.
CREATE TABLE rates (
    tenant_id       uuid NOT NULL PRIMARY KEY,
    cpu_second      bigint CHECK (cpu_second >= 0),
    memory_gib_hour bigint CHECK (memory_gib_hour >= 0),
    storage_gib_day bigint CHECK (storage_gib_day >= 0),
    model_call      bigint CHECK (model_call >= 0),
    revision        integer NOT NULL
);

-- What was used besides models, priced when it was charged. Each key of an operation is charged once.
CREATE TABLE charges (
    tenant_id    uuid NOT NULL,
    kind         text COLLATE "C" NOT NULL CHECK (kind IN ('cpu', 'memory', 'storage')),
    key          text COLLATE "C" NOT NULL,
    operation_id uuid,
    day          date NOT NULL,  -- in UTC
    user_id      uuid NOT NULL,
    agent_id     uuid,
    application  text COLLATE "C" NOT NULL,                 -- empty: no application, the user
    quantity     numeric NOT NULL CHECK (quantity >= 0),    -- seconds of CPU time, or byte-seconds
    cost         bigint NOT NULL CHECK (cost >= 0),         -- nano-dollars
    UNIQUE NULLS NOT DISTINCT (tenant_id, operation_id, kind, key)
);
CREATE INDEX charges_by_day ON charges (tenant_id, day, user_id);

-- The model calls of an operation, for its bill. They are within usage_daily: reports read that table.
CREATE TABLE operation_calls (
    tenant_id     uuid NOT NULL,
    operation_id  uuid NOT NULL,
    model         text COLLATE "C" NOT NULL,
    calls         bigint NOT NULL,
    input_tokens  bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cost          bigint NOT NULL,  -- nano-dollars, with the rate of a call
    unpriced      bigint NOT NULL,
    PRIMARY KEY (tenant_id, operation_id, model)
) WITH (fillfactor = 50);

CREATE TABLE tiers (
    tenant_id uuid NOT NULL PRIMARY KEY,
    tier      text COLLATE "C" NOT NULL CHECK (tier IN ('free', 'pro', 'own')),
    revision  integer NOT NULL
);

-- How far a user's quota of a month is used. A row of a month that is over counts for nothing.
CREATE TABLE quotas (
    tenant_id       uuid NOT NULL,
    user_id         uuid NOT NULL,
    month           date NOT NULL,  -- its first day, in UTC
    operations      integer NOT NULL CHECK (operations >= 0),
    warned          boolean NOT NULL,  -- of operations, in this month
    exhausted       boolean NOT NULL,
    storage_warned  boolean NOT NULL,
    storage_full    boolean NOT NULL,
    PRIMARY KEY (tenant_id, user_id)
);

CREATE TABLE counted_operations (
    tenant_id    uuid NOT NULL,
    operation_id uuid NOT NULL,
    user_id      uuid NOT NULL,
    month        date NOT NULL,
    PRIMARY KEY (tenant_id, operation_id)
);
"""

_BY_APPLICATION = """
ALTER TABLE usage_daily ADD COLUMN application text COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE usage_daily ADD COLUMN call_cost bigint NOT NULL DEFAULT 0;  -- nano-dollars: what the rate of a call adds
ALTER TABLE usage_daily DROP CONSTRAINT usage_daily_pkey;
ALTER TABLE usage_daily ADD PRIMARY KEY (tenant_id, day, user_id, agent_id, model, application);
DROP FUNCTION metering_settle(
    uuid, uuid, uuid, uuid, integer, text, integer, bigint, bigint, bigint, bigint, timestamptz
);
"""

_SETTLE = """
-- Counts a model call and takes what it cost from the budgets in force, which it returns.
-- A price that is not known counts for what was reserved, else for p_assumed a call. What a call costs besides, by the
-- tenant's rate or else p_call_rate, is on bills and in reports and not in budgets: those are of what models cost.
CREATE FUNCTION metering_settle(
    p_tenant uuid, p_agent uuid, p_user uuid, p_run uuid, p_step integer, p_model text, p_calls integer,
    p_input bigint, p_output bigint, p_cost bigint, p_assumed bigint, p_now timestamptz,
    p_application text, p_operation uuid, p_call_rate bigint
) RETURNS SETOF budgets LANGUAGE plpgsql AS $$
DECLARE
    v_unpriced  integer := CASE WHEN p_cost IS NULL THEN p_calls ELSE 0 END;
    v_call_cost bigint := p_calls * coalesce((SELECT model_call FROM rates), p_call_rate);
    v_budgeted  boolean;
    v_held      reservations;
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
    IF p_calls = 0 THEN
        RETURN;  -- a reservation was given back, and nothing was used
    END IF;
    INSERT INTO usage_daily AS u (tenant_id, day, user_id, agent_id, model, application, calls, input_tokens,
            output_tokens, cost, unpriced, call_cost)
        VALUES (p_tenant, (p_now AT TIME ZONE 'UTC')::date, p_user, p_agent, p_model, p_application, p_calls, p_input,
            p_output, coalesce(p_cost, 0), v_unpriced, v_call_cost)
        ON CONFLICT (tenant_id, day, user_id, agent_id, model, application) DO UPDATE SET
            calls = u.calls + excluded.calls, input_tokens = u.input_tokens + excluded.input_tokens,
            output_tokens = u.output_tokens + excluded.output_tokens, cost = u.cost + excluded.cost,
            unpriced = u.unpriced + excluded.unpriced, call_cost = u.call_cost + excluded.call_cost;
    IF p_operation IS NOT NULL THEN
        INSERT INTO operation_calls AS o (tenant_id, operation_id, model, calls, input_tokens, output_tokens, cost,
                unpriced)
            VALUES (p_tenant, p_operation, p_model, p_calls, p_input, p_output, coalesce(p_cost, 0) + v_call_cost,
                v_unpriced)
            ON CONFLICT (tenant_id, operation_id, model) DO UPDATE SET
                calls = o.calls + excluded.calls, input_tokens = o.input_tokens + excluded.input_tokens,
                output_tokens = o.output_tokens + excluded.output_tokens, cost = o.cost + excluded.cost,
                unpriced = o.unpriced + excluded.unpriced;
    END IF;
END $$;
"""

_SIGNATURE = (
    "metering_settle(uuid, uuid, uuid, uuid, integer, text, integer, bigint, bigint, bigint, bigint, timestamptz, "
    "text, uuid, bigint)"
)
