"""What rooms beside and above this one fill in: limits by tier, charges for storage, what a grant says of uploads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from retinue.artifacts.rules import Limits
from retinue.kernel import Scope, Settings


@dataclass(frozen=True, slots=True)
class Stored:
    """Storage that somebody used: ``byte_seconds`` of the artifacts of one user, grant and operation."""

    user_id: UUID
    grant_id: UUID | None
    operation_id: UUID | None
    byte_seconds: int


@dataclass(frozen=True, slots=True)
class GrantTerms:
    """What a grant says about what its grantee uploads.

    Attributes:
        recipients: label -> public key of those it is sealed to; see :class:`retinue.artifacts.Incoming`.
        retention_seconds: how long it is kept; None: as the user's limits say.
        expires_at: when the grant ends, and its artifacts with it.
    """

    recipients: Mapping[str, bytes]
    retention_seconds: int | None
    expires_at: datetime | None


@dataclass(slots=True)
class Hooks:
    """Functions of other rooms; each is called in the scope's transaction.

    Attributes:
        limits: what a user may store; None: what the settings say.
        charge: takes note of storage that was used; None: nobody counts it.
        grant_terms: what a grant says about uploads; None: nothing.
        stored: a user has more stored than before: scope, the user.
        noted: a grantee did something with an artifact: scope, what (``artifact.opened``), the artifact's id.
    """

    limits: Callable[[Scope, UUID], Awaitable[Limits]] | None = None
    charge: Callable[[Scope, list[Stored]], Awaitable[None]] | None = None
    grant_terms: Callable[[Scope, UUID], Awaitable[GrantTerms]] | None = None
    stored: Callable[[Scope, UUID], Awaitable[None]] | None = None
    noted: Callable[[Scope, str, UUID], Awaitable[None]] | None = None


hooks = Hooks()
"""The one set of hooks of this process."""


async def limits_of(scope: Scope, user_id: UUID) -> Limits:
    """Return what a user may store."""
    if hooks.limits is not None:
        return await hooks.limits(scope, user_id)
    settings = scope.service(Settings)
    days = settings.artifact_retention_days
    return Limits(
        user_bytes=settings.artifact_user_bytes,
        artifact_bytes=settings.artifact_bytes,
        retention_seconds=None if days == 0 else days * 86_400,
    )


async def note(scope: Scope, what: str, artifact_id: UUID) -> None:
    """Tell whoever keeps the history of a grant what its grantee did."""
    if scope.grant_id is not None and hooks.noted is not None:
        await hooks.noted(scope, what, artifact_id)
