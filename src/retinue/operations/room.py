"""The operations room."""

from __future__ import annotations

from typing import Any

from retinue import grants, tenancy
from retinue.kernel import Room, Services, Settings, dollars
from retinue.operations import api, attempting, delegation, filled_hooks, policy, views
from retinue.operations.commands import CALL, KIND, LOOK, REVOKED, on_grant_over, on_run_ended, on_stop
from retinue.operations.drivers import Drivers
from retinue.operations.events import EVENTS
from retinue.operations.work import LEFT, look, on_leave, stop_of_grant, stop_of_leaver
from retinue.operations.workshop import Workshop
from retinue.runs import Delegations, parent_hooks
from retinue.tools import Toolbox
from retinue.web import Streamed


async def start(services: Services) -> None:
    """Join what the rooms below offer: runs, grants, the emergency stop, artifacts; and offer agents ``operate``."""
    services.add(Drivers, Drivers())
    services.add(Workshop, Workshop(services.get(Settings)))
    toolbox = services.get(Toolbox)
    toolbox.add(CALL, [attempting.tool(services)], listed=False)
    toolbox.add(delegation.TOOL, [delegation.tool()])
    services.get(Delegations).add(KIND, delegation.ByAnOperation(), delegation.TOOL)
    parent_hooks[KIND] = on_run_ended
    if on_grant_over not in grants.on_revoke:
        grants.on_revoke.append(on_grant_over)
    if on_leave not in tenancy.leave_hooks:
        tenancy.leave_hooks.append(on_leave)
    if on_stop not in tenancy.stop_hooks:
        # Before the lanes are closed: the runs that are cancelled here must not be asked to wait.
        tenancy.stop_hooks.insert(0, on_stop)
    filled_hooks.join_artifacts()


def _progress(status: str) -> Any:
    return lambda data: {"kind": "operation", "status": status, **data}


def _retried(data: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "operation", "status": "queued", **_in_dollars(data, "budget")}


def _requested(data: dict[str, Any]) -> dict[str, Any]:
    shown = ("operation_id", "run_id", "grant_id", "application", "driver", "goal", "model", "limits")
    return {"kind": "operation", "status": "queued", **{name: data[name] for name in shown if name in data}}


def _ended(status: str) -> Any:
    def shown(data: dict[str, Any]) -> dict[str, Any]:
        used = {"usage": _in_dollars(data["usage"], "cost", "model_cost")} if "usage" in data else {}
        return {"kind": "operation", "status": status, **data, **used}

    return shown


def _in_dollars(data: dict[str, Any], *names: str) -> dict[str, Any]:
    """Write amounts, which events hold in nano-dollars, as the API does everywhere."""
    return data | {name: dollars(data[name]) for name in names if isinstance(data.get(name), int)}


def _streamed(name: str, payload: Any) -> Streamed:
    return Streamed(name, payload, resource="operations", subject="operation_id")


ROOM = Room(
    name="operations",
    events=(*EVENTS, policy.PolicyChanged),
    projections=(*views.PROJECTIONS, *policy.PROJECTIONS),
    routers=(api.router, api.policy_router),
    work={LOOK: look, REVOKED: stop_of_grant, LEFT: stop_of_leaver},
    start=start,
    streamed={
        "operation.requested": _streamed("task_progress", _requested),
        "operation.started": _streamed("task_started", _progress("running")),
        "operation.progressed": _streamed("task_progress", _progress("running")),
        "operation.handed_over": _streamed("task_progress", _progress("queued")),
        "operation.cancel_requested": _streamed("task_progress", _progress("cancelling")),
        "operation.retried": _streamed("task_progress", _retried),
        "operation.completed": _streamed("task_completed", _ended("completed")),
        "operation.failed": _streamed("task_completed", _ended("failed")),
        "operation.timed_out": _streamed("task_completed", _ended("timed_out")),
        "operation.cancelled": _streamed("task_completed", _ended("cancelled")),
    },
)
