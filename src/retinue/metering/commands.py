"""Reserve, count and limit what model calls cost.

A call under a budget reserves the most it is likely to cost before it is made, in every budget that limits it, and
settles for what it did cost in the transaction that records its answer. Whatever happens at the same time, the sum of
what is spent and reserved never passes a limit by a reservation.

Two things are not known and are said to be so. A call whose price is not known counts for what it had reserved, else
for ``RETINUE_UNPRICED_CALL_COST``, and is counted as unpriced. A call that was cut off, because its run was cancelled
or its worker died, may have cost something at its provider; what it had reserved is given back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from uuid import UUID

from retinue.kernel import Scope
from retinue.ledger import Event, append
from retinue.metering import counting, rules, views
from retinue.metering.events import BudgetChanged, BudgetRemoved, Period
from retinue.metering.pricing import server_rates
from retinue.metering.rules import Budget


@dataclass(frozen=True, slots=True)
class AgentDirectory:
    """How metering learns which agents a user has, though it does not know their room: a service of the house.

    Attributes:
        find: returns the id of the scope's user's agent with this id or name, or raises ``NotFound``.
        names: returns what agents are called, of those that the scope may see.
    """

    find: Callable[[Scope, str], Awaitable[UUID]]
    names: Callable[[Scope, Sequence[UUID]], Awaitable[Mapping[UUID, str]]]


# What runs call


async def check(scope: Scope, agent_id: UUID) -> bool:
    """Look whether an agent may go on spending. One SELECT.

    Returns:
        Whether a budget applies, so that model calls must :func:`reserve`.

    Raises:
        BudgetExhausted: the tenant's budget or the agent's is used up.
    """
    budgets = await views.in_force(scope, agent_id)
    for budget in budgets:
        if budget.used_up:
            raise rules.refusal(budget, scope.tenant_id)
    return bool(budgets)


async def reserve(scope: Scope, *, agent_id: UUID, run_id: UUID, step: int, amount: int | None) -> None:
    """Hold what a model call may cost, in the tenant's budget and the agent's, or in neither.

    Asking again for the same call, as another activation of the run does, holds nothing more.

    Args:
        agent_id: whose budget, besides the tenant's.
        run_id: the run; with ``step`` it names the call.
        step: the number of the call within the run.
        amount: nano-dollars; None where no price is known, which holds what such a call counts for.

    Raises:
        BudgetExhausted: there is no room. That the budget ran out is recorded, and kept if the scope commits.
    """
    wanted = views.assumed_price(scope) if amount is None else amount
    row = await scope.queries.fetchrow(
        "SELECT * FROM metering_reserve($1, $2, $3, $4, $5, $6)",
        scope.tenant_id,
        agent_id,
        run_id,
        step,
        wanted,
        scope.clock.now(),
    )
    if row is None:
        return
    budget = views.budget_of(row)
    if not budget.exhausted:
        await _record(scope, budget.subject, budget.revision, [rules.used_up(budget)], run_id)
    raise rules.refusal(budget, scope.tenant_id, wanted)


async def settle(
    scope: Scope,
    *,
    agent_id: UUID,
    user_id: UUID,
    run_id: UUID,
    step: int,
    model: str,
    input_tokens: int,
    output_tokens: int,
    cost: int | None,
    calls: int = 1,
    application: str = "",
    operation_id: UUID | None = None,
) -> bool:
    """Count a model call, and turn its reservation into what it cost. One statement.

    Belongs in the transaction that records the answer: that one commits once for a (run, step), and so does this.
    Under a budget, a call that is settled a second time before its run ends is not counted again even so.

    Args:
        agent_id: the agent that asked.
        user_id: the user it asked for.
        run_id: the run; with ``step`` it names the call.
        step: the number of the call within the run.
        model: which model answered.
        input_tokens: tokens it read.
        output_tokens: tokens it wrote.
        cost: nano-dollars; None when the price is not known.
        calls: how many calls these numbers are of.
        application: the application for which the user's agent asked; empty for the user's own.
        operation_id: on whose bill the call stands, if on one.

    Returns:
        whether a budget counted it. That it did is noted until the run ends: see :func:`release_run`.
    """
    budgets = await scope.queries.fetch(
        "SELECT * FROM metering_settle($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
        scope.tenant_id,
        agent_id,
        user_id,
        run_id,
        step,
        model,
        calls,
        input_tokens,
        output_tokens,
        cost,
        views.assumed_price(scope),
        scope.clock.now(),
        application,
        operation_id,
        server_rates(scope).model_call,
    )
    for row in budgets:
        budget = views.budget_of(row)
        if marks := rules.marks(budget):
            await _record(scope, budget.subject, budget.revision, marks, run_id)
    scope.uow.after_commit(partial(counting.count_cost, model, calls, cost))
    return bool(budgets)


async def release_run(scope: Scope, run_id: UUID) -> None:
    """Give back what a run still holds, and forget which of its calls are settled; it has ended, or its worker died."""
    await scope.queries.execute("SELECT metering_release($1, $2, $3)", scope.tenant_id, run_id, scope.clock.now())


# What people do


async def set_budget(scope: Scope, subject: UUID, limit: int, period: Period) -> Budget:
    """Limit what the tenant (``subject`` is its id) or one of its agents spends, to ``limit`` nano-dollars a period.

    The budget starts with what was used in its period so far.
    """
    await _hold_settling(scope)
    present = await views.locked(scope, subject)
    if present is None or (present.limit, present.period) != (limit, period):
        fact = BudgetChanged(subject=subject, limit=limit, period=period)
        await _record(scope, subject, await views.revision(scope, subject), [fact], None)
        present = await _present(scope, subject)
        if marks := rules.marks(present):
            await _record(scope, subject, present.revision, marks, None)
            present = await _present(scope, subject)
    return present


async def remove_budget(scope: Scope, subject: UUID) -> None:
    """Let the tenant or an agent spend without a limit; nothing happens where there was none."""
    present = await views.locked(scope, subject)
    if present is not None:
        await _record(scope, subject, present.revision, [BudgetRemoved(subject=subject)], None)


async def _hold_settling(scope: Scope) -> None:
    """Wait for calls that are being settled and let no other settle before this transaction ends.

    A call is settled either in a budget that is in force, or in the usage that a new budget starts with: never in
    neither. The lock is the one that ``metering_settle`` shares.
    """
    await scope.queries.execute("SELECT pg_advisory_xact_lock(uuid_hash_extended($1, 9))", scope.tenant_id)


async def _present(scope: Scope, subject: UUID) -> Budget:
    found = await views.budget_for(scope, subject)
    assert found is not None, "its projection has just written it"
    return found


async def _record(scope: Scope, subject: UUID, version: int, facts: list[Event], run_id: UUID | None) -> None:
    """Append to a budget's stream. Nobody owns what happens to the tenant's: all who may read budgets see it."""
    whose = replace(scope, user_id=None) if subject == scope.tenant_id else scope
    await append(whose, f"budget:{subject}", version, facts, run_id=run_id)
