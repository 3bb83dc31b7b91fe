"""How bills, rates, reports and quotas look in JSON. Money is a decimal number of US dollars, as text."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from retinue.kernel import BadInput, dollars, nanos
from retinue.metering.charges import Bill, Line, LineKind, in_units
from retinue.metering.events import TierName
from retinue.metering.pricing import UNITS, Kind, OwnRates, Rates, Unit, in_force
from retinue.metering.reports import By, Spent
from retinue.metering.rules import end_of, start_of
from retinue.metering.shapes import Money
from retinue.metering.tiers import Quota, Storage, Tier, begins_anew

MAX_RATE = 1000
"""Dollars, of every rate; as of the server's settings."""

_Dollars = Field(description="US dollars", examples=["0.00042"])


class LineView(BaseModel):
    """A line of a bill."""

    kind: LineKind
    quantity: str = Field(description="how much was used, a decimal number of `unit`", examples=["12.5"])
    unit: Unit
    cost: str = _Dollars
    model: str | None = Field(default=None, description="of model calls: which model answered")
    input_tokens: int | None = None
    output_tokens: int | None = None
    unpriced_calls: int | None = Field(default=None, description="calls whose price is not known; not in `cost`")


class BillView(BaseModel):
    """What an operation cost so far; it grows while the operation runs and while its artifacts are kept."""

    lines: list[LineView]
    total: str = _Dollars
    currency: Literal["USD"] = "USD"
    unpriced_calls: int = Field(description="model calls whose price is not known; they are not in the total")


def bill_view(bill: Bill) -> BillView:
    """Show a bill."""
    return BillView(lines=[_line(line) for line in bill.lines], total=dollars(bill.cost), unpriced_calls=bill.unpriced)


def _line(line: Line) -> LineView:
    calls = line.kind == "model"
    return LineView.model_construct(
        kind=line.kind,
        quantity=decimal(line.quantity),
        unit=line.unit,
        cost=dollars(line.cost),
        model=line.model,
        input_tokens=line.input_tokens if calls else None,
        output_tokens=line.output_tokens if calls else None,
        unpriced_calls=line.unpriced if calls else None,
    )


def decimal(number: Decimal) -> str:
    """Write a number without an exponent and without zeros at its end."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


class NewRates(BaseModel):
    """Rates to set; null, or left out, is the server's own rate."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"cpu_second": "0.0001"}]})

    cpu_second: Money | None = Field(default=None, description="US dollars a second of CPU time")
    memory_gib_hour: Money | None = Field(default=None, description="US dollars a GiB of memory for an hour")
    storage_gib_day: Money | None = Field(default=None, description="US dollars a stored GiB for a day")
    model_call: Money | None = Field(default=None, description="US dollars a model call, besides the model's price")

    def own(self) -> OwnRates:
        """Return them in nano-dollars.

        Raises:
            BadInput: one is over :data:`MAX_RATE`.
        """
        return OwnRates(
            _nanos("cpu_second", self.cpu_second),
            _nanos("memory_gib_hour", self.memory_gib_hour),
            _nanos("storage_gib_day", self.storage_gib_day),
            _nanos("model_call", self.model_call),
        )


def _nanos(name: str, rate: str | None) -> int | None:
    if rate is None:
        return None
    if Decimal(rate) > MAX_RATE:
        raise BadInput(f"{name}: at most {MAX_RATE} dollars.", field=name)
    return nanos(Decimal(rate))


class RateView(BaseModel):
    """One rate."""

    rate: str = _Dollars
    own: bool = Field(description="whether the tenant set it; otherwise it is the server's")


class RatesView(BaseModel):
    """What work costs in a tenant besides the models' own prices."""

    cpu_second: RateView
    memory_gib_hour: RateView
    storage_gib_day: RateView
    model_call: RateView


def rates_view(own: OwnRates, server: Rates) -> RatesView:
    """Show the rates in force and whose they are."""
    rates = in_force(own, server)
    names = RatesView.model_fields
    return RatesView(
        **{name: RateView(rate=dollars(getattr(rates, name)), own=getattr(own, name) is not None) for name in names}
    )


class OperationsQuota(BaseModel):
    """Operations of a month."""

    limit: int | None = Field(description="how many may begin in a month; null for no limit")
    used: int
    left: int | None


class StorageQuota(BaseModel):
    """What is stored."""

    limit_bytes: int | None = Field(description="by tier, policy and settings together; null for no limit")
    used_bytes: int
    left_bytes: int | None


class QuotaView(BaseModel):
    """How far your quota is used."""

    tier: TierName
    month: date = Field(description="the month's first day (UTC)")
    begins_anew: date = Field(description="the day (UTC) on which operations are counted anew")
    operations: OperationsQuota
    storage: StorageQuota
    retention_days: float | None = Field(
        description="how long artifacts are kept where nobody asks for less; null for ever"
    )


class UserQuota(BaseModel):
    """How far a user's month is used."""

    user_id: UUID
    name: str | None = Field(description="as the list of members shows it to you; null where it does not")
    operations: OperationsQuota


