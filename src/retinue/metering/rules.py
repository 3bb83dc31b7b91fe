"""Decisions about budgets, without a database: periods, what is left, when to warn, what to say."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import TypeVar
from uuid import UUID

from retinue.kernel import BudgetExhausted, dollars
from retinue.ledger import Event
from retinue.metering.events import BudgetUsedUp, BudgetWarned, Period

Mark = TypeVar("Mark", BudgetWarned, BudgetUsedUp)

WARN_PERCENT = 80
"""How much of a budget is used when its owner is warned."""

BEGINNING = date(1970, 1, 1)
"""Where the one period of a budget without months begins."""


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit in force for all that a tenant or an agent spends. Money is in nano-dollars.

    Attributes:
        subject: the tenant's id, or an agent's.
        spent: since ``period_start``; with what calls of unknown price count for.
        reserved: held for model calls under way.
        unpriced: calls of unknown price within ``spent``.
        revision: the version of its stream.
        warned, exhausted: whether that was recorded in this period already.
    """

    subject: UUID
    limit: int
    spent: int
    reserved: int
    unpriced: int
    revision: int
    period_start: date
    warned: bool
    exhausted: bool
    period: Period

    @property
    def left(self) -> int:
        """What new calls may reserve; never less than nothing."""
        return max(0, self.limit - self.spent - self.reserved)

    @property
    def used_up(self) -> bool:
        """Whether nothing is left even when every call under way turns out to cost nothing."""
        return self.spent >= self.limit

    def as_of(self, now: datetime) -> Budget:
        """Return the budget as it is at ``now``: a month may have ended since it was last written."""
        start = start_of(self.period, now)
        if self.period_start >= start:
            return self
        return replace(self, period_start=start, spent=0, unpriced=0, warned=False, exhausted=False)


def start_of(period: Period, now: datetime) -> date:
    """Return the first day, in UTC, of the period that ``now`` lies in."""
    return now.astimezone(UTC).date().replace(day=1) if period == "month" else BEGINNING


def end_of(start: date) -> date:
    """Return the first day of the month after the one that begins at ``start``."""
    return date(start.year + start.month // 12, start.month % 12 + 1, 1)


def marks(budget: Budget) -> list[Event]:
    """Return what is to be recorded of how far a budget is used, and was not yet in this period."""
    found: list[Event] = []
    if not budget.warned and budget.spent * 100 >= budget.limit * WARN_PERCENT:
        found.append(_mark(BudgetWarned, budget))
    if not budget.exhausted and budget.used_up:
        found.append(_mark(BudgetUsedUp, budget))
    return found


def used_up(budget: Budget) -> BudgetUsedUp:
    """Return the fact that a budget has no room any more."""
    return _mark(BudgetUsedUp, budget)


def _mark(kind: type[Mark], budget: Budget) -> Mark:
    return kind(
        subject=budget.subject,
        limit=budget.limit,
        spent=budget.spent,
        period=budget.period,
        period_start=budget.period_start,
    )


def refusal(budget: Budget, tenant_id: UUID, amount: int = 0) -> BudgetExhausted:
    """Return the fault that says which budget has no room, and what to do.

    Args:
        budget: the budget in the way.
        tenant_id: tells a tenant's budget from an agent's.
        amount: what a call was to reserve.
    """
    whose = "tenant" if budget.subject == tenant_id else "agent"
    span = "this month" if budget.period == "month" else "in all"
    text = f"The {whose}'s budget of ${dollars(budget.limit)} {span} "
    if budget.used_up:
        text += "is used up."
    else:
        text += f"has ${dollars(budget.left)} left, and the next model call may cost ${dollars(amount)}."
    if budget.period == "month":
        text += f" It begins anew on {end_of(budget.period_start).isoformat()}."
    return BudgetExhausted(
        text + " Raise the budget, or ask somebody who may.", extra={"budget": whose, "period": budget.period}
    )
