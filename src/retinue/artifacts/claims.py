"""Work on one subject that may take long: in this process at once where there is room, else through the queue."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from uuid import UUID

from retinue.dispatch import Activation, Dispatcher, wake
from retinue.kernel import Scope, Services

LongWork = Callable[[Services, UUID, UUID], Awaitable[None]]
"""Works on a subject of a tenant; its last transaction lets go of the subject (``Dispatcher.let_go``)."""


async def begin(scope: Scope, kind: str, subject_id: UUID, work: LongWork) -> None:
    """Have ``work`` begin when the scope commits; whoever takes over from a process that dies begins it again."""
    if scope.service(Dispatcher).capacity_left <= 0 or not await claim(scope, kind, subject_id, work):
        await wake(scope, kind, subject_id)


async def claim(scope: Scope, kind: str, subject_id: UUID, work: LongWork) -> bool:
    """Begin ``work`` here when the scope commits; False when somebody is at it already."""
    dispatcher = scope.service(Dispatcher)
    if not await dispatcher.hold(scope, kind, subject_id):
        return False
    services, tenant_id = scope.services, scope.tenant_id

    async def advance(_: Activation) -> None:
        await work(services, tenant_id, subject_id)

    scope.uow.after_commit(lambda: dispatcher.spawn(kind, tenant_id, subject_id, advance))
    return True


async def let_go(scope: Scope, kind: str, subject_id: UUID) -> None:
    """End the claim on a subject when the scope commits."""
    await scope.service(Dispatcher).let_go(scope, kind, subject_id)
