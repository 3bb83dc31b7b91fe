"""What a room brings to the house: its ``room.py`` holds one :class:`Room`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from retinue.kernel.scope import Services


@dataclass(frozen=True, slots=True)
class Room:
    """A room's manifest; the composition root reads nothing else of a room.

    Attributes:
        name: the room's folder.
        events: its event classes (each registered once by ``ledger.event``).
        projections: ``ledger.Projection`` objects applied inside the append's transaction.
        routers: its HTTP routers (``fastapi.APIRouter``; typed loosely because the kernel does not know the web).
        work: what a worker does for a wake-up: kind -> ``work(services, tenant_id, subject_id)``.
        streamed: event type -> how it is shown on the live stream (``web.Streamed``).
        start: called once when the server starts, after the services exist; returns nothing.
    """

    name: str
    events: Sequence[type[Any]] = ()
    projections: Sequence[Any] = ()
    routers: Sequence[Any] = ()
    work: Mapping[str, Callable[[Services, UUID, UUID], Awaitable[None]]] = field(default_factory=dict)
    streamed: Mapping[str, Any] = field(default_factory=dict)
    start: Callable[[Services], Awaitable[None]] | None = None
