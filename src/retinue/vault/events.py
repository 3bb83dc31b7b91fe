"""Facts about secrets. Their values are never in an event, sealed or not."""

from __future__ import annotations

from retinue.ledger import Event, event


@event("secret.sealed")
class SecretSealed(Event, frozen=True, kw_only=True):
    """A secret was stored, or replaced by a new value."""

    purpose: str
    name: str


@event("secret.removed")
class SecretRemoved(Event, frozen=True, kw_only=True):
    """A secret was deleted; its value is gone for good."""

    purpose: str
    name: str
