"""The manifest of the room."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from retinue.kernel import Room, dollars
from retinue.metering.api import mine, of_tenants
from retinue.metering.events import BudgetChanged, BudgetRemoved, BudgetUsedUp, BudgetWarned
from retinue.metering.views import PROJECTION
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


ROOM = Room(
    name="metering",
    events=(BudgetChanged, BudgetRemoved, BudgetWarned, BudgetUsedUp),
    projections=(PROJECTION,),
    routers=(of_tenants, mine),
    streamed={
        "budget.changed": Streamed("system_notice", _changed, resource="budgets"),
        "budget.removed": Streamed("system_notice", _removed, resource="budgets"),
        "budget.warned": Streamed("budget_warning", _marked("warned"), resource="budgets"),
        "budget.exhausted": Streamed("budget_warning", _marked("exhausted"), resource="budgets"),
    },
)
