"""Who gets a message that names no agent."""

from __future__ import annotations

from retinue import agents
from retinue.agents import Agent
from retinue.kernel import Conflict, NotFound, Scope
from retinue.planning.policy import policy


async def find_orchestrator(scope: Scope) -> Agent:
    """Return the user's orchestrator; the one that comes with the server is made with the first such message.

    Raises:
        Conflict: the tenant's policy names an agent that the user does not have.
    """
    name = (await policy(scope))[0].orchestrator
    try:
        return await agents.find(scope, name)
    except NotFound:
        if name != agents.ORCHESTRATOR:
            raise Conflict(
                f"Messages that name no agent go to the agent '{name}', which you do not have. "
                "Make it, name an agent in target_agent, or have the policy changed."
            ) from None
    found, _ = (await agents.install(scope, [name]))[0]
    return found
