"""What work costs besides the models' own prices: the server's rates, or those that a tenant's admin set."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal
from typing import Literal, get_args

from retinue.kernel import Scope, Settings, nanos
from retinue.ledger import Projection, Recorded, append
from retinue.metering.events import RatesChanged

Kind = Literal["cpu", "memory", "storage"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Unit = Literal["second", "GiB-hour", "GiB-day", "call"]

GIB = 1 << 30
UNITS: dict[Kind, tuple[Unit, int]] = {
    "cpu": ("second", 1),
    "memory": ("GiB-hour", GIB * 3600),
    "storage": ("GiB-day", GIB * 86_400),
}
"""The unit that the rate of each kind is for, and how much it is in what is counted: seconds, or byte-seconds."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Nano-dollars a second of CPU time, a GiB of memory for an hour, a stored GiB for a day, a model call."""

    cpu_second: int
    memory_gib_hour: int
    storage_gib_day: int
    model_call: int

    def price(self, kind: Kind, quantity: Decimal) -> int:
        """Return what a quantity costs in nano-dollars, rounded half up.

        Args:
            kind: of what.
            quantity: seconds of CPU time, or byte-seconds of memory or storage.
        """
        rate = {"cpu": self.cpu_second, "memory": self.memory_gib_hour, "storage": self.storage_gib_day}[kind]
        return int((quantity * rate / UNITS[kind][1]).to_integral_value(rounding=ROUND_HALF_UP))


@dataclass(frozen=True, slots=True)
class OwnRates:
    """What a tenant's admin set, in nano-dollars; None: the server's rate holds. ``revision`` is 0 at first."""

    cpu_second: int | None = None
    memory_gib_hour: int | None = None
    storage_gib_day: int | None = None
    model_call: int | None = None
    revision: int = 0


def server_rates(scope: Scope) -> Rates:
    """Return the rates of tenants that set none."""
    chosen = scope.service(Settings)
    return Rates(
        nanos(chosen.cpu_second_rate),
        nanos(chosen.memory_rate),
        nanos(chosen.storage_rate),
        nanos(chosen.model_call_rate),
    )


async def own_rates(scope: Scope) -> OwnRates:
    """Return what the tenant's admin set."""
    row = await scope.queries.fetchrow(
        "SELECT cpu_second, memory_gib_hour, storage_gib_day, model_call, revision FROM rates"
    )
    return OwnRates(*row[0:5]) if row else OwnRates()


async def rates(scope: Scope) -> Rates:
    """Return the rates that hold in the scope's tenant now."""
    return in_force(await own_rates(scope), server_rates(scope))


def in_force(own: OwnRates, server: Rates) -> Rates:
    """Return a tenant's own rates, and the server's where it has none."""
    return Rates(
        server.cpu_second if own.cpu_second is None else own.cpu_second,
        server.memory_gib_hour if own.memory_gib_hour is None else own.memory_gib_hour,
        server.storage_gib_day if own.storage_gib_day is None else own.storage_gib_day,
        server.model_call if own.model_call is None else own.model_call,
    )


async def set_rates(scope: Scope, wanted: OwnRates) -> None:
    """Set the tenant's rates from now on; what was charged stays as it is."""
    present = await own_rates(scope)
    if replace(wanted, revision=present.revision) == present:
        return
    fact = RatesChanged(
        cpu_second=wanted.cpu_second,
        memory_gib_hour=wanted.memory_gib_hour,
        storage_gib_day=wanted.storage_gib_day,
        model_call=wanted.model_call,
    )
    # Nobody owns what happens to them: all who may read costs see it.
    await append(replace(scope, user_id=None), f"rates:{scope.tenant_id}", present.revision, [fact])


async def _on_changed(scope: Scope, recorded: Recorded[RatesChanged]) -> None:
    fact = recorded.event
    await scope.queries.execute(
        "INSERT INTO rates (tenant_id, cpu_second, memory_gib_hour, storage_gib_day, model_call, revision) "
        "VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (tenant_id) DO UPDATE SET cpu_second = excluded.cpu_second, "
        "memory_gib_hour = excluded.memory_gib_hour, storage_gib_day = excluded.storage_gib_day, "
        "model_call = excluded.model_call, revision = excluded.revision",
        scope.tenant_id,
        fact.cpu_second,
        fact.memory_gib_hour,
        fact.storage_gib_day,
        fact.model_call,
        recorded.version,
    )


PROJECTION = Projection({RatesChanged: _on_changed})
