"""Facts about budgets, on the stream ``budget:<subject>``. What was used is counted, not recorded: runs tell it."""

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
