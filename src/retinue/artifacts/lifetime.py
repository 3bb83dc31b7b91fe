"""How long artifacts last: deletion, expiry, legal hold."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from retinue.artifacts import loose_blobs
from retinue.artifacts.accrual import accrued, charge
from retinue.artifacts.events import ArtifactDeleted, ArtifactHeld, ArtifactReleased, Reason
from retinue.artifacts.hooks import note
from retinue.artifacts.quota import give_back
from retinue.artifacts.views import Artifact, any_locked, locked, locked_of_operation, stream_of
from retinue.dispatch import wake
from retinue.kernel import Conflict, Forbidden, Scope
from retinue.ledger import append

EXPIRE = "artifact.expire"


async def plan_expiry(scope: Scope, artifact_id: UUID, at: datetime) -> None:
    """Have an artifact looked at when it expires."""
    await wake(scope, EXPIRE, artifact_id, at=at)


async def delete(scope: Scope, artifact_id: UUID) -> None:
    """Destroy an artifact's key, and have its blob removed. It cannot be opened from the scope's commit on.

    Raises:
        NotFound, Gone: see :func:`retinue.artifacts.find`.
        Conflict: it is under legal hold.
    """
    found = await locked(scope, artifact_id)
    _refuse_held(found)
    await _delete(scope, found, "deleted")
    await note(scope, "artifact.deleted", artifact_id)


async def delete_of_operation(scope: Scope, operation_id: UUID, *, reason: Reason = "deleted") -> tuple[int, int]:
    """Delete what an operation left, as far as the scope may see it; return how many went and how many are held."""
    found = await locked_of_operation(scope, operation_id)
    free = [one for one in found if one.held_by is None]
    for one in free:
        await _delete(scope, one, reason)
        await note(scope, "artifact.deleted", one.artifact_id)
    return len(free), len(found) - len(free)


async def expire(scope: Scope, artifact_id: UUID) -> None:
    """Delete an artifact whose time is over; a held one waits for its release."""
    found = await any_locked(scope, artifact_id)
    if found is None or found.deleted_at is not None or found.held_by is not None or found.expires_at is None:
        return
    if found.expires_at > scope.clock.now():
        await plan_expiry(scope, artifact_id, found.expires_at)
        return
    await _delete(scope, found, "expired")


async def _delete(scope: Scope, found: Artifact, reason: Reason) -> None:
    fact = ArtifactDeleted(artifact_id=found.artifact_id, reason=reason)
    await charge(scope, await accrued(scope, [found.artifact_id]))
    await append(scope, stream_of(found.artifact_id), found.version, [fact], owner_id=found.owner_id)
    await loose_blobs.doom(scope, found.artifact_id)
    await give_back(scope, found.owner_id, found.size)


def _refuse_held(found: Artifact) -> None:
    if found.held_by is not None:
        raise Conflict("It is under legal hold. Release it first, if you may.")


# Legal hold


async def hold(scope: Scope, artifact_id: UUID, reason: str) -> Artifact:
    """Keep an artifact from being deleted and from expiring.

    Raises:
        NotFound, Gone: see :func:`retinue.artifacts.find`.
    """
    found = await locked(scope, artifact_id)
    if found.held_by is None:
        fact = ArtifactHeld(artifact_id=artifact_id, reason=reason, by=scope.user_id)
        await append(scope, stream_of(artifact_id), found.version, [fact], owner_id=found.owner_id)
    return await locked(scope, artifact_id)


async def release(scope: Scope, artifact_id: UUID) -> Artifact | None:
    """End a legal hold; return None when the artifact's time is over, and it goes now.

    Raises:
        NotFound, Gone: see :func:`retinue.artifacts.find`.
        Forbidden: somebody else holds it, and the caller is no admin.
    """
    found = await locked(scope, artifact_id)
    if found.held_by is None:
        return found
    if scope.role != "admin" and scope.user_id is not None and found.held_by != f"user:{scope.user_id}":
        raise Forbidden("Somebody else holds it. They, or an admin, can release it.")
    fact = ArtifactReleased(artifact_id=artifact_id)
    await append(scope, stream_of(artifact_id), found.version, [fact], owner_id=found.owner_id)
    now = scope.clock.now()
    if found.expires_at is None:
        return await locked(scope, artifact_id)
    await plan_expiry(scope, artifact_id, max(found.expires_at, now))
    return None if found.expires_at <= now else await locked(scope, artifact_id)
