"""What a worker does for grants: record that the time of one is over."""

from __future__ import annotations

from uuid import UUID

from retinue.database import open_scope
from retinue.grants.commands import EXPIRE, expire
from retinue.kernel import Services


async def on_expire(services: Services, tenant_id: UUID, grant_id: UUID) -> None:
    """Handle the wake-up ``grant.expire``."""
    async with open_scope(services, tenant_id, cause=f"wake-up:{EXPIRE}") as scope:
        await expire(scope, grant_id)
