"""Finds the agents that a plan names, and refuses a plan that cannot be carried out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from retinue import agents
from retinue.agents import Agent
from retinue.kernel import NotFound, Scope
from retinue.planning.checks import check_plan, refusal, same_name
from retinue.planning.graph import MOST_TASKS, Plan, Task


async def checked_plan(scope: Scope, plan: Plan, *, most: int = MOST_TASKS, inside: str = "") -> Plan:
    """Return a plan whose tasks name the scope's user's own agents by id, once nothing is wrong with it.

    Args:
        most: how many tasks it may have.
        inside: what is put before the path of each mistake.

    Raises:
        BadInput: something is wrong; ``errors`` names every mistake with its path.
    """
    found = await agents_of(scope, plan.tasks)
    mistakes = check_plan(plan, agents=found, most=most)
    if mistakes:
        raise refusal(mistakes, inside=inside)
    return msgspec.structs.replace(plan, tasks=with_agents(plan.tasks, found))


async def agents_of(scope: Scope, tasks: Sequence[Task]) -> Mapping[str, Agent]:
    """Return the user's agents that tasks name, at any depth, by the name (or id) they are named by."""
    found: dict[str, Agent] = {}
    for name in sorted(_names(tasks)):
        with suppress(NotFound):
            found[same_name(name)] = await agents.find(scope, name)
    return found


def _names(tasks: Sequence[Task]) -> set[str]:
    own = {task.agent for task in tasks if task.agent}
    return own.union(*(_names(task.each.body) for task in tasks if task.each is not None))


def with_agents(tasks: Sequence[Task], found: Mapping[str, Agent]) -> tuple[Task, ...]:
    """Return tasks with the ids of their agents, at any depth."""
    return tuple(_with_agent(task, found) for task in tasks)


def _with_agent(task: Task, found: Mapping[str, Agent]) -> Task:
    changes: dict[str, Any] = {}
    if task.agent:
        agent = found[same_name(task.agent)]
        changes = {"agent": agent.name, "agent_id": agent.agent_id}
    if task.each is not None:
        changes["each"] = msgspec.structs.replace(task.each, body=with_agents(task.each.body, found))
    return msgspec.structs.replace(task, **changes) if changes else task
