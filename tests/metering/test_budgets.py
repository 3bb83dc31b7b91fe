"""Budgets: what is reserved, spent, refused and recorded."""

from __future__ import annotations

import pytest

from retinue.database import Database
from retinue.kernel import BudgetExhausted, new_id
from tests.metering.support import DOLLAR, Spender, metering_services


@pytest.fixture
def spender(database: Database) -> Spender:
    return Spender(metering_services(database))


async def test_a_call_reserves_then_settles_for_what_it_cost(spender: Spender) -> None:
    run = new_id()
    await spender.set(spender.tenant, 10 * DOLLAR)
    await spender.set(spender.agent, 5 * DOLLAR)
    await spender.reserve(run, 2 * DOLLAR)
    for subject in (spender.tenant, spender.agent):
        budget = await spender.budget(subject)
        assert budget is not None
        assert (budget.spent, budget.reserved) == (0, 2 * DOLLAR)
    await spender.settle(run, DOLLAR)
    for subject in (spender.tenant, spender.agent):
        budget = await spender.budget(subject)
        assert budget is not None
        assert (budget.spent, budget.reserved) == (DOLLAR, 0)
    await spender.release(run)
    assert await spender.held() == 0


async def test_the_smaller_of_two_budgets_refuses_and_nothing_is_held(spender: Spender) -> None:
    await spender.set(spender.tenant, 10 * DOLLAR)
    await spender.set(spender.agent, DOLLAR)
    with pytest.raises(BudgetExhausted, match=r"agent's budget of \$1 in all has \$1 left.* may cost \$2"):
        await spender.reserve(new_id(), 2 * DOLLAR)
    tenants = await spender.budget(spender.tenant)
    assert tenants is not None
    assert tenants.reserved == 0
    assert await spender.held() == 0
