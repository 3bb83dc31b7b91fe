"""Taking files in: under seal into the store, invisible until they are published, gone when they are not."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from uuid import UUID

from retinue.artifacts import keys, loose_blobs
from retinue.artifacts.accrual import plan_accrual
from retinue.artifacts.events import ArtifactRefused, ArtifactStored
from retinue.artifacts.hooks import hooks, limits_of
from retinue.artifacts.lifetime import plan_expiry
from retinue.artifacts.quota import give_back, reserve
from retinue.artifacts.rules import (
    Incoming,
    Limits,
    Received,
    blob_name,
    check_incoming,
    context_of,
    ending,
    largest,
    too_large,
)
from retinue.artifacts.scanning import SNIFFED, Infected, Scan, begin_scan, media_type_of
from retinue.artifacts.views import stream_of
from retinue.database import open_scope
from retinue.kernel import BadInput, Conflict, Row, Scope, Services, Settings, new_id, to_its_end
from retinue.ledger import append
from retinue.vault import BlobStore, encrypt_stream, seal_to, usable_recipient

log = logging.getLogger(__name__)

_GROW = 8 * 1_048_576
"""Bytes by which the reservation of a file of unknown size goes ahead of it, once the file is as large as that."""

_STILL_COMING_SECONDS = 60.0


class _Intake:
    """One file on its way in: counted, hashed, shown to the scanner, and its reservation kept ahead of it."""

    def __init__(
        self, services: Services, tenant_id: UUID, artifact_id: UUID, incoming: Incoming, prepaid: bool
    ) -> None:
        self.services = services
        self.prepaid = prepaid
        self.tenant_id = tenant_id
        self.artifact_id = artifact_id
        self.incoming = incoming
        self.limits = Limits(0, 0, None)
        self.key = b""
        self.size = 0
        self.reserved = 0
        self._digest = hashlib.sha256()
        self._beginning = b""
        self._said = time.monotonic()

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    @property
    def media_type(self) -> str:
        return media_type_of(self._beginning)

    async def begin(self) -> None:
        """List the blob, reserve the announced size and make the key, in one transaction."""
        incoming = self.incoming
        async with open_scope(self.services, self.tenant_id, cause="artifact:receive") as scope:
            self.limits = await limits_of(scope, incoming.owner_id)
            self._check(incoming.size_hint or 0)
            self.reserved = 0 if self.prepaid else incoming.size_hint or 0
            now = scope.clock.now()
            await scope.queries.execute(
                "INSERT INTO incoming_artifacts (tenant_id, artifact_id, owner_id, grant_id, operation_id, kind, name, "
                "version_of, reserved, expires_at, begun_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
                scope.tenant_id,
                self.artifact_id,
                incoming.owner_id,
                incoming.grant_id,
                incoming.operation_id,
                incoming.kind,
                incoming.name,
                incoming.version_of,
                self.reserved,
                ending(incoming, self.limits, now),
                now,
            )
            self.key = await keys.make(scope, self.artifact_id)
            await loose_blobs.announce(scope, self.artifact_id)
            await plan_accrual(scope)
            await reserve(scope, incoming.owner_id, self.reserved, self.limits)

    def _check(self, size: int) -> None:
        most = largest(self.incoming, self.limits)
        if size > most:
            raise too_large(most)

    async def checked(self, chunks: AsyncIterator[bytes], scan: Scan) -> AsyncIterator[bytes]:
        """Hand the file on piece by piece; it ends only when the scanner found nothing in all of it."""
        async for chunk in chunks:
            self.size += len(chunk)
            self._check(self.size)
            await self._keep_ahead()
            if len(self._beginning) < SNIFFED:
                self._beginning += bytes(chunk[: SNIFFED - len(self._beginning)])
            await scan.feed(chunk)
            if len(chunk) > _GROW // 64:
                await asyncio.to_thread(self._digest.update, chunk)
            else:
                self._digest.update(chunk)
            yield chunk
        await scan.verdict()

    async def _keep_ahead(self) -> None:
        """Reserve more before more is written, and say now and then that the file is still coming."""
        quiet = time.monotonic() - self._said > _STILL_COMING_SECONDS
        growing = self.size > self.reserved and not self.prepaid
        if not growing and not quiet:
            return
        async with open_scope(self.services, self.tenant_id, cause="artifact:receive") as scope:
            await loose_blobs.still_coming(scope, self.artifact_id)
            if growing:
                await self._grow(scope)
        self._said = time.monotonic()

    async def _grow(self, scope: Scope) -> None:
        """Reserve what has come, and for a large file some of what is still to come, as far as there is room."""
        owner = self.incoming.owner_id
        needed = self.size - self.reserved
        step = needed
        if self.size > _GROW:
            free = self.limits.user_bytes - await _used_locked(scope, owner)
            most = largest(self.incoming, self.limits) - self.reserved
            step = max(needed, min(needed + _GROW, most, free))
        await scope.queries.execute(
            "UPDATE incoming_artifacts SET reserved = reserved + $2 WHERE artifact_id = $1", self.artifact_id, step
        )
        await reserve(scope, owner, step, self.limits)
        self.reserved += step

    async def finish(self) -> Received:
        """Note what has come, seal its key to the recipients, and give back what was reserved too much."""
        context = context_of(self.tenant_id, self.artifact_id)
        sealed = [
            (self.tenant_id, self.artifact_id, label, public, seal_to(public, self.key, context))
            for label, public in self.incoming.recipients.items()
        ]
        async with open_scope(self.services, self.tenant_id, cause="artifact:receive") as scope:
            await loose_blobs.still_coming(scope, self.artifact_id)
            if sealed:
                await scope.queries.executemany(
                    "INSERT INTO artifact_recipients (tenant_id, artifact_id, label, public_key, sealed) "
                    "VALUES ($1, $2, $3, $4, $5)",
                    sealed,
                )
            await scope.queries.execute(
                "UPDATE incoming_artifacts SET reserved = $2, size = $3, sha256 = $4, media_type = $5 "
                "WHERE artifact_id = $1",
                self.artifact_id,
                0 if self.prepaid else self.size,
                self.size,
                self._digest.digest(),
                self.media_type,
            )
            if not self.prepaid:
                await give_back(scope, self.incoming.owner_id, self.reserved - self.size)
        return Received(self.artifact_id, self.incoming.name, self.sha256, self.size, self.media_type)


async def _used_locked(scope: Scope, user_id: UUID) -> int:
    found: int | None = await scope.queries.fetchval(
        "SELECT used FROM storage_used WHERE user_id = $1 FOR UPDATE", user_id
    )
    return found or 0


async def receive(
    services: Services,
    tenant_id: UUID,
    incoming: Incoming,
    chunks: AsyncIterator[bytes],
    *,
    prepaid: bool = False,
) -> Received:
    """Take a file in under seal, in constant memory. Nobody sees it until it is published.

    Nothing of it is left when this raises, or is cancelled; what a dead process left is swept by a wake-up. Call it
    outside of any transaction.

    Args:
        chunks: the content; closed at the end.
        prepaid: the caller has reserved the size already, and passes that on when the file is published.

    Raises:
        BadInput: the name or another part of ``incoming`` cannot be stored.
        PayloadTooLarge: it is larger than it may be.
        StorageFull: the user's quota, or the disk, is full.
        Infected: the scanner found something.
        Unavailable: the store, the scanner or the database does not answer.
    """
    check_incoming(incoming)
    for label, public in incoming.recipients.items():
        if not usable_recipient(public):
            raise BadInput(f"The key of {label} is no X25519 public key.", field="recipients")
    intake = _Intake(services, tenant_id, incoming.artifact_id or new_id(), incoming, prepaid)
    await intake.begin()
    try:
        await _store(intake, chunks)
        return await intake.finish()
    except Infected as infected:
        await _give_up(intake, infected)
        raise
    except BaseException:
        await _give_up(intake, None)
        raise


async def _store(intake: _Intake, chunks: AsyncIterator[bytes]) -> None:
    services, tenant_id = intake.services, intake.tenant_id
    scan = await begin_scan(services.get(Settings))
    try:
        async with aclosing(intake.checked(chunks, scan)) as plain:  # type: ignore[type-var]  # it is a generator
            sealed = encrypt_stream(intake.key, plain, context=context_of(tenant_id, intake.artifact_id))
            await services.get(BlobStore).put(blob_name(tenant_id, intake.artifact_id), sealed)
    finally:
        await scan.close()


async def _give_up(intake: _Intake, infected: Infected | None) -> None:
    """Leave nothing behind, also when this task is being cancelled; what fails here is swept later."""
    try:
        await to_its_end(_forget(intake, infected))
    except Exception:
        log.warning("a file that was not taken in is removed later", exc_info=True)


async def _forget(intake: _Intake, infected: Infected | None) -> None:
    async with open_scope(intake.services, intake.tenant_id, cause="artifact:receive") as scope:
        if infected is not None:
            await _record_refusal(scope, intake, infected)
        await loose_blobs.doom(scope, intake.artifact_id)


async def _record_refusal(scope: Scope, intake: _Intake, infected: Infected) -> None:
    owner_id = intake.incoming.owner_id
    fact = ArtifactRefused(artifact_id=intake.artifact_id, owner_id=owner_id, finding=infected.finding)
    await append(scope, f"artifact-refusal:{intake.artifact_id}", 0, [fact], owner_id=owner_id)


async def discard(services: Services, tenant_id: UUID, artifact_ids: Sequence[UUID]) -> None:
    """Give up files that were taken in and not published; those that were published meanwhile stay."""
    async with open_scope(services, tenant_id, cause="artifact:discard") as scope:
        await discard_in(scope, artifact_ids)


async def discard_in(scope: Scope, artifact_ids: Sequence[UUID]) -> None:
    """As :func:`discard`, in the scope's transaction."""
    for artifact_id in await loose_blobs.locked(scope, artifact_ids):
        await loose_blobs.doom(scope, artifact_id)


