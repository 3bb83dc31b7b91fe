"""Facts about artifacts. No event holds a key: keys are in a table of their own, which deletion empties."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from retinue.ledger import Event, event

Kind = Literal["upload", "output"]
Form = Literal["content", "sealed", "input"]
Reason = Literal["deleted", "expired", "operation"]


class ArtifactEvent(Event, frozen=True, kw_only=True):
    """Base of the facts about an artifact."""

    artifact_id: UUID


@event("artifact.stored", personal=("name",))
class ArtifactStored(ArtifactEvent, frozen=True, kw_only=True):
    """A file is kept under seal.

    Attributes:
        owner_id: the user whose it is; a grantee's things belong to the user who granted.
        series_id: the first version's id; the same for all versions of a file.
        number: which version, from 1.
        size: bytes of the content.
        sha256: of the content, in hexadecimal.
        recipients: labels of those to whose keys it is sealed.
        expires_at: when it is deleted by itself; None: never.
    """

    owner_id: UUID
    kind: Kind
    name: str
    series_id: UUID
    number: int
    media_type: str
    size: int
    sha256: str
    grant_id: UUID | None = None
    operation_id: UUID | None = None
    recipients: tuple[str, ...] = ()
    expires_at: datetime | None = None


@event("artifact.opened")
class ArtifactOpened(ArtifactEvent, frozen=True, kw_only=True):
    """Somebody was given the content, or a range of it, or the sealed file; or an operation took it as input.

    ``start`` and ``end`` are the bytes of a range, the end exclusive; None for all of it.
    """

    form: Form
    start: int | None = None
    end: int | None = None
    operation_id: UUID | None = None


@event("artifact.held", personal=("reason",))
class ArtifactHeld(ArtifactEvent, frozen=True, kw_only=True):
    """Until it is released, nobody deletes it, and it does not expire. ``by``: the user who wants that."""

    reason: str = ""
    by: UUID | None = None


@event("artifact.released")
class ArtifactReleased(ArtifactEvent, frozen=True, kw_only=True):
    """It may be deleted and may expire again."""


@event("artifact.deleted")
class ArtifactDeleted(ArtifactEvent, frozen=True, kw_only=True):
    """Its keys are destroyed; its blob is removed right after."""

    reason: Reason = "deleted"


@event("artifact.refused")
class ArtifactRefused(ArtifactEvent, frozen=True, kw_only=True):
    """A file was not taken in, because a scanner found something in it."""

    owner_id: UUID
    finding: str


ARTIFACT_EVENTS = (
    ArtifactStored,
    ArtifactOpened,
    ArtifactHeld,
    ArtifactReleased,
    ArtifactDeleted,
    ArtifactRefused,
)
