"""States of plans that this process has folded, so that a plan that is looked at again is not folded anew."""

from __future__ import annotations

from collections import OrderedDict
from datetime import datetime
from uuid import UUID

from retinue.kernel import Scope
from retinue.ledger import read_stream
from retinue.planning.commands import stream_of
from retinue.planning.state import PlanState, fold

_MOST_NODES = 50_000


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

    async def bring_up(self, scope: Scope, plan_id: UUID, version: int) -> PlanState:
        """Return a plan's state at a version, which the caller has from its row. Nobody else has it until it is put."""
        state = self.take((scope.tenant_id, plan_id))
        if state is None or state.version > version:
            return fold(await read_stream(scope, stream_of(plan_id), upto=version))
        if state.version < version:
            fold(await read_stream(scope, stream_of(plan_id), after=state.version, upto=version), state)
        return state


# Keyed by tenant first: what one tenant does can never show in another.
folded = Folded()
