"""Blobs that nothing owns: being written, or left behind. They are listed before they are written.

A blob has one owner, or is in the list. What takes it as its own strikes it off in the same transaction, and what lets
it go puts it back as doomed. So whatever dies when, the list tells what is to be removed from the store.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from retinue.artifacts import claims, keys
from retinue.artifacts.quota import give_back
from retinue.artifacts.rules import blob_name
from retinue.database import open_scope
from retinue.dispatch import wake
from retinue.kernel import Conflict, Fault, Scope, Services, Settings
from retinue.vault import BlobStore

log = logging.getLogger(__name__)

SWEEP = "artifact.sweep"
_CAUSE = f"wake-up:{SWEEP}"
_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 600.0


def _unpublished(scope: Scope) -> timedelta:
    return timedelta(seconds=scope.service(Settings).artifact_unpublished_seconds)


async def announce(scope: Scope, blob_id: UUID) -> None:
    """List a blob that is about to be written; unless something owns it in time, it is removed again."""
    due = scope.clock.now() + _unpublished(scope)
    await scope.queries.execute(
        "INSERT INTO loose_blobs (tenant_id, blob_id, due_at, doomed) VALUES ($1, $2, $3, false)",
        scope.tenant_id,
        blob_id,
        due,
    )
    await wake(scope, SWEEP, blob_id, at=due)


async def still_coming(scope: Scope, blob_id: UUID) -> None:
    """Say that a blob is still being written.

    Raises:
        Conflict: it was given up in the meantime.
    """
    kept = await scope.queries.fetchval(
        "UPDATE loose_blobs SET due_at = $2 WHERE blob_id = $1 AND NOT doomed RETURNING true",
        blob_id,
        scope.clock.now() + _unpublished(scope),
    )
    if not kept:
        raise Conflict("This file was given up, because it took too long. Send it again.")


async def owned(scope: Scope, blob_ids: Sequence[UUID]) -> list[UUID]:
    """Strike blobs off the list, because something owns them from this scope's commit on.

    Return those that were there, in order; one that is missing was given up, or is owned already.
    """
    there = await locked(scope, blob_ids)
    await scope.queries.execute("DELETE FROM loose_blobs WHERE blob_id = ANY($1)", there)
    return there


async def locked(scope: Scope, blob_ids: Sequence[UUID]) -> list[UUID]:
    """Return those of some blobs that are in the list and not doomed, in order, each locked.

    All at once and before anything else is locked: who publishes and who gives up then wait for each other.
    """
    rows = await scope.queries.fetch(
        "SELECT blob_id FROM loose_blobs WHERE blob_id = ANY($1) AND NOT doomed ORDER BY blob_id FOR UPDATE",
        list(blob_ids),
    )
    return [row["blob_id"] for row in rows]


async def doom(scope: Scope, blob_id: UUID, *, at_once: bool = True) -> None:
    """Have a blob removed from the store once the scope has committed, and forget what was known of it.

    Without ``at_once`` it goes through the queue: hundreds that begin with one commit would crowd out everything else.
    """
    await scope.queries.execute(
        "INSERT INTO loose_blobs (tenant_id, blob_id, due_at, doomed) VALUES ($1, $2, $3, true) "
        "ON CONFLICT (tenant_id, blob_id) DO UPDATE SET due_at = $3, doomed = true",
        scope.tenant_id,
        blob_id,
        scope.clock.now(),
    )
    await _forget(scope, blob_id)
    if at_once:
        await claims.begin(scope, SWEEP, blob_id, sweep)
    else:
        await wake(scope, SWEEP, blob_id)


async def _forget(scope: Scope, blob_id: UUID) -> None:
    """Destroy the keys of a file, and give back what was reserved for one that is not published."""
    await keys.destroy(scope, blob_id)
    row = await scope.queries.fetchrow(
        "DELETE FROM incoming_artifacts WHERE artifact_id = $1 RETURNING owner_id, reserved", blob_id
    )
    if row is not None:
        await give_back(scope, row["owner_id"], row["reserved"])


async def sweep(services: Services, tenant_id: UUID, blob_id: UUID) -> None:
    """Remove a blob that nothing owns any more; one that is still being written is left alone.

    A store that does not answer is asked again, after ever longer pauses, until it has removed the blob.
    """
    async with open_scope(services, tenant_id, cause=_CAUSE) as scope:
        row = await scope.queries.fetchrow(
            "SELECT due_at, doomed FROM loose_blobs WHERE blob_id = $1 FOR UPDATE", blob_id
        )
        if row is None or (not row["doomed"] and row["due_at"] > scope.clock.now()):
            if row is not None:
                await wake(scope, SWEEP, blob_id, at=row["due_at"])
            await claims.let_go(scope, SWEEP, blob_id)
            return
        await scope.queries.execute("UPDATE loose_blobs SET doomed = true WHERE blob_id = $1", blob_id)
        await _forget(scope, blob_id)
    try:
        await services.get(BlobStore).delete(blob_name(tenant_id, blob_id))
    except Fault as fault:
        log.warning("the blob %s cannot be removed now: %s", blob_id, fault.detail)
        await _try_later(services, tenant_id, blob_id)
        return
    async with open_scope(services, tenant_id, cause=_CAUSE) as scope:
        await scope.queries.execute("DELETE FROM loose_blobs WHERE blob_id = $1", blob_id)
        await claims.let_go(scope, SWEEP, blob_id)


async def _try_later(services: Services, tenant_id: UUID, blob_id: UUID) -> None:
    async with open_scope(services, tenant_id, cause=_CAUSE) as scope:
        tries = await scope.queries.fetchval(
            "UPDATE loose_blobs SET tries = least(tries + 1, 30) WHERE blob_id = $1 RETURNING tries", blob_id
        )
        pause = min(_PAUSE_SECONDS * 2 ** (tries or 0), _LONGEST_PAUSE_SECONDS)
        await wake(scope, SWEEP, blob_id, at=scope.clock.now() + timedelta(seconds=pause))
        await claims.let_go(scope, SWEEP, blob_id)
