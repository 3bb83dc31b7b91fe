"""Gives events to the tasks that wait for them.

Very many tasks of a tenant may wait, each with an expression of a stranger. So they are read in pages; an expression is
evaluated outside of any transaction, over a state that is kept in memory; what one may cost is bounded; and others of
this process get their turn in between. Only a task that an event fits has its plan locked.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from retinue.database import open_scope
from retinue.dispatch import Dispatcher
from retinue.kernel import BadInput, Scope, Services
from retinue.planning.briefing import context_of
from retinue.planning.commands import ADVANCE, load_plan, record
from retinue.planning.evaluation import compile_expression, spend
from retinue.planning.events import TaskCompleted
from retinue.planning.folding import folded
from retinue.planning.giving_up import NOT_ITS_FAULT
from retinue.planning.state import PlanState, TaskStatus
from retinue.planning.views import WantedEvent, lock_plan, waits_for

log = logging.getLogger(__name__)

PAGE = 100
"""Waiting tasks that one transaction reads."""

MATCH_WORK = 8_000_000
"""What ``match`` may take for one event, in the units of ``weighing.py``: about 40 ms, and a tenth of others."""

TURN_SECONDS = 0.01
"""How long expressions are evaluated before others of this process get their turn."""

MaySee = Callable[[Scope, UUID], Awaitable[bool]]


async def offer(
    services: Services, tenant_id: UUID, event: Mapping[str, Any], at: datetime, may_see: MaySee, *, cause: str = ""
) -> int:
    """Give an event to every task of the tenant that waits for its type; return how many took it.

    It may be offered again: a task takes one event. A plan that cannot be read is passed over.

    Args:
        event: what expressions see as ``event``, and the task's result; with its ``type``.
        at: when it was recorded; who began to wait later does not get it.
        may_see: whether the owner of a plan may see the event.

    Raises:
        Unavailable: the database does not answer; the event is to be offered again.
    """
    taken, last, turn = 0, None, _Turn()
    while True:
        async with open_scope(services, tenant_id, cause=cause) as scope:
            page = await waits_for(scope, str(event["type"]), at, last, PAGE)
            seeing = {owner: await may_see(scope, owner) for owner in {one.owner_id for one in page}}
        for one in page:
            if seeing[one.owner_id]:
                taken += await _offer(services, tenant_id, one, event, cause)
                await turn.over()
        if len(page) < PAGE:
            return taken
        last = page[-1]


class _Turn:
    """Lets others have theirs when one has had the time of one."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    async def over(self) -> None:
        if time.monotonic() - self._began > TURN_SECONDS:
            await asyncio.sleep(0)
            self._began = time.monotonic()


async def _offer(
    services: Services, tenant_id: UUID, wanted: WantedEvent, event: Mapping[str, Any], cause: str
) -> bool:
    try:
        if not await _seems_to_fit(services, tenant_id, wanted, event):
            return False
        async with open_scope(services, tenant_id, cause=cause) as scope:
            return await satisfy(scope, wanted, event)
    except NOT_ITS_FAULT:
        raise
    except Exception:
        log.exception("the plan %s was passed over by an event", wanted.plan_id)
        return False


async def _seems_to_fit(services: Services, tenant_id: UUID, wanted: WantedEvent, event: Mapping[str, Any]) -> bool:
    """Whether a task would take an event, by what its plan was when it was looked for; nothing is locked."""
    key = (tenant_id, wanted.plan_id)
    state = folded.take(key)
    if state is None or state.version != wanted.version:
        if state is not None:
            folded.put(key, state)  # to be gone on from
        async with open_scope(services, tenant_id) as scope:
            state = await folded.bring_up(scope, wanted.plan_id, wanted.version)
    fits = _fits(state, wanted.task_id, event)
    folded.put(key, state)
    return fits


async def satisfy(scope: Scope, wanted: WantedEvent, event: Mapping[str, Any]) -> bool:
    """Give a waiting task its event; False when the task does not wait any more, or ``match`` does not hold.

    Raises:
        NotFound: there is no such plan.
    """
    await lock_plan(scope, wanted.plan_id)
    state = await load_plan(scope, wanted.plan_id)
    if not _fits(state, wanted.task_id, event):
        return False
    assert state.drafted is not None
    # Whoever caused an event may have put anything in it.
    fact = TaskCompleted(task_id=wanted.task_id, output=dict(event), tainted=True)
    await record(scope, wanted.plan_id, state.drafted, state.version, fact)
    await scope.service(Dispatcher).prompt(scope, ADVANCE, wanted.plan_id)
    return True


def _fits(state: PlanState, task_id: str, event: Mapping[str, Any]) -> bool:
    node = state.nodes.get(task_id)
    if state.ended or node is None or node.status is not TaskStatus.RUNNING or node.task.wait is None:
        return False
    match = node.task.wait.match
    return match is None or matches(match, context_of(state, node), event)


def matches(match: str, context: Mapping[str, Any], event: Mapping[str, Any]) -> bool:
    """Whether an expression holds for an event. One that would take more than :data:`MATCH_WORK` does not."""
    try:
        return spend(compile_expression(match), {**context, "event": dict(event)}, [MATCH_WORK]) is True
    except BadInput:
        return False  # an event of another shape than the expression expects is not the one
