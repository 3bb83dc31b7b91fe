"""Facts about grants, on the stream ``grant:<id>``. What an operation cost is recorded with the operation."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from retinue.ledger import Event, event


@event("grant.created")
class GrantCreated(Event, frozen=True, kw_only=True):
    """A user granted an application something. ``budget`` is in nano-dollars, ``seal_to`` in base64url."""

    grant_id: UUID
    owner_id: UUID
    application: str
    grantee: str
    seal_to: str | None = None
    drivers: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    files: list[UUID] | None = None
    parameters: dict[str, Any] | None = None
    uses: int | None = None
    budget: int | None = None
    retention_seconds: int | None = None
    max_seconds: int | None = None
    expires_at: datetime | None = None


@event("grant.revoked")
class GrantRevoked(Event, frozen=True, kw_only=True):
    """A grant was taken back: by its user or an admin, or because its user left the tenant."""

    grant_id: UUID
    reason: Literal["revoked", "left"]


@event("grant.expired")
class GrantExpired(Event, frozen=True, kw_only=True):
    """The time of a grant is over."""

    grant_id: UUID


@event("grant.used")
class GrantUsed(Event, frozen=True, kw_only=True):
    """The grantee used the grant: ``what`` it did, such as ``operation.started``, and to what.

    ``reserved`` are the nano-dollars set aside for an operation.
    """

    grant_id: UUID
    what: str
    subject: str
    reserved: int | None = None
