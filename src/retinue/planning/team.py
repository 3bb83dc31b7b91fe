"""The agents that work can be given to, as the one who plans sees them."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from retinue import agents
from retinue.agents import Agent
from retinue.kernel import Scope

MOST = 60
"""Agents of a team that are named to whoever plans."""

_LONGEST = 300


async def team_of(scope: Scope, *, without: UUID | None = None) -> list[Agent]:
    """Return the user's agents that can be given work; ``without`` is the one who asks, and paused ones rest."""
    own = await agents.own(scope, MOST + 1)
    return [agent for agent in own if agent.agent_id != without and not agent.paused][:MOST]


def the_team(team: Sequence[Agent]) -> str:
    """Say who is in the team and what each is good at, a line each."""
    if not team:
        return "There is no other agent in the team."
    return "\n".join(["The team:", *(f"- {agent.name}: {skills_of(agent)}" for agent in team)])


def skills_of(agent: Agent) -> str:
    """Say in a line what an agent is good at and what it has at hand."""
    what = " ".join((agent.definition.description or agent.definition.instructions).split())[:_LONGEST]
    has = [*agent.definition.tools, *(server.name for server in agent.definition.mcp)]
    return f"{what or 'no description'} (tools: {', '.join(has) or 'none'})"
