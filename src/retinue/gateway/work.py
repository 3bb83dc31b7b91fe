"""What a worker does for the gateway."""

from __future__ import annotations

from uuid import UUID

from retinue import metering
from retinue.database import Database
from retinue.kernel import SYSTEM, Clock, Scope, Services


async def release(services: Services, tenant_id: UUID, call_id: UUID) -> None:
    """Give back what a call over HTTP had reserved, should its process have died; else nothing is there any more."""
    async with services.get(Database).transaction(tenant_id) as uow:
        clock = services.get(Clock)  # type: ignore[type-abstract]  # services are found by their protocol
        scope = Scope(tenant_id, SYSTEM, uow, clock, services, cause=f"gateway:{call_id}")
        await metering.release_run(scope, call_id)
