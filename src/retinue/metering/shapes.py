"""How budgets and usage look in JSON. Money is a decimal number of US dollars, as text."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from retinue.kernel import BadInput, dollars, nanos
from retinue.metering.events import Period
from retinue.metering.rules import Budget
from retinue.metering.views import DayOfUse, Used

MAX_LIMIT = 1_000_000_000
"""Dollars; a signed 64-bit number of nano-dollars holds nine times as much."""

Money = Annotated[
    str,
    StringConstraints(pattern=r"^(0|[1-9][0-9]{0,9})(\.[0-9]{1,9})?$"),
    Field(description="US dollars, a decimal number", examples=["12.50"]),
]


class NewBudget(BaseModel):
    """A limit to set; `limit: null` takes it away."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"limit": "12.50", "period": "month"}]})

    limit: Money | None = Field(description="US dollars a period; null for no limit", examples=["12.50"])
    period: Period = Field(default="month", description="a calendar month in UTC, or everything ever spent")

    def limit_nanos(self) -> int | None:
        """Return the limit in nano-dollars.

        Raises:
            BadInput: it is more than the world's models cost.
        """
        if self.limit is None:
            return None
        if Decimal(self.limit) > MAX_LIMIT:
            raise BadInput(f"limit: at most {MAX_LIMIT} dollars.", field="limit")
        return nanos(Decimal(self.limit))


class BudgetView(BaseModel):
    """A budget and how far it is used."""

    limit: str | None = Field(description="US dollars a period; null for no limit", examples=["12.50"])
    period: Period
    since: date | None = Field(description="the first day (UTC) of this period; null for everything ever spent")
    spent: str = Field(description="US dollars in this period, with what unpriced calls count for", examples=["3.0217"])
    reserved: str = Field(description="US dollars held for model calls under way", examples=["0"])
    left: str | None = Field(description="US dollars that new calls may reserve; null without a limit")
    unpriced_calls: int = Field(description="calls of unknown price within `spent`; each counts for an assumed price")


class UsageCost(BaseModel):
    """What calls cost, as far as prices are known."""

    amount: str = Field(description="US dollars", examples=["0.00042"])
    currency: Literal["USD"] = "USD"
    unpriced_calls: int = Field(description="calls whose price is not known; they are not in the amount")


class Totals(BaseModel):
    """What model calls used."""

    calls: int
    input_tokens: int
    output_tokens: int
    cost: UsageCost


class DayView(Totals):
    """What one agent used of one model on one day (UTC)."""

    day: date
    agent_id: UUID
    model: str


class UsageView(BaseModel):
    """What your runs used; `total` is of all days, `items` are one page of them, the newest first."""

    first_day: date
    last_day: date
    total: Totals
    items: list[DayView]
    next_cursor: str | None = Field(default=None, description="send it as `cursor` to get the next page")


def budget_view(budget: Budget) -> BudgetView:
    """Show a budget."""
    return BudgetView(
        limit=dollars(budget.limit),
        period=budget.period,
        since=budget.period_start if budget.period == "month" else None,
        spent=dollars(budget.spent),
        reserved=dollars(budget.reserved),
        left=dollars(budget.left),
        unpriced_calls=budget.unpriced,
    )


def unlimited_view(used: Used, month: date, assumed: int) -> BudgetView:
    """Show where there is no budget: what one by the month would have counted."""
    return BudgetView(
        limit=None,
        period="month",
        since=month,
        spent=dollars(used.cost + used.unpriced * assumed),
        reserved="0",
        left=None,
        unpriced_calls=used.unpriced,
    )


def totals(used: Used) -> Totals:
    """Show sums."""
    return Totals(**_sums(used))


def day_view(day: DayOfUse) -> DayView:
    """Show one day of one agent and model."""
    return DayView(day=day.day, agent_id=day.agent_id, model=day.model, **_sums(day.used))


def _sums(used: Used) -> dict[str, Any]:
    return {
        "calls": used.calls,
        "input_tokens": used.input_tokens,
        "output_tokens": used.output_tokens,
        "cost": UsageCost(amount=dollars(used.cost), unpriced_calls=used.unpriced),
    }
