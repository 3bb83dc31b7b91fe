"""Budgets: what is reserved, spent, refused, given back and recorded."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from retinue import metering
from retinue.database import Database
from retinue.kernel import BudgetExhausted, ManualClock, new_id
from retinue.ledger import Encoded, Feed, read_stream
from retinue.metering import views
from retinue.metering.rules import Budget
from tests.metering.support import DOLLAR, Spender, metering_services


@pytest.fixture
def spender(database: Database) -> Spender:
    return Spender(metering_services(database), ManualClock(datetime(2026, 1, 30, 12, tzinfo=UTC)))


def later(spender: Spender, by: timedelta) -> None:
    assert isinstance(spender.clock, ManualClock)
    spender.clock.advance(by)


async def present(spender: Spender, subject: UUID | None = None) -> Budget:
    found = await spender.budget(subject or spender.tenant)
    assert found is not None
    return found


async def recorded(spender: Spender, subject: UUID) -> list[str]:
    async with spender.scope() as scope:
        return [one.type for one in await read_stream(scope, f"budget:{subject}")]


async def test_without_a_budget_nothing_limits_and_nothing_is_held(spender: Spender) -> None:
    run = new_id()
    assert not await spender.check()
    await spender.reserve(run, 10**15)
    await spender.settle(run, 3 * DOLLAR)
    assert await spender.held() == 0
    used = await spender.used()
    assert (used.calls, used.input_tokens, used.output_tokens, used.cost, used.unpriced) == (1, 100, 10, 3 * DOLLAR, 0)


async def test_a_call_reserves_then_settles_for_what_it_cost(spender: Spender) -> None:
    run = new_id()
    await spender.set(spender.tenant, 10 * DOLLAR)
    await spender.set(spender.agent, 5 * DOLLAR)
    assert await spender.check()
    await spender.reserve(run, 2 * DOLLAR)
    for subject in (spender.tenant, spender.agent):
        budget = await present(spender, subject)
        assert (budget.spent, budget.reserved) == (0, 2 * DOLLAR)
    await spender.settle(run, DOLLAR)
    for subject in (spender.tenant, spender.agent):
        budget = await present(spender, subject)
        assert (budget.spent, budget.reserved) == (DOLLAR, 0)
    await spender.release(run)
    assert await spender.held() == 0


async def test_the_smaller_of_two_budgets_refuses_and_nothing_is_held(spender: Spender) -> None:
    await spender.set(spender.tenant, 10 * DOLLAR)
    await spender.set(spender.agent, DOLLAR)
    with pytest.raises(BudgetExhausted, match=r"agent's budget of \$1 in all has \$1 left.* may cost \$2"):
        await spender.reserve(new_id(), 2 * DOLLAR)
    assert (await present(spender)).reserved == 0
    await spender.set(spender.tenant, DOLLAR // 2)
    with pytest.raises(BudgetExhausted, match="tenant's budget"):
        await spender.reserve(new_id(), DOLLAR)
    assert (await present(spender, spender.agent)).reserved == 0
    assert await spender.held() == 0


async def test_a_budget_is_used_to_its_last_nano_dollar_and_then_refuses_new_runs(spender: Spender) -> None:
    run = new_id()
    await spender.set(spender.agent, DOLLAR)
    await spender.reserve(run, DOLLAR)
    await spender.settle(run, DOLLAR)
    with pytest.raises(BudgetExhausted, match="is used up"):
        await spender.check()
    with pytest.raises(BudgetExhausted, match="is used up"):
        await spender.reserve(new_id(), 1)
    assert (await present(spender, spender.agent)).spent == DOLLAR


async def test_what_is_only_reserved_does_not_refuse_a_new_run(spender: Spender) -> None:
    await spender.set(spender.agent, DOLLAR)
    await spender.reserve(new_id(), DOLLAR)
    assert await spender.check()


async def test_a_step_that_is_asked_again_holds_nothing_more(spender: Spender) -> None:
    run = new_id()
    await spender.set(spender.tenant, 3 * DOLLAR)
    for _ in range(3):
        await spender.reserve(run, 2 * DOLLAR)
    assert (await present(spender)).reserved == 2 * DOLLAR


async def test_a_step_that_is_settled_twice_counts_once(spender: Spender) -> None:
    run = new_id()
    await spender.set(spender.tenant, 3 * DOLLAR)
    await spender.reserve(run, 2 * DOLLAR)
    for _ in range(3):
        await spender.settle(run, DOLLAR)
    await spender.settle(run, DOLLAR, step=2)
    budget = await present(spender)
    assert (budget.spent, budget.reserved) == (2 * DOLLAR, 0)
    assert (await spender.used()).calls == 2


async def test_the_end_of_a_run_gives_back_what_it_holds(spender: Spender) -> None:
    run, other = new_id(), new_id()
    await spender.set(spender.tenant, 10 * DOLLAR)
    await spender.set(spender.agent, 10 * DOLLAR)
    await spender.reserve(run, DOLLAR, step=1)
    await spender.settle(run, DOLLAR, step=1)
    await spender.reserve(run, 3 * DOLLAR, step=2)
    await spender.reserve(other, DOLLAR)
    await spender.release(run)
    await spender.release(run)
    for subject in (spender.tenant, spender.agent):
        budget = await present(spender, subject)
        assert (budget.spent, budget.reserved) == (DOLLAR, DOLLAR)


async def test_an_unknown_price_counts_for_what_was_reserved_and_is_marked(spender: Spender) -> None:
    reserved, guessed, surprised = new_id(), new_id(), new_id()
    await spender.set(spender.tenant, DOLLAR)
    await spender.reserve(reserved, DOLLAR // 4)
    await spender.settle(reserved, None)
    await spender.reserve(guessed, None)
    assert (await present(spender)).reserved == DOLLAR // 100
    await spender.settle(guessed, None)
    await spender.settle(surprised, None)
    budget = await present(spender)
    assert (budget.spent, budget.reserved, budget.unpriced) == (DOLLAR // 4 + 2 * (DOLLAR // 100), 0, 3)
    used = await spender.used()
    assert (used.calls, used.cost, used.unpriced) == (3, 0, 3)


async def test_a_month_begins_anew_and_a_total_does_not(spender: Spender) -> None:
    run, waiting = new_id(), new_id()
    await spender.set(spender.tenant, DOLLAR, "month")
    await spender.set(spender.agent, 5 * DOLLAR, "total")
    await spender.reserve(waiting, DOLLAR // 10)
    await spender.settle(run, DOLLAR)
    with pytest.raises(BudgetExhausted, match="anew on 2026-02-01"):
        await spender.check()
    later(spender, timedelta(days=1, hours=11, minutes=59))
    with pytest.raises(BudgetExhausted):
        await spender.check()
    later(spender, timedelta(minutes=1))
    assert await spender.check()
    month = await present(spender)
    assert (month.spent, month.reserved, month.period_start) == (0, DOLLAR // 10, date(2026, 2, 1))
    await spender.settle(waiting, DOLLAR // 10)
    month, total = await present(spender), await present(spender, spender.agent)
    assert (month.spent, month.reserved) == (DOLLAR // 10, 0)
    assert total.spent == DOLLAR + DOLLAR // 10


async def test_a_budget_starts_with_what_its_period_has_used(spender: Spender) -> None:
    stranger = Spender(spender.services, spender.clock, tenant=spender.tenant)
    await spender.settle(new_id(), DOLLAR)
    later(spender, timedelta(days=3))
    await spender.settle(new_id(), 2 * DOLLAR)
    await spender.settle(new_id(), None)
    await stranger.settle(new_id(), 4 * DOLLAR)
    unpriced = DOLLAR // 100
    assert (await spender.set(spender.agent, 100 * DOLLAR, "month")).spent == 2 * DOLLAR + unpriced
    assert (await spender.set(spender.agent, 100 * DOLLAR, "total")).spent == 3 * DOLLAR + unpriced
    tenants = await spender.set(spender.tenant, 100 * DOLLAR, "total")
    assert (tenants.spent, tenants.unpriced) == (7 * DOLLAR + unpriced, 1)


async def test_a_new_limit_keeps_what_is_spent_and_reserved(spender: Spender) -> None:
    run = new_id()
    await spender.set(spender.tenant, 10 * DOLLAR)
    await spender.reserve(run, 2 * DOLLAR)
    await spender.settle(new_id(), None)
    before = await present(spender)
    after = await spender.set(spender.tenant, 20 * DOLLAR)
    assert (after.spent, after.reserved, after.unpriced) == (before.spent, before.reserved, before.unpriced)
    await spender.set(spender.tenant, 20 * DOLLAR)
    assert await recorded(spender, spender.tenant) == ["budget.changed", "budget.changed"]


async def test_a_budget_that_is_taken_away_limits_nothing_and_can_come_back(spender: Spender) -> None:
    run = new_id()
    await spender.set(spender.tenant, DOLLAR)
    await spender.reserve(run, DOLLAR)
    await spender.remove(spender.tenant)
    await spender.remove(spender.tenant)
    assert not await spender.check()
    assert await spender.budget(spender.tenant) is None
    assert await spender.held() == 0
    await spender.reserve(new_id(), 100 * DOLLAR)
    await spender.settle(run, DOLLAR // 2)
    back = await spender.set(spender.tenant, DOLLAR)
    assert (back.spent, back.reserved) == (DOLLAR // 2, 0)
    assert await recorded(spender, spender.tenant) == ["budget.changed", "budget.removed", "budget.changed"]


async def test_taking_one_of_two_budgets_away_leaves_the_other_right(spender: Spender) -> None:
    run = new_id()
    await spender.set(spender.tenant, 10 * DOLLAR)
    await spender.set(spender.agent, 10 * DOLLAR)
    await spender.reserve(run, 2 * DOLLAR)
    await spender.remove(spender.tenant)
    await spender.set(spender.tenant, 10 * DOLLAR)
    await spender.settle(run, DOLLAR)
    for subject in (spender.tenant, spender.agent):
        budget = await present(spender, subject)
        assert (budget.spent, budget.reserved) == (DOLLAR, 0)


async def test_marks_are_recorded_once_a_period(spender: Spender) -> None:
    await spender.set(spender.tenant, 10 * DOLLAR, "month")
    expected = ["budget.changed"]
    for cost, mark in ((7, None), (1, "budget.warned"), (1, None), (1, "budget.exhausted"), (1, None)):
        await spender.settle(new_id(), cost * DOLLAR)
        expected += [mark] if mark else []
        assert await recorded(spender, spender.tenant) == expected
    later(spender, timedelta(days=10))
    await spender.settle(new_id(), 10 * DOLLAR)
    assert await recorded(spender, spender.tenant) == [*expected, "budget.warned", "budget.exhausted"]


async def test_a_limit_below_what_is_spent_is_marked_at_once(spender: Spender) -> None:
    await spender.settle(new_id(), DOLLAR)
    assert (await spender.set(spender.agent, DOLLAR)).exhausted
    assert await recorded(spender, spender.agent) == ["budget.changed", "budget.warned", "budget.exhausted"]
    assert not (await spender.set(spender.agent, 2 * DOLLAR)).warned


async def test_a_refusal_is_recorded_when_the_scope_commits_all_the_same(spender: Spender) -> None:
    await spender.set(spender.agent, DOLLAR)
    for _ in range(2):
        async with spender.scope() as scope:
            with pytest.raises(BudgetExhausted):
                await metering.reserve(scope, agent_id=spender.agent, run_id=new_id(), step=1, amount=2 * DOLLAR)
    assert await recorded(spender, spender.agent) == ["budget.changed", "budget.exhausted"]


async def test_everybody_sees_a_tenants_warning_and_an_owner_an_agents(spender: Spender) -> None:
    run = new_id()
    await spender.set(spender.tenant, DOLLAR)
    await spender.set(spender.agent, DOLLAR)
    await spender.settle(run, DOLLAR)
    events: list[Encoded] = list(await spender.services.get(Feed).read(spender.tenant, 0))
    warnings = {one.stream: one.meta for one in events if one.type == "budget.warned"}
    assert warnings[f"budget:{spender.tenant}"].owner is None
    assert warnings[f"budget:{spender.agent}"].owner == spender.user
    assert {meta.run for meta in warnings.values()} == {run}


async def test_another_tenant_has_its_own_money(spender: Spender) -> None:
    thief = Spender(spender.services, spender.clock, agent=spender.agent, user=spender.user)
    await spender.set(spender.tenant, DOLLAR)
    await spender.settle(new_id(), DOLLAR)
    assert not await thief.check()
    assert await thief.budget(spender.tenant) is None
    assert (await thief.used()).calls == 0
    async with thief.scope() as scope:
        await scope.queries.execute("UPDATE budgets SET limit_nanos = 0")
        await scope.queries.execute("DELETE FROM reservations")
    assert (await present(spender)).limit == DOLLAR


async def test_a_budget_set_while_calls_settle_misses_none_of_them(spender: Spender) -> None:
    """Every call is counted, in the budget or in what the budget starts with, however the two meet."""

    async def set_late() -> None:
        await asyncio.sleep(0.005)
        await spender.set(spender.tenant, 10**6 * DOLLAR)

    await asyncio.gather(set_late(), *(spender.settle(new_id(), DOLLAR) for _ in range(60)))
    assert (await present(spender)).spent == 60 * DOLLAR


async def test_budgets_set_at_once_are_one_budget(spender: Spender) -> None:
    await asyncio.gather(*(spender.set(spender.tenant, limit * DOLLAR) for limit in range(1, 9)))
    assert len(await recorded(spender, spender.tenant)) == 8


async def test_days_of_use_come_in_pages_the_newest_first(spender: Spender) -> None:
    for model in ("openai:a", "openai:b"):
        await spender.settle(new_id(), DOLLAR, model=model)
    later(spender, timedelta(days=1))
    await spender.settle(new_id(), None, model="openai:a")
    first, last = date(2026, 1, 30), date(2026, 1, 31)
    async with spender.scope() as scope:
        rows = await views.days_of_use(scope, spender.user, first, last, None, 10)
        assert [(row.day, row.model, row.used.unpriced) for row in rows] == [
            (last, "openai:a", 1),
            (first, "openai:b", 0),
            (first, "openai:a", 0),
        ]
        for n, row in enumerate(rows):
            place = (row.day, row.agent_id, row.model)
            assert await views.days_of_use(scope, spender.user, first, last, place, 10) == rows[n + 1 :]
        assert await views.days_of_use(scope, uuid4(), first, last, None, 10) == []
        assert (await views.used_by(scope, spender.user, first, first)).calls == 2
