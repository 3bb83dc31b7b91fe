"""What a worker does for the gateway."""

from __future__ import annotations

from uuid import UUID

from retinue import metering
from retinue.database import open_scope
from retinue.gateway.commands import RELEASE
from retinue.kernel import Services


async def release(services: Services, tenant_id: UUID, call_id: UUID) -> None:
    """Give back what a call over HTTP had reserved, should its process have died; else nothing is there any more."""
    async with open_scope(services, tenant_id, cause=f"wake-up:{RELEASE}") as scope:
        await metering.release_run(scope, call_id)
