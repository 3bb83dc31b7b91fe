"""A tenant whose plans are advanced by hand, on a real database."""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from retinue.agents import AgentDefinition, Limits
from retinue.agents.commands import create
from retinue.kernel import Clock, ManualClock, Scope, Services, SystemClock
from retinue.ledger import read_stream
from retinue.planning import commands, matching, work
from retinue.planning.graph import Plan
from retinue.planning.state import PlanState
from tests.support.scopes import scope_of

LATER = timedelta(hours=1)
"""After the clocks of the database and of the test, which differ."""


class Office:
    """A tenant with one user, whose plans are advanced by hand: nothing happens by itself."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.tenant_id, self.user_id = uuid4(), uuid4()
        self.clock = ManualClock(SystemClock().now())
        services.add(Clock, self.clock)  # type: ignore[type-abstract]  # services are found by their protocol

    def scope(self) -> AbstractAsyncContextManager[Scope]:
        return scope_of(self.services, self.tenant_id, user_id=self.user_id, clock=self.clock)

    async def hire(self, name: str = "a", **limits: Any) -> UUID:
        async with self.scope() as scope:
            found = await create(scope, AgentDefinition(name=name, limits=Limits(**limits)))
        return found.agent_id

    async def start(self, plan: Plan, **more: Any) -> UUID:
        async with self.scope() as scope:
            return await commands.start_plan(scope, plan, **more)

    async def advance(self, plan_id: UUID) -> PlanState:
        await work.advance(self.services, self.tenant_id, plan_id)
        return await self.state(plan_id)

    async def state(self, plan_id: UUID) -> PlanState:
        async with self.scope() as scope:
            return await commands.load_plan(scope, plan_id)

    async def facts(self, plan_id: UUID) -> list[object]:
        async with self.scope() as scope:
            return [one.event for one in await read_stream(scope, commands.stream_of(plan_id))]

    async def offer(self, name: str, event: dict[str, Any]) -> int:
        """Give an event to the tasks that wait for it; everybody may see it."""

        async def may_see(_scope: Scope, _owner: UUID) -> bool:
            return True

        at = self.clock.now() + LATER
        return await matching.offer(self.services, self.tenant_id, {"type": name, **event}, at, may_see)

    async def wake_ups(self, subject_id: UUID) -> Counter[str]:
        async with self.scope() as scope:
            rows = await scope.queries.fetch(
                "SELECT entrypoint FROM dispatch.pgqueuer WHERE convert_from(payload, 'UTF8') LIKE $1",
                f"%{subject_id}%",
            )
        return Counter(row["entrypoint"] for row in rows)
