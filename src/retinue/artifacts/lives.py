"""The end of artifacts: deletion, expiry, legal hold; and what their storage costs until then."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from retinue.artifacts import loose
from retinue.artifacts.events import ArtifactDeleted, ArtifactHeld, ArtifactReleased, Reason
from retinue.artifacts.hooks import Stored, hooks, note
from retinue.artifacts.quota import give_back
from retinue.artifacts.views import Artifact, any_locked, locked, locked_of_operation, stream_of
from retinue.dispatch import wake
from retinue.kernel import Conflict, Forbidden, Scope
from retinue.ledger import append

EXPIRE = "artifact.expire"
ACCRUE = "artifact.accrue"
_ACCRUE_EVERY = timedelta(hours=24)
_MOST_AT_ONCE = 10_000


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
    await charge(scope, await _accrued(scope, [found.artifact_id]))
    await append(scope, stream_of(found.artifact_id), found.version, [fact], owner_id=found.owner_id)
    await loose.doom(scope, found.artifact_id)
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


# What storage costs


async def plan_accrual(scope: Scope) -> None:
    """Have the tenant's storage counted from time to time, from its first file on."""
    due = scope.clock.now() + _ACCRUE_EVERY
    fresh = await scope.queries.fetchval(
        "INSERT INTO storage_accruals (tenant_id, due_at) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING true",
        scope.tenant_id,
        due,
    )
    if fresh:
        await wake(scope, ACCRUE, scope.tenant_id, at=due)


async def accrue(scope: Scope) -> list[Stored]:
    """Charge the storage that the tenant's artifacts used since it was last charged, and return it."""
    used = await _accrued(scope, None)
    await charge(scope, used)
    return used


async def on_time_to_accrue(scope: Scope) -> None:
    """Charge what is due; again tomorrow, or in a moment if there is more, as long as there are artifacts."""
    planned = await scope.queries.fetchval("SELECT due_at FROM storage_accruals FOR UPDATE")
    if planned is None or planned > scope.clock.now():
        return
    await accrue(scope)
    left = await scope.queries.fetchval("SELECT min(accrued_at) FROM artifacts WHERE deleted_at IS NULL")
    if left is None:
        await scope.queries.execute("DELETE FROM storage_accruals")
        return
    now = scope.clock.now()
    due = now if left < now else now + _ACCRUE_EVERY
    await scope.queries.execute("UPDATE storage_accruals SET due_at = $1", due)
    await wake(scope, ACCRUE, scope.tenant_id, at=due)


async def _accrued(scope: Scope, artifact_ids: Sequence[UUID] | None) -> list[Stored]:
    """Bring the counted time of some artifacts, or the longest uncounted ones, up to now; return their byte-seconds."""
    rows = await scope.queries.fetch(
        "WITH due AS (SELECT artifact_id, accrued_at FROM artifacts WHERE deleted_at IS NULL AND accrued_at < $1 "
        "  AND ($2::uuid[] IS NULL OR artifact_id = ANY($2)) ORDER BY accrued_at LIMIT $3 FOR UPDATE), "
        "counted AS (UPDATE artifacts a SET accrued_at = $1 FROM due WHERE a.artifact_id = due.artifact_id "
        "  RETURNING a.owner_id, a.grant_id, a.operation_id, a.size, due.accrued_at AS since) "
        "SELECT owner_id, grant_id, operation_id, "
        "  round(sum(size * extract(epoch FROM $1 - since)))::bigint AS byte_seconds "
        "FROM counted GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
        scope.clock.now(),
        None if artifact_ids is None else list(artifact_ids),
        _MOST_AT_ONCE,
    )
    return [Stored(row[0], row[1], row[2], row["byte_seconds"]) for row in rows if row["byte_seconds"]]


async def charge(scope: Scope, used: list[Stored]) -> None:
    """Tell whoever counts costs what storage was used."""
    if used and hooks.charge is not None:
        await hooks.charge(scope, used)
