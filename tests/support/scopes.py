"""Scopes for tests that work below HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from uuid import UUID

from retinue.database import Database
from retinue.kernel import Actor, ActorKind, Clock, Scope, Services, SystemClock
from retinue.ledger import Feed, Projection, Projections, StreamProjection


def ledger_services(database: Database, projections: Iterable[Projection | StreamProjection] = ()) -> Services:
    """Services for the ledger alone: database, feed and projections."""
    services = Services()
    services.add(Database, database)
    services.add(Feed, Feed(database))
    services.add(Projections, Projections(projections))
    return services


@asynccontextmanager
async def scope_of(
    services: Services, tenant_id: UUID, *, user_id: UUID | None = None, role: str = "admin", clock: Clock | None = None
) -> AsyncIterator[Scope]:
    """Open one transaction as a user (or the system) of a tenant; it commits at the end of the block."""
    actor = Actor(ActorKind.USER, user_id) if user_id else Actor(ActorKind.SYSTEM)
    async with services.get(Database).transaction(tenant_id) as uow:
        yield Scope(tenant_id, actor, uow, clock or SystemClock(), services, user_id=user_id, role=role)
