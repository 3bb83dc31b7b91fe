"""Usage, budgets, and the reservations that keep parallel calls within them; costs, bills, rates and quotas."""

from retinue.metering.charges import Bill, Charge, bill, charge
from retinue.metering.commands import AgentDirectory, check, release_run, reserve, settle
from retinue.metering.cost_shapes import BillView, bill_view
from retinue.metering.counting import count_run
from retinue.metering.pricing import rates
from retinue.metering.quotas import check_quota, count_operation, hooks, note_storage, set_tier, tier_of
from retinue.metering.tiers import TIERS, Storage

__all__ = [
    "TIERS",
    "AgentDirectory",
    "Bill",
    "BillView",
    "Charge",
    "Storage",
    "bill",
    "bill_view",
    "charge",
    "check",
    "check_quota",
    "count_operation",
    "count_run",
    "hooks",
    "note_storage",
    "rates",
    "release_run",
    "reserve",
    "set_tier",
    "settle",
    "tier_of",
]
