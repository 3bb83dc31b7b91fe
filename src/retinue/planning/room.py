"""The manifest of the room."""

from __future__ import annotations

from typing import Any

import msgspec

from retinue.approvals import edit_checks
from retinue.kernel import Room, Services
from retinue.planning import api, delegation, orchestrator, policy, views
from retinue.planning.asking import check_edit
from retinue.planning.commands import ADVANCE, wake_plan
from retinue.planning.events import EVENTS
from retinue.planning.work import advance
from retinue.runs import Delegations, parent_hooks
from retinue.tools import Toolbox
from retinue.web import Streamed

_LONGEST_OUTPUT = 4_000  # characters that the stream shows; the plan has the rest


async def start(services: Services) -> None:
    """Join what the rooms below offer.

    The ends of tasks' runs, the check of plans that people edit, and the tools that hand work on.
    """
    parent_hooks["plan"] = wake_plan
    edit_checks["plan"] = check_edit
    delegations, toolbox = services.get(Delegations), services.get(Toolbox)
    delegations.add(orchestrator.KIND, orchestrator.ByAPlan(), orchestrator.TOOL, opening=orchestrator.InTime())
    toolbox.add(orchestrator.TOOL, [orchestrator.plan_tool()])
    tools = delegation.tools()
    delegations.add(delegation.KIND, delegation.ToAnotherAgent(), *(tool.name for tool in tools))
    for tool in tools:
        toolbox.add(tool.name, [tool])


def _drafted(data: dict[str, Any]) -> dict[str, Any]:
    plan = data["plan"]
    shown = ("id", "title", "kind", "agent", "depends_on", "risk")
    return {
        "plan_id": data["plan_id"],
        "title": plan["title"],
        "origin": plan["origin"]["kind"],
        "asked": data.get("ask", []),
        "tasks": [{name: task[name] for name in shown if name in task} for task in plan["tasks"]],
    }


def _short(data: dict[str, Any]) -> dict[str, Any]:
    output = data.get("output")
    if output is None:
        return data
    text = output if isinstance(output, str) else msgspec.json.encode(output).decode()
    if len(text) <= _LONGEST_OUTPUT:
        return data
    return {**data, "output": text[:_LONGEST_OUTPUT], "cut": True}


def _progress(what: str) -> Any:
    return lambda data: {"kind": "task", "status": what, **data}


def _about_plan(what: str) -> Any:
    return lambda data: {"kind": "plan", "status": what, **data}


def _expanded(data: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "task", "status": "expanded", **data, "items": len(data["items"])}


def _ended(status: str) -> Any:
    return lambda data: {"status": status, **_short(data)}


def _streamed(name: str, payload: Any = None) -> Streamed:
    return Streamed(name, payload, resource="plans", subject="plan_id")


ROOM = Room(
    name="planning",
    events=(*EVENTS, policy.PolicyChanged),
    projections=(*views.PROJECTIONS, *policy.PROJECTIONS),
    routers=(api.router, api.policy_router),
    work={ADVANCE: advance},
    start=start,
    streamed={
        "plan.drafted": _streamed("task_plan_created", _drafted),
        "plan.approval_requested": _streamed("plan_request"),
        "task.started": _streamed("task_started"),
        "task.completed": _streamed("task_completed", _short),
        "task.failed": _streamed("task_progress", _progress("failed")),
        "task.skipped": _streamed("task_progress", _progress("skipped")),
        "task.expanded": _streamed("task_progress", _expanded),
        "task.retried": _streamed("task_progress", _progress("retried")),
        "plan.completed": _streamed("run_completed", _ended("completed")),
        "plan.failed": _streamed("run_failed", _ended("failed")),
        "plan.look_failed": _streamed("task_progress", _about_plan("look_failed")),
        "plan.requeued": _streamed("task_progress", _about_plan("requeued")),
        "plan.dead_lettered": _streamed("run_failed", _ended("dead_lettered")),
        "plan.cancelled": _streamed("run_failed", _ended("cancelled")),
    },
)
