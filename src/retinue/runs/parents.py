"""Who is told of a run's end: its session, or the work it is a part of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from uuid import UUID

from retinue.kernel import Scope
from retinue.runs.conversation import Conversation, EndedRun
from retinue.runs.events import Parent

ParentHook = Callable[[Scope, Parent, EndedRun], Awaitable[None]]

parent_hooks: dict[str, ParentHook] = {}
"""By kind of parent: what happens in the transaction that ends a run.

A hook locks nothing that lies above the run. It asks for somebody to look (``Dispatcher.prompt``, ``wake``).
"""


def conversation_of(scope: Scope) -> Conversation:
    """Return the sessions' side of runs."""
    return scope.service(Conversation)  # type: ignore[type-abstract]  # services are found by their protocol


async def lock_above(scope: Scope, session_id: UUID, parent: Parent | None) -> None:
    """Lock what must be locked before a run's row: its session, if it writes there."""
    if parent is None:
        await conversation_of(scope).lock(scope, session_id)


async def tell_end(scope: Scope, parent: Parent | None, ended: EndedRun) -> None:
    """Pass the end of a run on to its session or its parent, in the transaction that ends it."""
    if parent is None:
        await conversation_of(scope).ended(scope, ended)
    elif (hook := parent_hooks.get(parent.kind)) is not None:
        await hook(scope, parent, ended)
