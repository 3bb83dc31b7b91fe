"""How much each user has stored or is about to: reserved before a byte is written, exact under any concurrency."""

from __future__ import annotations

from uuid import UUID

from retinue.artifacts.rules import Limits
from retinue.kernel import Scope, StorageFull


async def reserve(scope: Scope, user_id: UUID, size: int, limits: Limits) -> None:
    """Set ``size`` bytes aside for a user when the scope commits; the row's lock orders those who ask at once.

    Raises:
        StorageFull: the user would have more than the limit.
    """
    if size == 0:
        return
    kept = await scope.queries.fetchval(
        "INSERT INTO storage_used AS s (tenant_id, user_id, used) "
        "SELECT $1, $2, $3::bigint WHERE $3::bigint <= $4::bigint "
        "ON CONFLICT (tenant_id, user_id) DO UPDATE SET used = s.used + $3 "
        "WHERE s.used + $3 <= $4 RETURNING used",
        scope.tenant_id,
        user_id,
        size,
        limits.user_bytes,
    )
    if kept is None:
        raise StorageFull(
            f"{size:,} bytes more would be over the {limits.user_bytes:,} bytes that may be stored. "
            "Delete artifacts that are no longer needed.",
            extra={"used": await storage_used(scope, user_id), "limit": limits.user_bytes},
        )


async def give_back(scope: Scope, user_id: UUID, size: int) -> None:
    """Return ``size`` bytes of a user when the scope commits."""
    if size:
        await scope.queries.execute("UPDATE storage_used SET used = used - $2 WHERE user_id = $1", user_id, size)


async def storage_used(scope: Scope, user_id: UUID) -> int:
    """Return the bytes a user has stored, what is reserved for files that are coming in among them."""
    found: int | None = await scope.queries.fetchval("SELECT used FROM storage_used WHERE user_id = $1", user_id)
    return found or 0
