"""Usage, budgets, and the reservations that keep parallel calls within them."""

from retinue.metering.commands import AgentDirectory, check, release_run, reserve, settle
from retinue.metering.counting import count_run

__all__ = ["AgentDirectory", "check", "count_run", "release_run", "reserve", "settle"]
