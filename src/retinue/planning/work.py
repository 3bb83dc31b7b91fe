"""What a worker does for plans: advance them. A plan needs no worker for longer than one transaction."""

from __future__ import annotations

import logging
from collections import OrderedDict
from datetime import datetime
from uuid import UUID

from retinue.database import open_scope
from retinue.dispatch import Dispatcher, wake
from retinue.kernel import NotFound, Scope, Services
from retinue.ledger import read_stream
from retinue.planning.advancing import LANE_FULL, Advance
from retinue.planning.commands import ADVANCE, record, stream_of
from retinue.planning.events import PlanRecovered
from retinue.planning.giving_up import NOT_ITS_FAULT, SOON, look_failed, paused
from retinue.planning.state import PlanState, apply, fold
from retinue.planning.views import PlanRow, lock_plan

_MOST_NODES = 50_000

log = logging.getLogger(__name__)


class Folded:
    """Folded states of plans, the least recently used thrown out first, so that a long plan is not folded anew.

    A state is taken out while it is worked on, and put back once the transaction that changed it is through. What is
    in here was true at its version, and is brought up to date from there.
    """

    def __init__(self, nodes: int = _MOST_NODES) -> None:
        self._nodes = nodes
        self._held = 0
        self._found: OrderedDict[tuple[UUID, UUID], PlanState] = OrderedDict()
        self._look_at: dict[tuple[UUID, UUID], datetime] = {}

    def take(self, key: tuple[UUID, UUID]) -> PlanState | None:
        """Return a state that nobody else has, by tenant and plan."""
        found = self._found.pop(key, None)
        if found is not None:
            self._held -= len(found.nodes)
        return found

    def put(self, key: tuple[UUID, UUID], state: PlanState) -> None:
        """Hold a committed state, unless the plan has ended."""
        self.take(key)
        if state.ended:
            self._look_at.pop(key, None)
            return
        self._found[key] = state
        self._held += len(state.nodes)
        while self._held > self._nodes and len(self._found) > 1:
            self.take(next(iter(self._found)))

    def is_due(self, key: tuple[UUID, UUID], now: datetime, at: datetime) -> bool:
        """Return whether a wake-up for ``at`` is worth asking for: none that this process asked for is under way."""
        asked = self._look_at.get(key)
        if asked is not None and asked > now:
            return False
        if len(self._look_at) > 10_000:
            self._look_at.clear()
        self._look_at[key] = at
        return True


# Keyed by tenant first: what one tenant does can never show in another.
folded = Folded()


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
    state = await _state(scope, row)
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


async def _state(scope: Scope, row: PlanRow) -> PlanState:
    state = folded.take((scope.tenant_id, row.plan_id))
    if state is None or state.version > row.version:
        return fold(await read_stream(scope, stream_of(row.plan_id)))
    if state.version < row.version:
        fold(await read_stream(scope, stream_of(row.plan_id), after=state.version), state)
    return state
