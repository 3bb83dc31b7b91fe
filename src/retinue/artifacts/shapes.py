"""Artifacts and uploads as the API shows and takes them: what is known of a file, never its content."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, cast
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from retinue.artifacts.events import Kind
from retinue.artifacts.uploads import Upload
from retinue.artifacts.views import Artifact


class HoldView(BaseModel):
    """A legal hold: until it is released, nobody deletes the artifact, and it does not expire."""

    by: str = Field(description="who placed it, such as `user:<id>`")
    since: datetime
    reason: str


class ArtifactView(BaseModel):
    """A file under seal. `number` says which version of the file it is; `series_id` is its first version's id."""

    artifact_id: UUID
    name: str = Field(description="whatever its giver called it; data, not a path")
    kind: Kind
    size: int = Field(description="bytes of the content")
    media_type: str = Field(description="by the content's first bytes")
    sha256: str = Field(description="of the content, in hexadecimal")
    series_id: UUID
    number: int
    owner_id: UUID
    grant_id: UUID | None
    operation_id: UUID | None
    stored_at: datetime
    expires_at: datetime | None = Field(description="when it is deleted by itself; null: never")
    hold: HoldView | None
    url: str = Field(description="its content")


class NewHold(BaseModel):
    """Why an artifact is to be kept."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(default="", max_length=1000, examples=["dispute 4711"])


class UploadView(BaseModel):
    """A file that comes in pieces."""

    upload_id: UUID
    name: str
    length: int = Field(description="bytes of the whole file")
    received: int = Field(description="bytes that are safe; the next piece begins there")
    state: Literal["open", "finishing", "stored", "refused"]
    problem: str | None = Field(description="why it was refused")
    artifact_id: UUID | None = Field(description="the artifact it became")
    expires_at: datetime = Field(description="when it is given up, unless more comes")


def view_of(artifact: Artifact) -> ArtifactView:
    """Show an artifact."""
    hold = None
    if artifact.held_by is not None and artifact.held_since is not None:
        hold = HoldView(by=artifact.held_by, since=artifact.held_since, reason=artifact.hold_reason or "")
    return ArtifactView(
        artifact_id=artifact.artifact_id,
        name=artifact.name,
        kind=cast(Kind, artifact.kind),
        size=artifact.size,
        media_type=artifact.media_type,
        sha256=artifact.sha256,
        series_id=artifact.series_id,
        number=artifact.number,
        owner_id=artifact.owner_id,
        grant_id=artifact.grant_id,
        operation_id=artifact.operation_id,
        stored_at=artifact.stored_at,
        expires_at=artifact.expires_at,
        hold=hold,
        url=f"/v1/artifacts/{artifact.artifact_id}/content",
    )


def upload_view_of(upload: Upload) -> UploadView:
    """Show an upload."""
    return UploadView(
        upload_id=upload.upload_id,
        name=upload.name,
        length=upload.length,
        received=upload.received,
        state=cast(Literal["open", "finishing", "stored", "refused"], upload.state),
        problem=upload.problem,
        artifact_id=upload.artifact_id,
        expires_at=upload.expires_at,
    )
