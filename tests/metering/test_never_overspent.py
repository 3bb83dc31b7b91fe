"""A limit holds whatever happens at once; and the tests see it when a part of what keeps it is taken out."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinue.database import Database
from retinue.kernel import BudgetExhausted, new_id
from tests.metering.support import DOLLAR, Spender, metering_services
from tests.support.databases import Cluster

LIMIT = 50 * DOLLAR
AMOUNT = DOLLAR


@dataclass
class Outcome:
    """What 200 calls at once led to. Money in nano-dollars; ``highest`` is what was ever spent and held together."""

    allowed: int = 0
    cost: int = 0
    spent: int = 0
    reserved: int = 0
    highest: int = 0


async def spend_at_once(spender: Spender, calls: int = 200) -> Outcome:
    """Let many calls reserve and settle at once under a tenant's limit, and watch it meanwhile."""
    outcome = Outcome()
    chance = random.Random(7)
    await spender.set(spender.tenant, LIMIT)
    await spender.set(spender.agent, 2 * LIMIT)

    async def call() -> None:
        run = new_id()
        try:
            await spender.reserve(run, AMOUNT)
        except BudgetExhausted:
            return
        cost = chance.randint(AMOUNT // 2, AMOUNT)
        outcome.allowed += 1
        outcome.cost += cost
        await spender.settle(run, cost)
        await spender.release(run)

    async def watch() -> None:
        while True:
            await look()
            await asyncio.sleep(0)

    async def look() -> None:
        budget = await spender.budget(spender.tenant)
        assert budget is not None
        outcome.spent, outcome.reserved = budget.spent, budget.reserved
        outcome.highest = max(outcome.highest, budget.spent + budget.reserved)

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(call() for _ in range(calls)))
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    await look()
    return outcome


async def test_200_calls_at_once_never_pass_the_limit(database: Database) -> None:
    spender = Spender(metering_services(database))
    outcome = await spend_at_once(spender)
    assert outcome.highest <= LIMIT
    assert LIMIT // AMOUNT <= outcome.allowed < 200
    assert (outcome.spent, outcome.reserved) == (outcome.cost, 0)
    assert (await spender.used()).cost == outcome.cost
    assert await spender.held() == 0


async def hold_at_once(spender: Spender) -> int:
    """Reserve at once from 40 runs where one has room; return how many were let through."""
    await spender.set(spender.tenant, AMOUNT)
    results = await asyncio.gather(*(spender.reserve(new_id(), AMOUNT) for _ in range(40)), return_exceptions=True)
    assert all(isinstance(one, BudgetExhausted | None) for one in results)
    return sum(one is None for one in results)


async def test_the_last_dollar_is_given_once(database: Database) -> None:
    assert await hold_at_once(Spender(metering_services(database))) == 1


# Planted faults: each takes out one thing that the limit rests on.


@asynccontextmanager
async def without(postgres: Cluster, function: str, part: str, instead: str) -> AsyncIterator[Database]:
    """A database of its own where ``part`` of one of the functions is replaced."""
    name = await postgres.clone()
    owner = await asyncpg.connect(postgres.dsn(name, "retinue_owner"))
    source: str = await owner.fetchval("SELECT pg_get_functiondef($1::regproc)", function)
    assert part in source
    await owner.execute(source.replace(part, instead))
    await owner.close()
    database = Database(postgres.dsn(name), size=8)
    await database.open()
    try:
        yield database
    finally:
        await database.close()
        await postgres.drop(name)


async def test_without_the_condition_the_limit_is_passed(postgres: Cluster) -> None:
    condition = "b.spent + b.reserved + p_amount > b.limit_nanos"
    async with without(postgres, "metering_reserve", condition, "false") as database:
        outcome = await spend_at_once(Spender(metering_services(database)))
        assert outcome.highest > LIMIT


async def test_without_the_lock_the_last_dollar_is_given_twice(postgres: Cluster) -> None:
    async with without(postgres, "metering_locked", "FOR UPDATE", "") as database:
        spenders = [Spender(metering_services(database)) for _ in range(5)]
        assert any([await hold_at_once(spender) > 1 for spender in spenders])


async def settled_around_a_new_budget(spender: Spender) -> int:
    """Set a budget in the middle of calls that settle; return what it missed."""
    count = 40

    async def settle(n: int) -> None:
        if n == count // 2:
            await spender.set(spender.tenant, 1000 * DOLLAR)
        await spender.settle(new_id(), DOLLAR)

    await asyncio.gather(*(settle(n) for n in range(count)))
    budget = await spender.budget(spender.tenant)
    assert budget is not None
    return count * DOLLAR - budget.spent


async def test_a_new_budget_misses_no_call(database: Database) -> None:
    for _ in range(5):
        assert await settled_around_a_new_budget(Spender(metering_services(database))) == 0


async def test_without_the_shared_lock_a_new_budget_misses_calls(postgres: Cluster) -> None:
    lock = "PERFORM pg_advisory_xact_lock_shared(uuid_hash_extended(p_tenant, 9));"
    async with without(postgres, "metering_settle", lock, "") as database:
        spenders = [Spender(metering_services(database)) for _ in range(20)]
        assert any([await settled_around_a_new_budget(spender) != 0 for spender in spenders])


# Any order of things


@dataclass
class Model:
    """What a budget should say, the simple way."""

    limit: int
    spent: int = 0
    held: dict[UUID, int] = field(default_factory=dict)

    def fits(self, amount: int) -> bool:
        return self.spent + sum(self.held.values()) + amount <= self.limit


Step = tuple[str, int, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "settle", "release", "unpriced", "limit"]), st.integers(0, 4), st.integers(0, 60)
    ),
    max_size=25,
)


@settings(max_examples=40, deadline=None)
@given(STEPS)
async def test_any_order_of_calls_leaves_what_a_simple_model_says(database: Database, steps: list[Step]) -> None:
    spender = Spender(metering_services(database))
    runs = [new_id() for _ in range(5)]
    model = Model(100)
    await spender.set(spender.tenant, model.limit)
    deeds: dict[str, Callable[[UUID, int], Awaitable[None]]] = {
        "reserve": lambda run, number: _reserve(spender, model, run, number),
        "settle": lambda run, number: _settle(spender, model, run, number),
        "unpriced": lambda run, _: _settle(spender, model, run, None),
        "release": lambda run, _: _release(spender, model, run),
        "limit": lambda _, number: _limit(spender, model, number * 3),
    }
    for what, which, number in steps:
        await deeds[what](runs[which], number)
        budget = await spender.budget(spender.tenant)
        assert budget is not None
        assert (budget.limit, budget.spent, budget.reserved) == (model.limit, model.spent, sum(model.held.values()))


async def _reserve(spender: Spender, model: Model, run: UUID, amount: int) -> None:
    if run in model.held or model.fits(amount):
        await spender.reserve(run, amount)
        model.held.setdefault(run, amount)
    else:
        with pytest.raises(BudgetExhausted):
            await spender.reserve(run, amount)


async def _settle(spender: Spender, model: Model, run: UUID, cost: int | None) -> None:
    await spender.settle(run, cost)
    held = model.held.pop(run, None)
    model.spent += cost if cost is not None else DOLLAR // 100 if held is None else held
    await spender.release(run)


async def _release(spender: Spender, model: Model, run: UUID) -> None:
    await spender.release(run)
    model.held.pop(run, None)


async def _limit(spender: Spender, model: Model, limit: int) -> None:
    await spender.set(spender.tenant, limit)
    model.limit = limit
