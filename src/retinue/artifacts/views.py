"""The table ``artifacts``: its projection, queries, and who sees which row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from retinue.artifacts.events import (
    ArtifactDeleted,
    ArtifactEvent,
    ArtifactHeld,
    ArtifactOpened,
    ArtifactReleased,
    ArtifactStored,
)
from retinue.kernel import Gone, NotFound, Row, Scope
from retinue.ledger import Event, Recorded, StreamProjection

_COLUMNS = (
    "artifact_id, version, owner_id, grant_id, operation_id, kind, name, series_id, number, media_type, size, sha256, "
    "stored_at, expires_at, held_by, held_since, hold_reason, deleted_at, deleted_for"
)


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file under seal, without its content and its keys.

    Attributes:
        version: of its stream of facts, for optimistic locking; ``number`` is which version of the file it is.
        series_id: the first version's id.
        size: bytes of the content.
        sha256: of the content, in hexadecimal.
        held_by: who placed it under legal hold, an actor such as ``user:<id>``; None: nobody.
    """

    artifact_id: UUID
    version: int
    owner_id: UUID
    grant_id: UUID | None
    operation_id: UUID | None
    kind: str
    name: str
    series_id: UUID
    number: int
    media_type: str
    size: int
    sha256: str
    stored_at: datetime
    expires_at: datetime | None
    held_by: str | None
    held_since: datetime | None
    hold_reason: str | None
    deleted_at: datetime | None
    deleted_for: str | None

    def gone(self, now: datetime) -> bool:
        """Return whether it is deleted, or has expired and is about to be."""
        if self.deleted_at is not None:
            return True
        return self.held_by is None and self.expires_at is not None and self.expires_at <= now


def stream_of(artifact_id: UUID) -> str:
    """Name an artifact's stream."""
    return f"artifact:{artifact_id}"


# Projection


async def project(scope: Scope, batch: Sequence[Recorded[Event]]) -> None:
    """Bring an artifact's row up to date."""
    for recorded in batch:
        assert isinstance(recorded.event, ArtifactEvent)
        if isinstance(recorded.event, ArtifactStored):
            await _insert(scope, recorded, recorded.event)
        else:
            await _change(scope, recorded, recorded.event)


async def _insert(scope: Scope, recorded: Recorded[Event], fact: ArtifactStored) -> None:
    await scope.queries.execute(
        "INSERT INTO artifacts (tenant_id, artifact_id, version, owner_id, grant_id, operation_id, kind, name, "
        "series_id, number, media_type, size, sha256, stored_at, accrued_at, expires_at) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $14, $15)",
        scope.tenant_id,
        fact.artifact_id,
        recorded.version,
        fact.owner_id,
        fact.grant_id,
        fact.operation_id,
        fact.kind,
        fact.name,
        fact.series_id,
        fact.number,
        fact.media_type,
        fact.size,
        bytes.fromhex(fact.sha256),
        recorded.recorded_at,
        fact.expires_at,
    )


async def _change(scope: Scope, recorded: Recorded[Event], fact: ArtifactEvent) -> None:
    if isinstance(fact, ArtifactHeld):
        values: dict[str, Any] = {
            # The user, whatever credential was used: the same person releases it with another one.
            "held_by": recorded.meta.actor if fact.by is None else f"user:{fact.by}",
            "held_since": recorded.recorded_at,
            "hold_reason": fact.reason,
        }
    elif isinstance(fact, ArtifactReleased):
        values = {"held_by": None, "held_since": None, "hold_reason": None}
    elif isinstance(fact, ArtifactDeleted):
        # What somebody called it is gone with it.
        values = {"deleted_at": recorded.recorded_at, "deleted_for": fact.reason, "name": ""}
    else:
        values = {}
    assigned = "".join(f", {name} = ${n}" for n, name in enumerate(values, 3))
    await scope.queries.execute(
        f"UPDATE artifacts SET version = $2{assigned} WHERE artifact_id = $1",
        fact.artifact_id,
        recorded.version,
        *values.values(),
    )


PROJECTIONS = (StreamProjection("artifact", project),)
FOLLOWED = (ArtifactStored, ArtifactOpened, ArtifactHeld, ArtifactReleased, ArtifactDeleted)


# Who sees what