class TenantQuotaView(BaseModel):
    """The tier of a tenant, what each of its users gets, and how far those who began something have used it."""

    tier: TierName
    month: date
    begins_anew: date
    operations: int | None = Field(description="how many a user may begin in a month; null for no limit")
    storage_bytes: int | None = Field(
        description="how much a user may have stored by the tier; null: as the tenant's policy says"
    )
    retention_days: float | None = Field(
        description="how long artifacts are kept at most by the tier; null: as the tenant's policy says"
    )
    items: list[UserQuota]
    next_cursor: str | None = Field(default=None, description="send it as `cursor` to get the next page")


def quota_view(quota: Quota, tier: Tier, storage: Storage) -> QuotaView:
    """Show a user's own quota."""
    left = None if storage.limit is None else max(0, storage.limit - storage.used)
    return QuotaView(
        tier=tier.name,
        month=quota.month,
        begins_anew=begins_anew(quota).date(),
        operations=_operations(quota, tier),
        storage=StorageQuota(limit_bytes=storage.limit, used_bytes=storage.used, left_bytes=left),
        retention_days=_as_days(storage.retention_seconds),
    )


def _as_days(seconds: int | None) -> float | None:
    return None if seconds is None else round(seconds / 86_400, 3)


def user_quota(quota: Quota, tier: Tier, name: str | None) -> UserQuota:
    """Show one of a tenant's users."""
    return UserQuota(user_id=quota.user_id, name=name, operations=_operations(quota, tier))


def tenant_quota_view(tier: Tier, now: datetime, items: list[UserQuota], next_cursor: str | None) -> TenantQuotaView:
    """Show a tenant's tier and one page of its users."""
    month = start_of("month", now)
    return TenantQuotaView(
        tier=tier.name,
        month=month,
        begins_anew=end_of(month),
        operations=tier.operations,
        storage_bytes=tier.storage_bytes,
        retention_days=_as_days(tier.retention_seconds),
        items=items,
        next_cursor=next_cursor,
    )


def _operations(quota: Quota, tier: Tier) -> OperationsQuota:
    limit = tier.operations
    left = None if limit is None else max(0, limit - quota.operations)
    return OperationsQuota(limit=limit, used=quota.operations, left=left)


class UsedView(BaseModel):
    """How much of something was used, and what it cost."""

    quantity: str = Field(description="a decimal number of `unit`", examples=["12.5"])
    unit: Unit
    cost: str = _Dollars


class SpentView(BaseModel):
    """What was used, and what it cost."""

    cpu: UsedView
    memory: UsedView
    storage: UsedView
    models: UsedView
    unpriced_calls: int = Field(description="model calls whose price is not known; they are in no cost")
    cost: str = _Dollars


class CostView(SpentView):
    """The costs of one user, agent, application or day."""

    key: str = Field(
        description="a user's or agent's id, an application's name, or a day (UTC); "
        "empty for what no agent used, or no application asked for"
    )
    name: str | None = Field(
        description="of a user, as the list of members shows it to you; of an agent of yours, of the tenant, or, to an "
        "admin, of anybody; otherwise null",
        examples=["Ann"],
    )


class CostsView(BaseModel):
    """Costs by user, agent, application or day. `total` is of all; `items` are one page, ordered by `key`."""

    by: By
    first_day: date
    last_day: date
    currency: Literal["USD"] = "USD"
    total: SpentView
    items: list[CostView]
    next_cursor: str | None = Field(default=None, description="send it as `cursor` to get the next page")


def spent_view(spent: Spent) -> SpentView:
    """Show sums."""
    return SpentView(**_spent(spent))


def cost_view(spent: Spent, name: str | None) -> CostView:
    """Show the sums of one key."""
    return CostView(key=spent.key, name=name, **_spent(spent))


def _spent(spent: Spent) -> dict[str, Any]:
    calls = UsedView(quantity=str(spent.calls), unit="call", cost=dollars(spent.calls_cost))
    return {
        "cpu": _used("cpu", spent.cpu, spent.cpu_cost),
        "memory": _used("memory", spent.memory, spent.memory_cost),
        "storage": _used("storage", spent.storage, spent.storage_cost),
        "models": calls,
        "unpriced_calls": spent.unpriced,
        "cost": dollars(spent.cost),
    }


def _used(kind: Kind, quantity: Decimal, cost: int) -> UsedView:
    return UsedView(quantity=decimal(in_units(kind, quantity)), unit=UNITS[kind][0], cost=dollars(cost))


CSV_COLUMNS = (
    "cpu_seconds",
    "cpu_cost",
    "memory_gib_hours",
    "memory_cost",
    "storage_gib_days",
    "storage_cost",
    "model_calls",
    "model_cost",
    "unpriced_calls",
    "cost",
)
"""The columns of a report as CSV, after those of its keys and their names."""


def cells(spent: Spent) -> list[str]:
    """Return the sums of one key as cells, in the order of :data:`CSV_COLUMNS`."""
    return [
        decimal(in_units("cpu", spent.cpu)),
        dollars(spent.cpu_cost),
        decimal(in_units("memory", spent.memory)),
        dollars(spent.memory_cost),
        decimal(in_units("storage", spent.storage)),
        dollars(spent.storage_cost),
        str(spent.calls),
        dollars(spent.calls_cost),
        str(spent.unpriced),
        dollars(spent.cost),
    ]
