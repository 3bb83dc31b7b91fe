"""From the pieces of an upload to an artifact, by whoever is alive: the last piece leaves a wake-up with its commit."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import timedelta
from uuid import UUID

from retinue.artifacts import claims
from retinue.artifacts.hooks import GrantTerms, hooks
from retinue.artifacts.quota import give_back
from retinue.artifacts.receiving import discard, publish, receive
from retinue.artifacts.rules import Incoming, Received, blob_name, part_context
from retinue.artifacts.scanning import Infected
from retinue.artifacts.uploads import COLUMNS, Upload, drop_parts, key_of, upload_of
from retinue.database import open_scope
from retinue.dispatch import wake
from retinue.kernel import BadInput, Conflict, Fault, Forbidden, Gone, NotFound, PayloadTooLarge, Scope, Services, least
from retinue.vault import BlobStore, Chunk, SealBroken, decrypt_range, sealed_size

log = logging.getLogger(__name__)

FINISH = "upload.finish"
_CAUSE = f"wake-up:{FINISH}"
_RETRY = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of an upload: which one, where it lies, and its bytes before it was sealed."""

    number: int
    blob_id: UUID
    size: int


async def terms_of(scope: Scope) -> GrantTerms:
    """Return what holds for what the scope's caller uploads."""
    if scope.grant_id is None or hooks.grant_terms is None:
        return GrantTerms({}, None, None)
    return await hooks.grant_terms(scope, scope.grant_id)


async def begin(scope: Scope, upload_id: UUID) -> None:
    """Have an upload, all of which has come, become an artifact once the scope has committed."""
    await scope.queries.execute("UPDATE uploads SET state = 'finishing' WHERE upload_id = $1", upload_id)
    await claims.begin(scope, FINISH, upload_id, finish)


async def finish(services: Services, tenant_id: UUID, upload_id: UUID) -> None:
    """Put the pieces of an upload together into an artifact, in constant memory."""
    async with open_scope(services, tenant_id, cause=_CAUSE) as scope:
        row = await scope.queries.fetchrow(f"SELECT {COLUMNS} FROM uploads WHERE upload_id = $1", upload_id)
        if row is None or row["state"] != "finishing":
            await claims.let_go(scope, FINISH, upload_id)
            return
        upload = upload_of(row)
    try:
        await _finish(services, tenant_id, upload)
    except (Infected, PayloadTooLarge, BadInput, Forbidden, NotFound, Gone) as refusal:
        await refuse(services, tenant_id, upload, refusal.detail)
    except SealBroken as damage:
        log.error("pieces of the upload %s are damaged: %s", upload_id, damage)
        await refuse(services, tenant_id, upload, "What was stored of it is damaged. Send it again.")
    except Fault as fault:
        log.warning("the upload %s cannot be finished now: %s", upload_id, fault.detail)
        async with open_scope(services, tenant_id, cause=_CAUSE) as scope:
            await wake(scope, FINISH, upload_id, at=scope.clock.now() + _RETRY)
            await claims.let_go(scope, FINISH, upload_id)


async def _finish(services: Services, tenant_id: UUID, upload: Upload) -> None:
    async with open_scope(services, tenant_id, cause=_CAUSE) as scope:
        terms = await terms_of(replace(scope, grant_id=upload.grant_id))
        key = await key_of(scope, upload.upload_id)
        rows = await scope.queries.fetch(
            "SELECT number, blob_id, size FROM upload_parts WHERE upload_id = $1 ORDER BY number", upload.upload_id
        )
    parts = [Part(row["number"], row["blob_id"], row["size"]) for row in rows]
    chunks = _joined(services.get(BlobStore), tenant_id, upload.upload_id, key, parts)
    received = await receive(services, tenant_id, _incoming(upload, terms), chunks, prepaid=True)
    try:
        await _finished(services, tenant_id, upload, received)
    except Fault:
        await discard(services, tenant_id, [received.artifact_id])
        raise


def _incoming(upload: Upload, terms: GrantTerms) -> Incoming:
    return Incoming(
        owner_id=upload.owner_id,
        grant_id=upload.grant_id,
        name=upload.name,
        kind="upload",
        size_hint=upload.length,
        version_of=upload.version_of,
        retention_seconds=least(upload.retention_seconds, terms.retention_seconds),
        expires_at=terms.expires_at,
        recipients=terms.recipients,
    )


async def _joined(
    store: BlobStore, tenant_id: UUID, upload_id: UUID, key: bytes, parts: Sequence[Part]
) -> AsyncIterator[bytes]:
    for part in parts:
        name, size = blob_name(tenant_id, part.blob_id), sealed_size(part.size)
        context = part_context(tenant_id, upload_id, part.blob_id, part.number)

        def read(start: int, end: int, name: str = name, size: int = size) -> AsyncIterator[Chunk]:
            return store.read(name, start, end, size=size)

        async with aclosing(decrypt_range(key, read, size, context=context)) as pieces:
            async for piece in pieces:
                yield piece


async def _finished(services: Services, tenant_id: UUID, upload: Upload, received: Received) -> None:
    async with open_scope(services, tenant_id, upload.actor, user_id=upload.owner_id, cause=_CAUSE) as scope:
        await publish(scope, [received])
        done = await scope.queries.fetchval(
            "UPDATE uploads SET state = 'stored', artifact_id = $2 WHERE upload_id = $1 AND state = 'finishing' "
            "RETURNING true",
            upload.upload_id,
            received.artifact_id,
        )
        if not done:
            raise Conflict("This upload was finished by somebody else.")
        await drop_parts(scope, upload.upload_id)
        await claims.let_go(scope, FINISH, upload.upload_id)


async def refuse(services: Services, tenant_id: UUID, upload: Upload, problem: str) -> None:
    """Give up an upload, all of which came, because it cannot become an artifact; say why."""
    async with open_scope(services, tenant_id, cause=_CAUSE) as scope:
        # Only while nobody else has ended it: a worker that was taken for dead finds its pieces gone.
        refused = await scope.queries.fetchval(
            "UPDATE uploads SET state = 'refused', problem = $2 WHERE upload_id = $1 AND state = 'finishing' "
            "RETURNING true",
            upload.upload_id,
            problem,
        )
        if refused:
            await drop_parts(scope, upload.upload_id)
            await give_back(scope, upload.owner_id, upload.length)
        await claims.let_go(scope, FINISH, upload.upload_id)
