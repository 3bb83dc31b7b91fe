"""The runs room."""

from __future__ import annotations

from typing import Any

from retinue import agents, tenancy
from retinue.agents import AgentActivity
from retinue.kernel import Room, Services
from retinue.runs import activity, api
from retinue.runs.commands import ADVANCE, Starter, delete_agent_runs, pause_agent, stop_tenant, wake_parent
from retinue.runs.delegations import Delegations
from retinue.runs.events import EVENTS
from retinue.runs.parents import parent_hooks
from retinue.runs.views import PROJECTIONS
from retinue.runs.work import RunStarter, advance
from retinue.web import Streamed


async def start(services: Services) -> None:
    """Join what the rooms below offer: agents' pauses and deletions, the tenant's emergency stop."""
    services.add(Starter, RunStarter())  # type: ignore[type-abstract]  # services are found by their protocol
    services.add(Delegations, Delegations())
    parent_hooks["run"] = wake_parent
    services.add(AgentActivity, AgentActivity(activity.look))
    for hooks, hook in (
        (agents.on_pause, pause_agent),
        (agents.on_delete, delete_agent_runs),
        (tenancy.stop_hooks, stop_tenant),
    ):
        known: list[Any] = hooks  # hooks of different shapes
        if hook not in known:
            known.append(hook)


def _completed(data: dict[str, Any]) -> dict[str, Any]:
    return {"status": "completed", **data}


def _ended(status: str) -> Any:
    return lambda data: {"status": status, **data}


def _answered(data: dict[str, Any]) -> dict[str, Any]:
    answer = data["answer"]
    return {
        "kind": "model",
        "step": data["step"],
        "name": answer["model"],
        "tokens": answer.get("input_tokens", 0) + answer.get("output_tokens", 0),
        "demo": answer.get("demo", False),
        "from_cache": data.get("from_cache", False),
    }


def _called(data: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "tool", "name": data["tool"], **{key: data[key] for key in data if key != "tool"}}


ROOM = Room(
    name="runs",
    events=EVENTS,
    projections=PROJECTIONS,
    routers=(api.router,),
    work={ADVANCE: advance},
    start=start,
    streamed={
        "run.requested": Streamed("direct_agent_call"),
        "run.activated": Streamed("run_started"),
        "run.progressed": Streamed("task_progress"),
        "run.queued": Streamed("agent_status_changed", lambda data: {"status": "queued", **data}),
        "model.responded": Streamed("task_progress", _answered),
        "tool.delegated": Streamed("task_progress", _called),
        "tool.started": Streamed("tool_request", _called),
        "tool.completed": Streamed("task_progress", _called),
        "tool.unknown": Streamed("system_notice", _called),
        "run.waiting": Streamed("run_waiting"),
        "run.completed": Streamed("run_completed", _completed),
        "run.failed": Streamed("run_failed", _ended("failed")),
        "run.cancelled": Streamed("run_failed", _ended("cancelled")),
        "run.timed_out": Streamed("run_failed", _ended("timed_out")),
        "run.dead_lettered": Streamed("run_failed", _ended("dead_lettered")),
    },
)
