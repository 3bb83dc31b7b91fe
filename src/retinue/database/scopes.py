"""Opens a scope outside of a request: for wake-ups, activations, and what happens after a commit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from retinue.database.database import Database
from retinue.kernel import SYSTEM, Actor, Clock, Scope, Services


@asynccontextmanager
async def open_scope(
    services: Services,
    tenant_id: UUID,
    actor: Actor = SYSTEM,
    *,
    user_id: UUID | None = None,
    trace_id: str = "",
    cause: str = "",
) -> AsyncIterator[Scope]:
    """Open a transaction of a tenant for an actor; it commits at the end of the block.

    Args:
        user_id: the user within whose rights the actor acts; None for the system.
    """
    async with services.get(Database).transaction(tenant_id) as uow:
        yield Scope(
            tenant_id,
            actor,
            uow,
            services.get(Clock),  # type: ignore[type-abstract]  # services are found by their protocol
            services,
            user_id=user_id,
            trace_id=trace_id,
            cause=cause,
        )
