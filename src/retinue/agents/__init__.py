"""Agents: versioned definitions, their limits, pausing, YAML."""

from retinue.agents.commands import AgentActivity, create, definition, find, on_delete, on_pause, own
from retinue.agents.events import AgentDefinition, Autonomy, Limits, ToolDecision
from retinue.agents.rules import Activity, Agent

__all__ = [
    "Activity",
    "Agent",
    "AgentActivity",
    "AgentDefinition",
    "Autonomy",
    "Limits",
    "ToolDecision",
    "create",
    "definition",
    "find",
    "on_delete",
    "on_pause",
    "own",
]
