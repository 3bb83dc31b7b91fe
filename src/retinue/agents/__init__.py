"""Agents: versioned definitions, their limits, pausing, YAML."""

from retinue.agents.commands import AgentActivity, create, definition, find, names, on_delete, on_pause, own
from retinue.agents.events import AgentDefinition, Autonomy, Limits, ToolDecision
from retinue.agents.rules import Activity, Agent
from retinue.agents.templates import ORCHESTRATOR, TEAM, install

__all__ = [
    "ORCHESTRATOR",
    "TEAM",
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
    "install",
    "names",
    "on_delete",
    "on_pause",
    "own",
]
