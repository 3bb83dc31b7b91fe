"""What a worker does for approvals: close those that nobody decided in time."""

from __future__ import annotations

from uuid import UUID

from retinue.approvals.commands import EXPIRE, expire
from retinue.database import open_scope
from retinue.kernel import Services


async def on_expire(services: Services, tenant_id: UUID, approval_id: UUID) -> None:
    """Handle the wake-up ``approval.expire``."""
    async with open_scope(services, tenant_id, cause=f"wake-up:{EXPIRE}") as scope:
        await expire(scope, approval_id)
