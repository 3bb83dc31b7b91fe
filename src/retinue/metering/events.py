"""Facts about budgets, rates, tiers and quotas. What was used is counted, not recorded: runs and operations tell it.

Their streams are ``budget:<subject>``, ``rates:<tenant>``, ``tier:<tenant>`` and ``quota:<user>``.
"""

from __future__ import annotations

from datetime import date
from typing import Literal
from uuid import UUID

from retinue.ledger import Event, event

Period = Literal["month", "total"]


@event("budget.changed")
class BudgetChanged(Event, frozen=True, kw_only=True):
    """Somebody set a budget. ``subject`` is the tenant's id or an agent's; ``limit`` is in nano-dollars."""

    subject: UUID
    limit: int
    period: Period


@event("budget.removed")
class BudgetRemoved(Event, frozen=True, kw_only=True):
    """Somebody took a budget away: nothing limits the subject any more."""

    subject: UUID


@event("budget.warned")
class BudgetWarned(Event, frozen=True, kw_only=True):
    """Most of a budget is used; once a period. ``limit`` and ``spent`` are in nano-dollars."""

    subject: UUID
    limit: int
    spent: int
    period: Period
    period_start: date


@event("budget.exhausted")
class BudgetUsedUp(Event, frozen=True, kw_only=True):
    """A budget is used up, or too little is left for a call that was to be made; once a period.

    ``limit`` and ``spent`` are in nano-dollars.
    """

    subject: UUID
    limit: int
    spent: int
    period: Period
    period_start: date


@event("rates.changed")
class RatesChanged(Event, frozen=True, kw_only=True):
    """Somebody set what a tenant's work costs, in nano-dollars; None: the server's own rate."""

    cpu_second: int | None
    memory_gib_hour: int | None
    storage_gib_day: int | None
    model_call: int | None


TierName = Literal["free", "pro", "own"]
Quotaed = Literal["operations", "storage"]


@event("tier.changed")
class TierChanged(Event, frozen=True, kw_only=True):
    """The operator put a tenant into another tier."""

    tier: TierName


@event("quota.warned")
class QuotaWarned(Event, frozen=True, kw_only=True):
    """Most of a user's quota is used; once a month. Of operations a number, of storage bytes."""

    user_id: UUID
    what: Quotaed
    limit: int
    used: int
    month: date


@event("quota.exhausted")
class QuotaUsedUp(Event, frozen=True, kw_only=True):
    """All of a user's quota is used; once a month. Of operations a number, of storage bytes."""

    user_id: UUID
    what: Quotaed
    limit: int
    used: int
    month: date
