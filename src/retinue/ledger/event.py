"""Events: recorded facts in the past tense, their types and schema versions.

A stored event is a promise. It is never rewritten: a changed shape gets the next ``schema`` number and an upcaster
from the one before, beside the event. Unknown types are kept and skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all events. Fields are plain values, structs, lists and dicts of them."""


class UnknownEvent(Event, frozen=True, kw_only=True):
    """An event of a type that this version does not know (a plugin gone, a newer server); kept as it is."""

    raw: str


class Meta(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is known of every event without reading it. Never personal content, never secrets.

    Attributes:
        actor: who acted, such as ``user:0190…``.
        owner: the user on whose live stream it shows; None: everybody's who may see the tenant's events.
        session: the conversation it belongs to.
        run: the run it belongs to.
        trace: the W3C trace id, on the first event of a batch.
        cause: what led to it, when that is not the trace.
    """

    actor: str = "system"
    owner: UUID | None = None
    session: UUID | None = None
    run: UUID | None = None
    trace: str = ""
    cause: str = ""


def meta_of(
    actor: str,
    actor_id: UUID | None,
    owner: UUID | None,
    session: UUID | None,
    run: UUID | None,
    trace: UUID | None,
    cause: str | None,
) -> Meta:
    """Return the meta of a stored row, from its columns."""
    return Meta(
        actor=f"{actor}:{actor_id}" if actor_id else actor,
        owner=owner,
        session=session,
        run=run,
        trace=trace.hex if trace else "",
        cause=cause or "",
    )


E = TypeVar("E", bound=Event)
E_co = TypeVar("E_co", bound=Event, covariant=True)


class Recorded(msgspec.Struct, Generic[E_co], frozen=True, gc=False):
    """An event with its place. ``position`` is None inside a projection: numbering comes last."""

    tenant_id: UUID
    position: int | None
    stream: str
    version: int
    type: str
    event: E_co
    meta: Meta
    recorded_at: datetime


@dataclass(frozen=True, slots=True)
class _Type:
    name: str
    schema: int
    personal: tuple[str, ...]
    kind: type[Event]
    decoder: msgspec.json.Decoder[Any]


_by_name: dict[str, _Type] = {}
_by_kind: dict[type[Event], _Type] = {}
_upcasters: dict[tuple[str, int], Callable[[dict[str, Any]], dict[str, Any]]] = {}
_encoder = msgspec.json.Encoder()


def event(name: str, *, schema: int = 1, personal: Sequence[str] = ()) -> Callable[[type[E]], type[E]]:
    """Register an event class under ``name``, such as ``"message.sent"``.

    Args:
        name: the stored type; never reused for another meaning.
        schema: the current shape's number, from 1.
        personal: fields that hold personal data of the owner, for export and erasure.

    Raises:
        ValueError: the name or the class is taken, or ``personal`` names a field that does not exist.
    """

    def register(kind: type[E]) -> type[E]:
        missing = set(personal) - set(kind.__struct_fields__)
        if missing:
            raise ValueError(f"{name}: no such field {sorted(missing)}")
        if name in _by_name and _by_name[name].kind.__qualname__ != kind.__qualname__:
            raise ValueError(f"the event type {name} is registered twice")
        found = _Type(name, schema, tuple(personal), kind, msgspec.json.Decoder(kind))
        _by_name[name] = found
        _by_kind[kind] = found
        return kind

    return register


def upcaster(name: str, schema: int) -> Callable[..., Callable[[dict[str, Any]], dict[str, Any]]]:
    """Register a pure function that turns data of ``schema`` into data of ``schema + 1``."""

    def register(
        function: Callable[[dict[str, Any]], dict[str, Any]],
    ) -> Callable[[dict[str, Any]], dict[str, Any]]:
        _upcasters[(name, schema)] = function
        return function

    return register


def registered() -> dict[str, type[Event]]:
    """Return every known event type and its class."""
    return {name: found.kind for name, found in _by_name.items()}


def type_of(kind: type[Event]) -> tuple[str, int]:
    """Return the stored name and current schema of an event class."""
    found = _by_kind[kind]
    return found.name, found.schema


def personal_fields(name: str) -> tuple[str, ...]:
    """Return the fields of a type that hold personal data."""
    return _by_name[name].personal if name in _by_name else ()


def encode(fact: Event) -> str:
    """Write an event's data as JSON text."""
    return _encoder.encode(fact).decode()


def decode(name: str, schema: int, data: str) -> Event:
    """Read an event's data, through upcasters where it was stored in an older shape.

    Raises:
        ValueError: stored in a newer shape than this version knows, or no upcaster for an older one.
    """
    found = _by_name.get(name)
    if found is None:
        return UnknownEvent(raw=data)
    if schema == found.schema:
        fact: Event = found.decoder.decode(data)
        return fact
    if schema > found.schema:
        raise ValueError(f"{name} was stored with schema {schema}; this version knows up to {found.schema}")
    value: dict[str, Any] = msgspec.json.decode(data)
    for step in range(schema, found.schema):
        if (name, step) not in _upcasters:
            raise ValueError(f"{name} has no upcaster from schema {step}")
        value = _upcasters[(name, step)](value)
    upcast: Event = msgspec.convert(value, found.kind)
    return upcast
