"""What storage costs: byte-seconds, counted once a day and at a file's end, and told to whoever charges for them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from retinue.artifacts.hooks import Stored, hooks
from retinue.dispatch import wake
from retinue.kernel import Scope

ACCRUE = "artifact.accrue"
_ACCRUE_EVERY = timedelta(hours=24)
_MOST_AT_ONCE = 10_000


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
    used = await accrued(scope, None)
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


async def accrued(scope: Scope, artifact_ids: Sequence[UUID] | None) -> list[Stored]:
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
