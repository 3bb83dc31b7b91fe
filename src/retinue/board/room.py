"""The manifest of the room ``board``."""

from __future__ import annotations

from typing import Any

from retinue.board import events
from retinue.board.agent_tools import GROUP, board_tools
from retinue.board.api import router
from retinue.board.commands import refuse_team_in_use
from retinue.board.views import PROJECTIONS
from retinue.board.work import on_advance
from retinue.board.working import ADVANCE, KIND, on_run_ended
from retinue.kernel import Room, Services
from retinue.runs import parent_hooks
from retinue.tenancy import team_hooks
from retinue.tools import Toolbox
from retinue.web import Streamed


async def start(services: Services) -> None:
    """Offer the tools to agents, and be told of runs that end and of teams that are deleted."""
    services.get(Toolbox).add(GROUP, board_tools(services))
    parent_hooks[KIND] = on_run_ended
    if refuse_team_in_use not in team_hooks:
        team_hooks.append(refuse_team_in_use)


def _audience(data: dict[str, Any]) -> str | None:
    team = data.get("team")
    return None if team is None else f"team:{team}"


def _streamed(name: str) -> Streamed:
    return Streamed(name, resource="items", audience=_audience)


ROOM = Room(
    name="board",
    events=(*events.ITEM_EVENTS, events.PolicyChanged),
    projections=PROJECTIONS,
    routers=(router,),
    work={ADVANCE: on_advance},
    streamed={
        "item.created": _streamed("item_created"),
        "item.changed": _streamed("item_changed"),
        "item.withdrawn": _streamed("item_withdrawn"),
        "item.commented": _streamed("item_commented"),
        "item.linked": _streamed("item_linked"),
        "item.unlinked": _streamed("item_unlinked"),
        "item.deleted": _streamed("item_deleted"),
        "item.restored": _streamed("item_restored"),
        "item.proposed": _streamed("item_proposed"),
        "item.proposal_decided": _streamed("item_proposal_decided"),
        "item.run_started": _streamed("item_run_started"),
        "item.run_ended": _streamed("item_run_ended"),
    },
    start=start,
)
