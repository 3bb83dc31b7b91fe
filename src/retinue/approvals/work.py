"""What a worker does for approvals: close those that nobody decided in time."""

from __future__ import annotations

from uuid import UUID

from retinue.approvals.commands import EXPIRE, expire
from retinue.database import Database
from retinue.kernel import Actor, ActorKind, Clock, Scope, Services


async def on_expire(services: Services, tenant_id: UUID, approval_id: UUID) -> None:
    """Handle the wake-up ``approval.expire``."""
    clock = services.get(Clock)  # type: ignore[type-abstract]  # services are found by their protocol
    async with services.get(Database).transaction(tenant_id) as uow:
        scope = Scope(
            tenant_id=tenant_id,
            actor=Actor(ActorKind.SYSTEM),
            uow=uow,
            clock=clock,
            services=services,
            cause=f"wake-up:{EXPIRE}",
        )
        await expire(scope, approval_id)
