"""The append-only event store, the single source of truth: append, read, project, follow."""

from retinue.ledger.append import append, read_stream, stream_version
from retinue.ledger.event import (
    Event,
    Meta,
    Recorded,
    UnknownEvent,
    decode,
    event,
    registered,
    type_of,
    upcaster,
)
from retinue.ledger.feed import Encoded, Feed, Subscription
from retinue.ledger.policies import Policies
from retinue.ledger.projection import Projection, Projections, StreamProjection

__all__ = [
    "Encoded",
    "Event",
    "Feed",
    "Meta",
    "Policies",
    "Projection",
    "Projections",
    "Recorded",
    "StreamProjection",
    "Subscription",
    "UnknownEvent",
    "append",
    "decode",
    "event",
    "read_stream",
    "registered",
    "stream_version",
    "type_of",
    "upcaster",
]
