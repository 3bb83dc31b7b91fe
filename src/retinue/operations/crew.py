"""The tenant's own agent ``operations``, whose runs carry operations out. Its owner is the tenant: no user sees it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from uuid import UUID

from retinue import agents, runs
from retinue.agents import Agent, AgentDefinition, Limits
from retinue.kernel import Conflict, NotFound, Scope
from retinue.operations.policy import OperationPolicy

NAME = "operations"
TOOL = "carry_out_operation"

_LONGEST = 86_400  # seconds: each run is given its own time
_known: dict[UUID, UUID] = {}  # by tenant
_MOST_AT_ONCE = 100  # the lane's row has the bound of the policy, which is never above this


def definition(holds: OperationPolicy) -> AgentDefinition:
    """Return what the agent is under a policy."""
    return AgentDefinition(
        name=NAME,
        description="Carries operations out.",
        tools=(TOOL,),
        autonomy="autonomous",
        limits=Limits(concurrency=_MOST_AT_ONCE, queue=holds.queue, seconds=_LONGEST),
    )


async def agent(scope: Scope, holds: OperationPolicy) -> Agent:
    """Return the tenant's agent, made at first use, as the policy wants it."""
    there = _as_tenant(scope)
    found = await _found(there)
    if found is None:
        try:
            found = await agents.create(there, definition(holds))
            await runs.bound_lane(scope, found.agent_id, holds.at_once)
        except Conflict:  # somebody else was quicker, and is through by now
            found = await agents.find(there, NAME)
    # How many may wait is told by the definition that a run is started with.
    return replace(found, definition=definition(holds))


async def agent_id(scope: Scope) -> UUID | None:
    """Return the agent's id, None before the first operation. It never changes, so this process remembers it."""
    tenant_id = scope.tenant_id
    known = _known.get(tenant_id)
    if known is not None:
        return known
    found = await _found(_as_tenant(scope))
    if found is None:
        return None
    scope.uow.after_commit(partial(_known.__setitem__, tenant_id, found.agent_id))
    return found.agent_id


async def follow(scope: Scope, holds: OperationPolicy) -> None:
    """Let a changed policy hold for what is queued already."""
    found = await _found(_as_tenant(scope))
    if found is not None:
        await runs.bound_lane(scope, found.agent_id, holds.at_once)


async def _found(there: Scope) -> Agent | None:
    try:
        return await agents.find(there, NAME)
    except NotFound:
        return None


def _as_tenant(scope: Scope) -> Scope:
    return replace(scope, user_id=scope.tenant_id)
