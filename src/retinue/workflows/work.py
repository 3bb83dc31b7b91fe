"""What a worker does for workflows: due times, new events, callbacks."""

from __future__ import annotations

from uuid import UUID

from retinue.database import open_scope
from retinue.kernel import Services
from retinue.workflows import callbacks, triggers
from retinue.workflows.commands import CRON


async def on_cron(services: Services, tenant_id: UUID, key: UUID) -> None:
    """Handle the wake-up ``workflow.cron``."""
    async with open_scope(services, tenant_id, cause=f"wake-up:{CRON}") as scope:
        await triggers.on_time(scope, key)


async def on_listen(services: Services, tenant_id: UUID, _subject: UUID) -> None:
    """Handle the wake-up ``workflow.listen``."""
    async with open_scope(services, tenant_id, cause=triggers.CAUSE) as scope:
        batch = await triggers.new_events(scope)
    upto = await triggers.offer_to_waits(services, tenant_id, batch) if batch else 0
    async with open_scope(services, tenant_id, cause=triggers.CAUSE) as scope:
        await triggers.on_events(scope, upto)


async def on_callback(services: Services, tenant_id: UUID, callback_id: UUID) -> None:
    """Handle the wake-up ``workflow.callback``."""
    await callbacks.deliver(services, tenant_id, callback_id)
