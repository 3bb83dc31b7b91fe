"""What the agents of a plan may do, for whoever decides about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from retinue.agents import Agent
from retinue.kernel import Scope
from retinue.planning.graph import Plan, Task
from retinue.tools import Autonomy, Effect, Labels, Toolbox, Verdict, needs_approval

_CHANGES = (Effect.WRITE, Effect.EGRESS)


def powers_of(toolbox: Toolbox, agent: Agent) -> Mapping[str, str]:
    """Return, for each tool of an agent, what a call may cause and whether a person is asked before.

    Such as ``{"files_write": "write, asks"}``. Tools of MCP servers are only known when they are called; each of them
    asks unless its owner has labelled it, and stands here as ``<server>: *``.
    """
    made = agent.definition
    found = {
        name: f"{labels.effect}, {_verdict(agent, name, labels)}"
        for name, labels in toolbox.labels_of(made.tools).items()
    }
    return found | {f"{server.name}: *": "anything its server offers" for server in made.mcp}


def act_alone(scope: Scope, plan: Plan, team: Sequence[Agent]) -> list[str]:
    """Return the names of agents in a plan that may change or send something without asking a person."""
    toolbox = scope.service(Toolbox)
    used = {task.agent for task in all_tasks(plan.tasks)}
    return sorted(agent.name for agent in team if agent.name in used and _acts_alone(toolbox, agent))


def all_tasks(tasks: Sequence[Task]) -> list[Task]:
    """Return tasks and those in their bodies."""
    return [one for task in tasks for one in (task, *all_tasks(task.each.body if task.each else ()))]


def _acts_alone(toolbox: Toolbox, agent: Agent) -> bool:
    if agent.definition.mcp and agent.definition.autonomy in (Autonomy.TRUSTED, Autonomy.AUTONOMOUS):
        return True
    return any(
        labels.effect in _CHANGES and _verdict(agent, name, labels) == "alone"
        for name, labels in toolbox.labels_of(agent.definition.tools).items()
    )


def _verdict(agent: Agent, tool: str, labels: Labels) -> str:
    override = agent.definition.tool_policy.get(tool)
    decision = needs_approval(
        labels, Autonomy(agent.definition.autonomy), Verdict(override) if override else None, tainted=False
    )
    return {Verdict.ALLOW: "alone", Verdict.ASK: "asks", Verdict.DENY: "never"}[decision.verdict]
