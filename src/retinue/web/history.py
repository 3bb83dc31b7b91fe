"""What happened in a stream, as the API lists it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from pydantic import BaseModel

from retinue.kernel import Scope
from retinue.ledger import read_stream
from retinue.web.paging import Page, Paging


class EventView(BaseModel):
    """One event of a stream."""

    position: int | None
    version: int
    type: str
    data: dict[str, Any]
    recorded_at: datetime
    actor: str


async def history(scope: Scope, stream: str, page: Paging) -> Page[EventView]:
    """Return a page of a stream's events, oldest first."""
    first = page.after_one(int) or 0
    recorded = await read_stream(scope, stream, after=first, upto=first + page.limit + 1)
    return page.page(
        recorded,
        lambda one: EventView(
            position=one.position,
            version=one.version,
            type=one.type,
            data=msgspec.to_builtins(one.event),
            recorded_at=one.recorded_at,
            actor=one.meta.actor,
        ),
        lambda one: (one.version,),
    )
