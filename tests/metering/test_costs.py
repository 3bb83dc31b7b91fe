"""Charges, rates, bills and reports, against a plain model of them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinue import metering
from retinue.database import Database
from retinue.kernel import ManualClock, Scope, Services, new_id
from retinue.metering import Bill, Charge, pricing, reports
from retinue.metering.pricing import GIB, OwnRates, Rates
from retinue.metering.reports import GROUPINGS, Span, Spent
from tests.metering.support import metering_services, total
from tests.support.scopes import scope_of

START = datetime(2026, 1, 30, 12, tzinfo=UTC)
OWN = OwnRates(cpu_second=7, memory_gib_hour=3600, storage_gib_day=86_400, model_call=11)


@dataclass
class Payer:
    """A tenant whose operations cost something."""

    services: Services
    clock: ManualClock = field(default_factory=lambda: ManualClock(START))
    tenant: UUID = field(default_factory=uuid4)
    user: UUID = field(default_factory=uuid4)

    @asynccontextmanager
    async def scope(self) -> AsyncIterator[Scope]:
        async with scope_of(self.services, self.tenant, user_id=self.user, clock=self.clock) as scope:
            yield scope

    async def set_rates(self, own: OwnRates = OWN) -> None:
        async with self.scope() as scope:
            await pricing.set_rates(scope, own)

    async def rates(self) -> Rates:
        async with self.scope() as scope:
            return await metering.rates(scope)

    async def charge(self, *charges: Charge) -> int:
        async with self.scope() as scope:
            return await metering.charge(scope, charges)

    async def call(
        self, operation: UUID | None, cost: int | None, *, calls: int = 1, application: str = "", **more: Any
    ) -> None:
        said: dict[str, Any] = {
            "user_id": self.user,
            "agent_id": self.user,
            "run_id": new_id(),
            "step": 1,
            "model": "demo:a",
        } | more
        async with self.scope() as scope:
            await metering.settle(
                scope,
                input_tokens=10 * calls,
                output_tokens=calls,
                cost=cost,
                calls=calls,
                application=application,
                operation_id=operation,
                **said,
            )

    async def bill(self, operation: UUID) -> Bill:
        async with self.scope() as scope:
            return await metering.bill(scope, operation)

    async def report(self, by: reports.By, span: Span, limit: int = 1000) -> dict[str, Spent]:
        """All pages of a report."""
        found: dict[str, Spent] = {}
        async with self.scope() as scope:
            while True:
                rows = await reports.spent_by(scope, by, span, next(reversed(found), None), limit)
                assert not found.keys() & {row.key for row in rows}
                found |= {row.key: row for row in rows}
                if len(rows) < limit:
                    return found

    async def in_all(self, span: Span) -> Spent:
        async with self.scope() as scope:
            return await reports.spent_in_all(scope, span)


@pytest.fixture
def payer(database: Database) -> Payer:
    return Payer(metering_services(database))


def cpu(payer: Payer, seconds: float, operation: UUID | None, key: str = "1", **more: Any) -> Charge:
    return Charge(kind="cpu", quantity=seconds, key=key, user_id=payer.user, operation_id=operation, **more)


async def test_the_servers_rates_make_the_example_of_the_mission(payer: Payer) -> None:
    operation = new_id()
    await payer.charge(
        cpu(payer, 300, operation),
        Charge(kind="memory", quantity=2 * GIB * 300, key="1", user_id=payer.user, operation_id=operation),
        Charge(kind="storage", quantity=7 * GIB * 86_400, key="1", user_id=payer.user, operation_id=operation),
    )
    bill = await payer.bill(operation)
    assert [(line.kind, line.unit, float(line.quantity)) for line in bill.lines] == [
        ("cpu", "second", 300),
        ("memory", "GiB-hour", pytest.approx(1 / 6)),
        ("storage", "GiB-day", 7),
    ]
    assert [line.cost for line in bill.lines] == [45_000_000, 5_000_000, 21_000_000]
    assert bill.cost == 71_000_000


async def test_a_charge_that_is_repeated_charges_once(payer: Payer) -> None:
    await payer.set_rates()
    operation = new_id()
    assert await payer.charge(cpu(payer, 10, operation)) == 70
    assert await payer.charge(cpu(payer, 99, operation)) == 0
    assert await payer.charge(cpu(payer, 10, operation, key="2"), cpu(payer, 10, operation)) == 70
    assert await payer.charge(cpu(payer, 10, new_id())) == 70
    assert (await payer.bill(operation)).cost == 140


async def test_what_belongs_to_no_operation_is_charged_once_by_its_key(payer: Payer) -> None:
    """Without NULLS NOT DISTINCT two rows without an operation are never the same."""
    await payer.set_rates()
    assert [await payer.charge(cpu(payer, 10, None, key=key)) for key in ("a", "a", "b")] == [70, 0, 70]


async def test_charges_of_a_transaction_that_fails_are_not_charged(payer: Payer) -> None:
    operation = new_id()

    async def fails() -> None:
        async with payer.scope() as scope:
            await metering.charge(scope, [cpu(payer, 10, operation)])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fails()
    assert (await payer.bill(operation)).lines == ()
    assert await payer.charge(cpu(payer, 10, operation)) > 0


async def test_the_same_charge_at_once_is_charged_once(payer: Payer) -> None:
    await payer.set_rates()
    operation = new_id()
    assert sum(await asyncio.gather(*(payer.charge(cpu(payer, 10, operation)) for _ in range(8)))) == 70
    assert (await payer.bill(operation)).cost == 70


async def test_a_clock_that_stepped_back_charges_nothing(payer: Payer) -> None:
    assert await payer.charge(cpu(payer, -3.5, new_id())) == 0


async def test_a_new_rate_holds_from_now_on_and_none_is_the_servers(payer: Payer) -> None:
    server = await payer.rates()
    assert server == Rates(150_000, 30_000_000, 3_000_000, 0)
    operation = new_id()
    await payer.charge(cpu(payer, 1, operation))
    await payer.set_rates(OwnRates(cpu_second=0))
    assert await payer.rates() == Rates(0, 30_000_000, 3_000_000, 0)
    await payer.charge(cpu(payer, 1, operation, key="2"))
    assert (await payer.bill(operation)).cost == 150_000
    await payer.set_rates(OwnRates())
    assert await payer.rates() == server


async def test_model_calls_stand_on_the_bill_with_what_a_call_costs(payer: Payer) -> None:
    await payer.set_rates()
    operation = new_id()
    await payer.call(operation, 1000, calls=3)
    await payer.call(operation, None)
    await payer.call(new_id(), 5)
    await payer.call(None, 5)
    await payer.call(operation, 0, calls=0, model="demo:given-back")
    (line,) = (await payer.bill(operation)).lines
    assert line.kind == "model"
    assert (int(line.quantity), line.cost, line.unpriced) == (4, 1000 + 4 * 11, 1)
    assert (line.model, line.input_tokens, line.output_tokens) == ("demo:a", 40, 4)


async def test_another_tenant_sees_neither_bill_nor_costs(payer: Payer) -> None:
    operation = new_id()
    await payer.charge(cpu(payer, 10, operation))
    await payer.call(operation, 10)
    other = Payer(payer.services, payer.clock)
    await other.set_rates()
    assert (await other.bill(operation)).lines == ()
    assert await other.report("day", Span(START.date(), START.date())) == {}
    assert (await payer.rates()).cpu_second == 150_000


# A plain model

USERS, AGENTS = [UUID(int=n) for n in (1, 2)], [UUID(int=n) for n in (11, 12)]
APPLICATIONS = ["", "=cmd", "Žluťoučký kůň", "a'); --"]


@dataclass(frozen=True)
class Use:
    """Something that was used by one of a few operations."""

    operation: int
    kind: str
    amount: int
    attempt: int
    day: int
    agent: int


@dataclass
class Model:
    """Costs, the simple way: one list of rows."""

    rows: list[tuple[int, dict[str, str], date, int]] = field(default_factory=list)
    seen: set[tuple[int, str, int]] = field(default_factory=set)

    def add(self, use: Use, keys: dict[str, str], day: date, cost: int) -> None:
        self.rows.append((use.operation, keys, day, cost))

    def bill(self, operation: int) -> int:
        return sum(cost for one, _, _, cost in self.rows if one == operation)

    def report(self, by: str, first: date, last: date, user: str | None) -> dict[str, int]:
        found: dict[str, int] = defaultdict(int)
        for _, keys, day, cost in self.rows:
            if first <= day <= last and user in (None, keys["user"]):
                found[keys[by]] += cost
        return dict(found)


uses = st.builds(
    Use,
    operation=st.integers(0, 3),
    kind=st.sampled_from(["cpu", "memory", "storage", "model"]),
    amount=st.integers(0, 10**9),
    attempt=st.integers(1, 2),
    day=st.integers(0, 3),
    agent=st.integers(0, 1),
)


def priced(kind: str, amount: int) -> int:
    """What a use costs at the rates of OWN: 7 a second; one a GiB-second of memory or storage; a call's 11."""
    if kind == "cpu":
        return 7 * amount
    if kind == "model":
        return amount + 11
    return int((Decimal(amount) / GIB).to_integral_value(ROUND_HALF_UP))


