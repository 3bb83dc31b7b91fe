"""Which events the live stream shows, under which name, to whom, and how they are written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import orjson

from retinue.kernel import Room
from retinue.ledger import Encoded
from retinue.live import Frame
from retinue.web.gate import ALL

DELTA = "message_delta"


@dataclass(frozen=True, slots=True)
class Streamed:
    """How an event type appears on the stream; a room lists its own in its manifest.

    Attributes:
        name: the ``event:`` of the stream, such as ``message_created``.
        payload: makes the ``payload`` of the event's data; None shows the data as it is.
        resource: an event that no user owns is shown to callers who may ``read`` this resource.
        subject: under which name the data tells whose stream it is on (``plan_id`` for ``plan:<id>``); None: not.
        audience: of those, names the only ones who may see it, by the event's data; None: all of them.
    """

    name: str
    payload: Callable[[dict[str, Any]], Mapping[str, Any]] | None = None
    resource: str = "events"
    subject: str | None = None
    audience: Callable[[dict[str, Any]], str | None] | None = None


class Shown:
    """One event or frame as it goes to clients, written once for all of them.

    Attributes:
        position: the tenant's position; 0 for a frame, which has none and cannot be resumed from.
        sse: the bytes of the event stream.
    """

    __slots__ = ("_data", "_text", "position", "sse")

    def __init__(self, position: int, name: str, data: bytes) -> None:
        self.position = position
        self._data = data
        self._text: str | None = None
        mark = b"id: %d\n" % position if position else b""
        self.sse = b"%bevent: %b\ndata: %b\n\n" % (mark, name.encode(), data)

    def text(self) -> str:
        """Return it as a message of the WebSocket: the same document with the ``id`` inside."""
        if self._text is None:
            mark = b'{"id":%d,' % self.position if self.position else b'{"id":null,'
            self._text = (mark + self._data[1:]).decode()
        return self._text


@dataclass(frozen=True, slots=True)
class Filter:
    """What one client wants and may see.

    Attributes:
        owner: the user whose events are shown.
        resources: whose ownerless events the user may see, too.
        audiences: those the user belongs to.
        session, run: only what belongs to it, when given.
        names: only these names, when given.
    """

    owner: UUID
    resources: frozenset[str] = field(default_factory=frozenset)
    audiences: frozenset[str] = field(default_factory=frozenset)
    session: UUID | None = None
    run: UUID | None = None
    names: frozenset[str] | None = None

    def sees(self, streamed: Streamed, audience: str | None) -> bool:
        """Return whether an event that no user owns may be shown; ``audience`` is the only one that may see it."""
        return streamed.resource in self.resources and (
            audience is None or audience in self.audiences or ALL in self.audiences
        )

    def wants(self, name: str, session: UUID | None, run: UUID | None) -> bool:
        """Return whether something of this name passes; whose it is was looked at before."""
        return (
            (self.session is None or self.session == session)
            and (self.run is None or self.run == run)
            and (self.names is None or name in self.names)
        )


class Catalogue:
    """Every event type that is shown, from the manifests of all rooms."""

    def __init__(self, rooms: Iterable[Room]) -> None:
        self._by_type: dict[str, Streamed] = {}
        for room in rooms:
            self._by_type.update(room.streamed)
        self._names = frozenset({DELTA, *(streamed.name for streamed in self._by_type.values())})
        self._resources = frozenset(streamed.resource for streamed in self._by_type.values())

    def get(self, event_type: str) -> Streamed | None:
        """Return how an event type is shown; None when it is not."""
        return self._by_type.get(event_type)

    def names(self) -> frozenset[str]:
        """Return all names that can appear on a stream."""
        return self._names

    def resources(self) -> frozenset[str]:
        """Return the resources that decide who sees events without an owner."""
        return self._resources

    def shows(self, wanted: Filter, event: Encoded) -> Shown | None:
        """Return the event as ``wanted`` shows it, None when it does not."""
        streamed = self._by_type.get(event.type)
        if streamed is None:
            return None
        owner = event.meta.owner
        if wanted.owner != owner if owner else not wanted.sees(streamed, self.audience(streamed, event)):
            return None
        if not wanted.wants(streamed.name, event.meta.session, event.meta.run):
            return None
        return self.written(streamed, event)

    @staticmethod
    def audience(streamed: Streamed, event: Encoded) -> str | None:
        """Return who alone may see an event that no user owns; None: everybody who may see its resource."""
        return None if streamed.audience is None else streamed.audience(orjson.loads(event.data))

    def written(self, streamed: Streamed, event: Encoded) -> Shown:
        """Write an event the way clients get it."""
        if streamed.payload is None and streamed.subject is None:
            payload = event.data.encode()
        else:
            said = orjson.loads(event.data)
            if streamed.subject is not None:
                said[streamed.subject] = event.stream.partition(":")[2]
            payload = orjson.dumps(said if streamed.payload is None else streamed.payload(said))
        meta = event.meta
        data = b'{"event_type":%b,"payload":%b,"timestamp":%b,"session_id":%b,"run_id":%b}' % (
            orjson.dumps(streamed.name),
            payload,
            orjson.dumps(event.recorded_at, option=orjson.OPT_UTC_Z),
            _id(meta.session),
            _id(meta.run),
        )
        return Shown(event.position, streamed.name, data)


def _id(value: UUID | None) -> bytes:
    """Write an id; the driver's UUIDs are a subclass, which orjson does not know."""
    return b'"%b"' % str(value).encode() if value is not None else b"null"


def written_frame(frame: Frame, timestamp: bytes) -> Shown:
    """Write a frame the way clients get it; ``timestamp`` is JSON."""
    payload = {
        "message_id": frame.message_id,
        "text": frame.text,
        "offset": frame.offset,
        "attempt": frame.attempt,
    }
    data = b'{"event_type":"message_delta","payload":%b,"timestamp":%b,"session_id":%b,"run_id":%b}' % (
        orjson.dumps(payload, default=str),
        timestamp,
        _id(frame.session_id),
        _id(frame.run_id),
    )
    return Shown(0, DELTA, data)
