"""Charges for what was used besides models, and the bill of an operation: its charges and its model calls.

Every cost is counted in one place: model calls in ``usage_daily``, everything else in ``charges``. Reports add the two.
The table ``operation_calls`` says which of the model calls were an operation's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date
from decimal import Decimal
from functools import partial
from typing import Literal
from uuid import UUID

from retinue.kernel import Scope
from retinue.metering import counting
from retinue.metering.pricing import KINDS, UNITS, Kind, Unit, rates

LineKind = Literal["cpu", "memory", "storage", "model"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """Something that was used. Model calls are not charged so: :func:`retinue.metering.settle` counts them.

    Attributes:
        kind: CPU time, memory, or storage.
        quantity: seconds of CPU time; byte-seconds of memory or storage.
        key: names what was used within its operation, such as the attempt; a kind and key are charged once. Without an
            operation, the key is one of all the tenant's.
        user_id: who pays.
        agent_id: the agent that used it, if one did.
        application: the application that asked for it; empty for the user's own.
        operation_id: on whose bill it stands, if on one.
        day: when it was used, in UTC; today if not given.
    """

    kind: Kind
    quantity: Decimal | float
    key: str
    user_id: UUID
    agent_id: UUID | None = None
    application: str = ""
    operation_id: UUID | None = None
    day: date | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of a bill.

    Attributes:
        kind: what was used.
        quantity: how much, in ``unit``.
        unit: the one that the rate is for.
        cost: nano-dollars; without what the ``unpriced`` calls cost, which is not known.
        model, input_tokens, output_tokens, unpriced: of model calls.
    """

    kind: LineKind
    quantity: Decimal
    unit: Unit
    cost: int
    model: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    unpriced: int = 0


@dataclass(frozen=True, slots=True)
class Bill:
    """What an operation cost so far."""

    lines: tuple[Line, ...]

    @property
    def cost(self) -> int:
        """The sum in nano-dollars."""
        return sum(line.cost for line in self.lines)

    @property
    def model_cost(self) -> int:
        """What model calls are of the sum."""
        return sum(line.cost for line in self.lines if line.kind == "model")

    @property
    def unpriced(self) -> int:
        """Model calls whose price is not known and not in the sum."""
        return sum(line.unpriced for line in self.lines)


async def charge(scope: Scope, charges: Sequence[Charge]) -> int:
    """Charge for what was used, at the tenant's rates of now, in the scope's transaction.

    What was charged before under the same operation, kind and key is not charged again, whatever its quantity.

    Returns:
        What was charged by this call, in nano-dollars.
    """
    if not charges:
        return 0
    today = scope.clock.now().astimezone(UTC).date()
    prices = await rates(scope)
    quantities = [_counted(one.quantity) for one in charges]
    charged = await scope.queries.fetch(
        "INSERT INTO charges (tenant_id, kind, key, operation_id, day, user_id, agent_id, application, quantity, cost) "
        "SELECT $1, * FROM unnest($2::text[], $3::text[], $4::uuid[], $5::date[], $6::uuid[], $7::uuid[], $8::text[], "
        "$9::numeric[], $10::bigint[]) "
        "ON CONFLICT (tenant_id, operation_id, kind, key) DO NOTHING RETURNING kind, cost",
        scope.tenant_id,
        [one.kind for one in charges],
        [one.key for one in charges],
        [one.operation_id for one in charges],
        [one.day or today for one in charges],
        [one.user_id for one in charges],
        [one.agent_id for one in charges],
        [one.application for one in charges],
        quantities,
        [prices.price(one.kind, quantity) for one, quantity in zip(charges, quantities, strict=True)],
    )
    for row in charged:
        scope.uow.after_commit(partial(counting.count_charge, row["kind"], row["cost"]))
    return sum(row["cost"] for row in charged)


def _counted(quantity: Decimal | float) -> Decimal:
    """Return a quantity to the millionth, never less than nothing: clocks of a machine may step back."""
    return max(Decimal(0), Decimal(quantity)).quantize(Decimal("0.000001"))


async def bill(scope: Scope, operation_id: UUID) -> Bill:
    """Return what an operation cost so far; whether the caller may see the operation is for the caller to ask."""
    used = await scope.queries.fetch(
        "SELECT kind, sum(quantity) AS quantity, sum(cost)::bigint AS cost FROM charges "
        "WHERE operation_id = $1 GROUP BY kind",
        operation_id,
    )
    calls = await scope.queries.fetch(
        "SELECT model, calls, input_tokens, output_tokens, cost, unpriced FROM operation_calls "
        "WHERE operation_id = $1 ORDER BY model",
        operation_id,
    )
    by_kind = {row["kind"]: row for row in used}
    lines = [
        Line(kind=kind, quantity=in_units(kind, row["quantity"]), unit=UNITS[kind][0], cost=row["cost"])
        for kind in KINDS
        if (row := by_kind.get(kind))
    ]
    lines += [
        Line(
            kind="model",
            quantity=Decimal(row["calls"]),
            unit="call",
            cost=row["cost"],
            model=row["model"],
            input_tokens=row["input_tokens"],
            output_tokens=row["output_tokens"],
            unpriced=row["unpriced"],
        )
        for row in calls
    ]
    return Bill(tuple(lines))


def in_units(kind: Kind, quantity: Decimal) -> Decimal:
    """Return what was counted in the unit of its rate, to the billionth."""
    return (quantity / UNITS[kind][1]).quantize(Decimal("0.000000001"))