@settings(max_examples=40, deadline=None)
@given(st.lists(uses, max_size=20), st.integers(0, 3), st.integers(0, 3), st.integers(1, 3))
async def test_the_sums_of_reports_are_the_sums_of_bills(
    database: Database, used: list[Use], one: int, other: int, page: int
) -> None:
    payer, model = Payer(metering_services(database)), Model()
    await payer.set_rates()
    operations = [new_id() for _ in range(4)]
    for use in used:
        payer.clock = ManualClock(START + timedelta(days=use.day))
        user, agent = USERS[use.operation % 2], AGENTS[use.agent]
        application, operation = APPLICATIONS[use.operation], operations[use.operation]
        day = payer.clock.now().date()
        keys = {"user": str(user), "agent": str(agent), "application": application, "day": day.isoformat()}
        if use.kind == "model":
            await payer.call(operation, use.amount, application=application, user_id=user, agent_id=agent)
            model.add(use, keys, day, priced(use.kind, use.amount))
            continue
        await payer.charge(
            Charge(
                kind=use.kind,  # type: ignore[arg-type]  # the strategy draws from the kinds
                quantity=use.amount,
                key=str(use.attempt),
                user_id=user,
                agent_id=agent,
                application=application,
                operation_id=operation,
            )
        )
        if (use.operation, use.kind, use.attempt) not in model.seen:
            model.seen.add((use.operation, use.kind, use.attempt))
            model.add(use, keys, day, priced(use.kind, use.amount))

    bills = [(await payer.bill(operation)).cost for operation in operations]
    assert bills == [model.bill(n) for n in range(4)]
    whole = Span(START.date(), START.date() + timedelta(days=3))
    assert (await payer.in_all(whole)).cost == sum(bills)
    part = sorted((one, other))
    first, last = (START.date() + timedelta(days=n) for n in part)
    for by in GROUPINGS:
        report = await payer.report(by, whole, page)
        assert sum(spent.cost for spent in report.values()) == sum(bills)
        for whose in (None, USERS[0]):
            shown = await payer.report(by, Span(first, last, whose), page)
            expected = model.report(by, first, last, None if whose is None else str(whose))
            assert {key: spent.cost for key, spent in shown.items()} == expected


async def test_the_property_sees_a_report_that_counts_model_calls_twice(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted bug: the calls of operations are taken from both tables that hold them."""
    payer = Payer(metering_services(database))
    await payer.call(new_id(), 1000)
    span = Span(START.date(), START.date())
    assert (await payer.in_all(span)).cost == 1000
    lines = reports._lines

    def twice(key: str) -> str:
        once = lines(key)
        return f"{once} UNION ALL SELECT '', 'model', calls, cost, unpriced FROM operation_calls"

    monkeypatch.setattr(reports, "_lines", twice)
    assert (await payer.in_all(span)).cost == 2000


async def test_charges_are_counted_once_they_are_committed(payer: Payer) -> None:
    name = "retinue_charged_dollars_total"
    before, operation = total(name, kind="cpu"), new_id()
    async with payer.scope() as scope:
        await metering.charge(scope, [cpu(payer, 1000, operation)])
        assert total(name, kind="cpu") == before
    await payer.charge(cpu(payer, 1000, operation))
    assert total(name, kind="cpu") == pytest.approx(before + 0.15)
