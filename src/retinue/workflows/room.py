"""The manifest of the room."""

from __future__ import annotations

from retinue.kernel import Room, Services
from retinue.planning import end_hooks
from retinue.web import Streamed
from retinue.workflows import callbacks, views, work
from retinue.workflows.api import callbacks_router, hooks, router
from retinue.workflows.commands import CRON, LISTEN, projection
from retinue.workflows.events import EVENTS


async def start(_services: Services) -> None:
    """Be told of the ends of plans."""
    if callbacks.on_plan_end not in end_hooks:
        end_hooks.append(callbacks.on_plan_end)


ROOM = Room(
    name="workflows",
    events=EVENTS,
    projections=(views.projection, projection),
    routers=(router, hooks, callbacks_router),
    work={CRON: work.on_cron, LISTEN: work.on_listen, callbacks.DELIVER: work.on_callback},
    start=start,
    streamed={
        "workflow.triggered": Streamed("system_notice", resource="workflows"),
        "workflow.trigger_failed": Streamed("system_notice", resource="workflows"),
        "callback.dead_lettered": Streamed("system_notice", resource="workflows"),
    },
)
