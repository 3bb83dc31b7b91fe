"""What a worker does for operations: record the end of one whose run has ended, and stop those of a grant."""

from __future__ import annotations

import logging
from contextlib import suppress
from uuid import UUID

from retinue.database import open_scope
from retinue.dispatch import Dispatcher
from retinue.kernel import Conflict, Fault, NotFound, Scope, Services
from retinue.operations import beginning, ending, views
from retinue.operations.commands import LOOK, REVOKED, cancel
from retinue.operations.views import find_operation
from retinue.operations.workshop import Workshop
from retinue.tenancy import find_member

LEFT = "operation.left"

log = logging.getLogger(__name__)


async def look(services: Services, tenant_id: UUID, operation_id: UUID) -> None:
    """Look at an operation whose run has ended. Once more changes nothing."""
    attempts = 0
    async with open_scope(services, tenant_id, cause=f"operation:{operation_id}") as scope:
        with suppress(NotFound):
            row = await find_operation(scope, operation_id, lock=True)
            if await ending.look(scope, row):
                attempts = row.attempt
            else:
                await ending.forget_files(scope, row)
        await services.get(Dispatcher).let_go(scope, LOOK, operation_id)
    if attempts:
        await _wipe(services, operation_id, attempts)


async def _wipe(services: Services, operation_id: UUID, attempts: int) -> None:
    """End what a worker that is gone left on this machine."""
    try:
        sandbox = await services.get(Workshop).sandbox()
    except Fault as fault:
        log.warning("what operation %s left cannot be wiped here: %s", operation_id, fault.detail)
        return
    await beginning.end_earlier(sandbox, operation_id, attempts + 1)


async def stop_of_grant(services: Services, tenant_id: UUID, grant_id: UUID) -> None:
    """End everything of a grant that is over."""
    async with open_scope(services, tenant_id, cause=f"grant:{grant_id}") as scope:
        for operation_id in await views.open_operations(scope, grant_id=grant_id):
            with suppress(Conflict, NotFound):
                await cancel(scope, operation_id, "The grant is over.", cause="grant")
        await services.get(Dispatcher).let_go(scope, REVOKED, grant_id)


async def on_leave(scope: Scope, user_id: UUID) -> None:
    """Have everything ended that somebody asked for who leaves the tenant."""
    await scope.service(Dispatcher).prompt(scope, LEFT, user_id)


async def stop_of_leaver(services: Services, tenant_id: UUID, user_id: UUID) -> None:
    """End everything of somebody who has left; not of one who is back."""
    async with open_scope(services, tenant_id, cause=f"leave:{user_id}") as scope:
        if await find_member(scope, user_id) is None:
            for operation_id in await views.open_operations(scope, owner_id=user_id):
                with suppress(Conflict, NotFound):
                    await cancel(scope, operation_id, "Whoever asked for it has left the tenant.")
        await services.get(Dispatcher).let_go(scope, LEFT, user_id)