async def unpublished(scope: Scope, operation_id: UUID) -> list[UUID]:
    """Return the files of an operation that were taken in, or are, and are not published."""
    rows = await scope.queries.fetch(
        "SELECT artifact_id FROM incoming_artifacts WHERE operation_id = $1 ORDER BY artifact_id", operation_id
    )
    return [row["artifact_id"] for row in rows]


async def publish(scope: Scope, received: Sequence[Received]) -> None:
    """Show files that were taken in: all of them from the scope's commit on, or none.

    Raises:
        Conflict: one was given up, or published, before.
    """
    now = scope.clock.now()
    owners: set[UUID] = set()
    if len(await loose_blobs.owned(scope, [one.artifact_id for one in received])) < len(received):
        raise Conflict("A file was given up, or published, before. Take it in again.")
    for one in sorted(received, key=lambda each: each.artifact_id):
        row = await scope.queries.fetchrow(
            "DELETE FROM incoming_artifacts WHERE artifact_id = $1 AND size IS NOT NULL RETURNING owner_id, grant_id, "
            "operation_id, kind, name, version_of, expires_at, media_type, size, sha256",
            one.artifact_id,
        )
        if row is None:
            raise Conflict("This file has not been taken in whole.")
        await _publish(scope, one.artifact_id, row)
        owners.add(row["owner_id"])
        if row["expires_at"] is not None:
            await plan_expiry(scope, one.artifact_id, max(row["expires_at"], now))
    if hooks.stored is not None:
        for owner_id in sorted(owners):
            await hooks.stored(scope, owner_id)