def visible(scope: Scope, arguments: list[Any]) -> str:
    """Return ``Scope.sees`` as a condition on rows with ``owner_id`` and ``grant_id``; appends its arguments."""
    if scope.grant_id is not None:
        arguments.append(scope.grant_id)
        return f"grant_id = ${len(arguments)}"
    if scope.user_id is None or scope.role == "admin":
        return "true"
    arguments.append(scope.user_id)
    return f"owner_id = ${len(arguments)}"


# Queries


async def find(scope: Scope, artifact_id: UUID) -> Artifact:
    """Return an artifact that the scope may see.

    Raises:
        NotFound: there is none, or it is somebody else's.
        Gone: it was deleted or has expired.
    """
    return await _one(scope, artifact_id, "")


async def locked(scope: Scope, artifact_id: UUID) -> Artifact:
    """Return an artifact that the scope may see and that nobody else changes before this transaction ends.

    Raises:
        NotFound, Gone: see :func:`find`.
    """
    return await _one(scope, artifact_id, " FOR UPDATE")


async def _one(scope: Scope, artifact_id: UUID, lock: str) -> Artifact:
    arguments: list[Any] = [artifact_id]
    row = await scope.queries.fetchrow(
        f"SELECT {_COLUMNS} FROM artifacts WHERE artifact_id = $1 AND {visible(scope, arguments)}{lock}", *arguments
    )
    if row is None:
        raise NotFound("artifact")
    found = artifact_of(row)
    if found.gone(scope.clock.now()):
        how = "It has expired" if found.deleted_for in (None, "expired") else "It was deleted"
        raise Gone(f"{how}; its key is destroyed.")
    return found


async def any_locked(scope: Scope, artifact_id: UUID) -> Artifact | None:
    """Return an artifact in whatever state, locked; for the system, which sees all."""
    row = await scope.queries.fetchrow(
        f"SELECT {_COLUMNS} FROM artifacts WHERE artifact_id = $1 FOR UPDATE", artifact_id
    )
    return artifact_of(row) if row else None


async def locked_of_operation(scope: Scope, operation_id: UUID) -> list[Artifact]:
    """Return the artifacts of an operation that the scope may see and that are still there, locked in one order."""
    arguments: list[Any] = [operation_id]
    rows = await scope.queries.fetch(
        f"SELECT {_COLUMNS} FROM artifacts WHERE operation_id = $1 AND deleted_at IS NULL "
        f"AND {visible(scope, arguments)} ORDER BY artifact_id FOR UPDATE",
        *arguments,
    )
    return [artifact_of(row) for row in rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which artifacts a list shows; None leaves a condition out."""

    operation_id: UUID | None = None
    grant_id: UUID | None = None
    series_id: UUID | None = None
    kind: str | None = None
    name: str | None = None
    mine: bool = False


async def list_artifacts(
    scope: Scope,
    wanted: Wanted | None = None,
    *,
    operation_id: UUID | None = None,
    before: UUID | None = None,
    limit: int = 200,
) -> list[Artifact]:
    """Return artifacts that the scope may see and that are still there, the newest first, from before an id on."""
    wanted = wanted or Wanted(operation_id=operation_id)
    arguments: list[Any] = [limit, scope.clock.now()]
    conditions = [
        visible(scope, arguments),
        "deleted_at IS NULL AND (expires_at IS NULL OR expires_at > $2 OR held_by IS NOT NULL)",
    ]

    def add(condition: str, value: Any) -> None:
        if value is not None:
            arguments.append(value)
            conditions.append(condition.replace("?", f"${len(arguments)}"))

    add("artifact_id < ?", before)
    add("operation_id = ?", wanted.operation_id)
    add("grant_id = ?", wanted.grant_id)
    add("series_id = ?", wanted.series_id)
    add("kind = ?", wanted.kind)
    add("name = ?", wanted.name)
    add("owner_id = ?", scope.user_id if wanted.mine else None)
    rows = await scope.queries.fetch(
        f"SELECT {_COLUMNS} FROM artifacts WHERE {' AND '.join(conditions)} ORDER BY artifact_id DESC LIMIT $1",
        *arguments,
    )
    return [artifact_of(row) for row in rows]


def artifact_of(row: Row) -> Artifact:
    """Return a row as what it is."""
    values = list(row[0:19])
    values[11] = values[11].hex()
    return Artifact(*values)
