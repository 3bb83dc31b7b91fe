"""The manifest of the room."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from retinue.agents import views
from retinue.agents.api import router
from retinue.agents.events import AgentChanged, AgentCreated, AgentDeleted, AgentPaused, AgentResumed
from retinue.kernel import Room
from retinue.web import Streamed


def _status(status: str) -> Callable[[dict[str, Any]], Mapping[str, Any]]:
    return lambda data: {"agent_id": data["agent_id"], "status": status}


ROOM = Room(
    name="agents",
    events=(AgentCreated, AgentChanged, AgentPaused, AgentResumed, AgentDeleted),
    projections=(views.projection,),
    routers=(router,),
    streamed={
        "agent.created": Streamed("agent_status_changed", _status("ready"), resource="agents"),
        "agent.paused": Streamed("agent_status_changed", _status("paused"), resource="agents"),
        "agent.resumed": Streamed("agent_status_changed", _status("ready"), resource="agents"),
        "agent.deleted": Streamed("agent_status_changed", _status("deleted"), resource="agents"),
    },
)
