"""Inline projections: views written in the transaction of the append that feeds them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from retinue.kernel import Scope
from retinue.ledger.event import Event, Recorded, type_of

Handler = Callable[[Scope, Any], Awaitable[None]]
StreamHandler = Callable[[Scope, Sequence[Recorded[Event]]], Awaitable[None]]


class Projection:
    """Handlers of single events: event class -> ``async handler(scope, recorded)``."""

    def __init__(self, handlers: Mapping[type[Event], Handler]) -> None:
        self.handlers = dict(handlers)


class StreamProjection:
    """One handler for whatever one append brings to the streams of a kind: ``async handler(scope, batch)``.

    For views that are a fold of their stream: several events in one append cost one statement.
    """

    def __init__(self, kind: str, handler: StreamHandler) -> None:
        self.kind = kind
        self.handler = handler


class Projections:
    """All of a server's inline projections; a service of the house."""

    def __init__(self, projections: Iterable[Projection | StreamProjection]) -> None:
        self._by_type: dict[str, list[Handler]] = defaultdict(list)
        self._by_stream: dict[str, list[StreamHandler]] = defaultdict(list)
        for projection in projections:
            if isinstance(projection, StreamProjection):
                self._by_stream[projection.kind].append(projection.handler)
            else:
                for kind, handler in projection.handlers.items():
                    self._by_type[type_of(kind)[0]].append(handler)

    async def apply(self, scope: Scope, stream: str, batch: Sequence[Recorded[Event]]) -> None:
        """Bring every view that follows ``stream`` up to date with ``batch``."""
        for handler in self._by_stream.get(stream.partition(":")[0], ()):
            await handler(scope, batch)
        for recorded in batch:
            for one in self._by_type.get(recorded.type, ()):
                await one(scope, recorded)
