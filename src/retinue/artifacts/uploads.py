"""Resumable uploads (tus 1.0.0): their rows, from the first piece to the last.

An upload's size is reserved when it begins. Each piece is a sealed blob of its own, and is in the store before the
upload's offset moves: what was acknowledged is durable (`pieces.py`). When all are there they become an artifact
(`finishing.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from retinue.artifacts import keys, loose_blobs
from retinue.artifacts.quota import give_back
from retinue.artifacts.views import visible
from retinue.dispatch import wake
from retinue.kernel import Actor, ActorKind, Conflict, Gone, NotFound, Row, Scope, Settings

EXPIRE = "upload.expire"
_FEW = 16
COLUMNS = (
    "upload_id, owner_id, grant_id, name, length, received, parts, state, problem, artifact_id, expires_at, "
    "actor_kind, actor_id, version_of, retention_seconds"
)


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that comes in pieces.

    Attributes:
        length: bytes of the whole file.
        received: bytes that are safe; the next piece begins there.
        state: ``open``, ``finishing`` (all is there), ``stored`` (it is an artifact) or ``refused``.
        problem: why it was refused.
        artifact_id: the artifact it became.
        expires_at: when it is given up, unless more comes.
    """

    upload_id: UUID
    owner_id: UUID
    grant_id: UUID | None
    name: str
    length: int
    received: int
    parts: int
    state: str
    problem: str | None
    artifact_id: UUID | None
    expires_at: datetime
    actor: Actor
    version_of: str | None
    retention_seconds: int | None


def expiry(scope: Scope) -> datetime:
    """Return when an upload that something came for now is given up."""
    return scope.clock.now() + timedelta(seconds=scope.service(Settings).upload_seconds)


async def find(scope: Scope, upload_id: UUID, *, lock: bool = False) -> Upload:
    """Return an upload that the scope may see.

    Raises:
        NotFound: there is none, or it is somebody else's.
        Gone: it has expired.
    """
    arguments: list[Any] = [upload_id]
    row = await scope.queries.fetchrow(
        f"SELECT {COLUMNS} FROM uploads WHERE upload_id = $1 AND {visible(scope, arguments)}"
        f"{' FOR UPDATE' if lock else ''}",
        *arguments,
    )
    if row is None:
        raise NotFound("upload")
    found = upload_of(row)
    if found.state == "open" and found.expires_at <= scope.clock.now():
        raise Gone("This upload has expired. Begin a new one.")
    return found


def upload_of(row: Row) -> Upload:
    """Return a row as what it is."""
    actor = Actor(ActorKind(row["actor_kind"]), row["actor_id"])
    values: list[Any] = [*row[0:11], actor, row["version_of"], row["retention_seconds"]]
    return Upload(*values)


async def terminate(scope: Scope, upload_id: UUID) -> None:
    """Give an upload up; the artifact of a finished one stays.

    Raises:
        NotFound, Gone: see :func:`find`.
        Conflict: all of it is there, and it becomes an artifact right now.
    """
    found = await find(scope, upload_id, lock=True)
    if found.state == "finishing":
        raise Conflict("All of it has come; it becomes an artifact right now. Delete that instead.")
    await _remove(scope, found)


async def _remove(scope: Scope, found: Upload) -> None:
    await drop_parts(scope, found.upload_id)
    await scope.queries.execute("DELETE FROM uploads WHERE upload_id = $1", found.upload_id)
    if found.state == "open":
        await give_back(scope, found.owner_id, found.length)


async def drop_parts(scope: Scope, upload_id: UUID) -> None:
    """Destroy the key of an upload's pieces, and have them removed."""
    await keys.destroy(scope, upload_id)
    rows = await scope.queries.fetch("DELETE FROM upload_parts WHERE upload_id = $1 RETURNING blob_id", upload_id)
    for row in rows:
        await loose_blobs.doom(scope, row["blob_id"], at_once=len(rows) <= _FEW)


async def expire(scope: Scope, upload_id: UUID) -> None:
    """Give up an upload that nothing came for, or forget one that ended."""
    row = await scope.queries.fetchrow(f"SELECT {COLUMNS} FROM uploads WHERE upload_id = $1 FOR UPDATE", upload_id)
    if row is None:
        return
    found = upload_of(row)
    now = scope.clock.now()
    if found.expires_at > now or found.state == "finishing":
        await wake(scope, EXPIRE, upload_id, at=max(found.expires_at, now + timedelta(minutes=1)))
        return
    await _remove(scope, found)


async def key_of(scope: Scope, upload_id: UUID) -> bytes:
    """Return the key of an upload's pieces.

    Raises:
        Gone: it has ended, and the key is destroyed.
    """
    key = await keys.find(scope, upload_id)
    if key is None:
        raise Gone("This upload has ended.")
    return key