async def _publish(scope: Scope, artifact_id: UUID, row: Row) -> None:
    labels = await scope.queries.fetch(
        "SELECT label FROM artifact_recipients WHERE artifact_id = $1 ORDER BY label", artifact_id
    )
    series_id, number = await _place(scope, artifact_id, row)
    fact = ArtifactStored(
        artifact_id=artifact_id,
        owner_id=row["owner_id"],
        grant_id=row["grant_id"],
        operation_id=row["operation_id"],
        kind=row["kind"],
        name=row["name"],
        series_id=series_id,
        number=number,
        media_type=row["media_type"],
        size=row["size"],
        sha256=row["sha256"].hex(),
        recipients=tuple(label["label"] for label in labels),
        expires_at=row["expires_at"],
    )
    await append(scope, stream_of(artifact_id), 0, [fact], owner_id=row["owner_id"])


async def _place(scope: Scope, artifact_id: UUID, row: Row) -> tuple[UUID, int]:
    """Find the series a file is the next version of: the same name, from the same giver, of the same operation."""
    # Who publishes for one user at a time: two first versions of one name would begin two series.
    await scope.queries.execute(
        "INSERT INTO storage_used (tenant_id, user_id, used) VALUES ($1, $2, 0) "
        "ON CONFLICT (tenant_id, user_id) DO UPDATE SET used = storage_used.used",
        scope.tenant_id,
        row["owner_id"],
    )
    found = await scope.queries.fetchrow(
        "SELECT series_id, (SELECT max(b.number) FROM artifacts b WHERE b.series_id = a.series_id) AS number "
        "FROM artifacts a WHERE a.owner_id = $1 AND a.name = $2 AND a.deleted_at IS NULL AND a.kind = $3 "
        "AND a.grant_id IS NOT DISTINCT FROM $4 AND a.operation_id IS NOT DISTINCT FROM $5 "
        "ORDER BY a.artifact_id DESC LIMIT 1",
        row["owner_id"],
        row["version_of"] or row["name"],
        row["kind"],
        row["grant_id"],
        row["operation_id"],
    )
    return (found["series_id"], found["number"] + 1) if found else (artifact_id, 1)
