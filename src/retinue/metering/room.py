"""The manifest of the room."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from retinue.kernel import Room, dollars
from retinue.metering import pricing, quotas, views
from retinue.metering.api import mine, of_tenants
from retinue.metering.events import (
    BudgetChanged,
    BudgetRemoved,
    BudgetUsedUp,
    BudgetWarned,
    QuotaUsedUp,
    QuotaWarned,
    RatesChanged,
    TierChanged,
)
from retinue.web import Streamed


def _marked(notice: str) -> Callable[[dict[str, Any]], Mapping[str, Any]]:
    return lambda data: {
        "notice": notice,
        "subject": data["subject"],
        "limit": dollars(data["limit"]),
        "spent": dollars(data["spent"]),
        "period": data["period"],
    }


def _changed(data: dict[str, Any]) -> Mapping[str, Any]:
    limit = dollars(data["limit"])
    return {"notice": "budget_changed", "subject": data["subject"], "limit": limit, "period": data["period"]}


def _removed(data: dict[str, Any]) -> Mapping[str, Any]:
    return {"notice": "budget_changed", "subject": data["subject"], "limit": None}


def _quota_marked(notice: str) -> Callable[[dict[str, Any]], Mapping[str, Any]]:
    return lambda data: {
        "notice": notice,
        "what": data["what"],
        "limit": data["limit"],
        "used": data["used"],
        "month": data["month"],
    }


def _rates_changed(data: dict[str, Any]) -> Mapping[str, Any]:
    return {"notice": "rates_changed"} | {name: None if rate is None else dollars(rate) for name, rate in data.items()}


def _tier_changed(data: dict[str, Any]) -> Mapping[str, Any]:
    return {"notice": "tier_changed", "tier": data["tier"]}


ROOM = Room(
    name="metering",
    events=(
        BudgetChanged,
        BudgetRemoved,
        BudgetWarned,
        BudgetUsedUp,
        RatesChanged,
        TierChanged,
        QuotaWarned,
        QuotaUsedUp,
    ),
    projections=(views.PROJECTION, pricing.PROJECTION, quotas.PROJECTION),
    routers=(of_tenants, mine),
    streamed={
        "budget.changed": Streamed("system_notice", _changed, resource="budgets"),
        "budget.removed": Streamed("system_notice", _removed, resource="budgets"),
        "budget.warned": Streamed("budget_warning", _marked("warned"), resource="budgets"),
        "budget.exhausted": Streamed("budget_warning", _marked("exhausted"), resource="budgets"),
        "rates.changed": Streamed("system_notice", _rates_changed, resource="costs"),
        "tier.changed": Streamed("system_notice", _tier_changed, resource="costs"),
        "quota.warned": Streamed("quota_warning", _quota_marked("warned"), resource="costs"),
        "quota.exhausted": Streamed("quota_warning", _quota_marked("exhausted"), resource="costs"),
    },
)
