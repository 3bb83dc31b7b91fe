"""The chat room."""

from __future__ import annotations

from typing import Any

from retinue.chat import api
from retinue.chat.commands import ChatConversation
from retinue.chat.events import EVENTS
from retinue.chat.views import PROJECTIONS
from retinue.kernel import Room, Services
from retinue.runs import Conversation
from retinue.web import Streamed


async def start(services: Services) -> None:
    """Be the conversation of runs."""
    services.add(Conversation, ChatConversation())  # type: ignore[type-abstract]  # found by its protocol


def _message(role: str) -> Any:
    return lambda data: {"role": role, **data}


ROOM = Room(
    name="chat",
    events=EVENTS,
    projections=PROJECTIONS,
    routers=(api.router,),
    start=start,
    streamed={
        "message.sent": Streamed("message_created", _message("user")),
        "message.created": Streamed("message_created", _message("assistant")),
        "file.uploaded": Streamed("system_notice"),
    },
)
