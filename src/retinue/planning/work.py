"""What a worker does for plans: advance them. A plan needs no worker for longer than one transaction."""

from __future__ import annotations

import logging
from uuid import UUID

from retinue.database import open_scope
from retinue.dispatch import Dispatcher, wake
from retinue.kernel import NotFound, Scope, Services
from retinue.planning.advancing import LANE_FULL, Advance
from retinue.planning.commands import ADVANCE, record
from retinue.planning.events import PlanRecovered
from retinue.planning.folding import folded
from retinue.planning.giving_up import NOT_ITS_FAULT, SOON, look_failed, paused
from retinue.planning.state import apply
from retinue.planning.views import PlanRow, lock_plan

log = logging.getLogger(__name__)


async def advance(services: Services, tenant_id: UUID, plan_id: UUID) -> None:
    """Answer a wake-up: do all that follows from what is new.

    A look that fails is noted and comes again later, until it is given up. What is wrong with the database is raised,
    and the wake-up is tried again.

    Raises:
        Unavailable: the database does not answer.
    """
    try:
        await _look(services, tenant_id, plan_id)
    except NOT_ITS_FAULT:
        raise
    except Exception as error:
        log.exception("a look at the plan %s failed", plan_id)
        await look_failed(services, tenant_id, plan_id, error)


async def _look(services: Services, tenant_id: UUID, plan_id: UUID) -> None:
    async with open_scope(services, tenant_id) as scope:
        try:
            row = await lock_plan(scope, plan_id)
        except NotFound:
            row = None
        if row is not None:
            await _advance(scope, row)
        # Last, for its row is the only one that the ends of runs wait for: they hold their run's row, and whoever
        # deletes an agent its lane, which the steps above may wait for. Whoever comes in between finds the plan held
        # and queues a wake-up.
        await services.get(Dispatcher).let_go(scope, ADVANCE, plan_id)


async def _advance(scope: Scope, row: PlanRow) -> None:
    if row.ended_at is not None:
        return
    scope.user_id = row.owner_id
    key = (scope.tenant_id, row.plan_id)
    state = await folded.bring_up(scope, row.plan_id, row.version)
    failed = state.look_failed
    if failed is not None and await paused(scope, row.plan_id, failed):
        scope.uow.after_commit(lambda: folded.put(key, state))
        return
    step = Advance(scope, row.plan_id, state)
    await step.run()
    if failed is not None and state.look_failed is failed and not state.ended:
        fact = PlanRecovered()
        state.version = await record(scope, row.plan_id, row, state.version, fact)
        apply(state, fact, step.now)
    if step.go_on:
        await wake(scope, ADVANCE, row.plan_id)
    if step.look_again and folded.is_due(key, step.now, step.now + LANE_FULL):
        await wake(scope, ADVANCE, row.plan_id, at=step.now + LANE_FULL)
    timer = step.timer()
    if timer is not None and timer - step.now < SOON:
        # This look may be the one that was meant for it: clocks of machines differ.
        await wake(scope, ADVANCE, row.plan_id, at=timer)
    scope.uow.after_commit(lambda: folded.put(key, state))
