"""Agents: versioned definitions, their limits, pausing, YAML."""

from retinue.agents.commands import AgentActivity, definition, find, on_delete, on_pause
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
    "definition",
    "find",
    "on_delete",
    "on_pause",
]
