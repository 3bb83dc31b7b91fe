"""What a worker does for the board: start, end and record the runs of items."""

from __future__ import annotations

from uuid import UUID

from retinue.board.working import ADVANCE, advance
from retinue.database import open_scope
from retinue.dispatch import Dispatcher
from retinue.kernel import Services


async def on_advance(services: Services, tenant_id: UUID, item_id: UUID) -> None:
    """Handle the wake-up ``item.advance``."""
    async with open_scope(services, tenant_id, cause=f"wake-up:{ADVANCE}") as scope:
        await advance(scope, item_id)
        # Last, as for plans: whoever changes the item holds its row, and then touches this one.
        await scope.service(Dispatcher).let_go(scope, ADVANCE, item_id)
