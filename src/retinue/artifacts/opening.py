"""Handing artifacts out: the content or a range of it, decrypted; or the sealed file, for a recipient to open."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import ClassVar
from uuid import UUID

from retinue.artifacts import keys
from retinue.artifacts.events import ArtifactOpened, Form
from retinue.artifacts.hooks import note
from retinue.artifacts.rules import blob_name, context_of, grantee_label
from retinue.artifacts.sealed_file import Recipient, header_of
from retinue.artifacts.views import Artifact, locked, stream_of
from retinue.database import open_scope
from retinue.kernel import Fault, Gone, NotFound, Scope, Services
from retinue.ledger import append
from retinue.vault import BlobStore, Chunk, SealBroken, decrypt_range, sealed_size

log = logging.getLogger(__name__)


class Damaged(Fault):
    """The store does not hold what was put there."""

    kind: ClassVar[str] = "damaged"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "What is stored is damaged"


@dataclass(frozen=True, slots=True)
class Opened:
    """An artifact and its key, to be read outside of any transaction."""

    artifact: Artifact
    key: bytes


async def take(
    scope: Scope,
    artifact_id: UUID,
    form: Form,
    *,
    start: int | None = None,
    end: int | None = None,
    operation_id: UUID | None = None,
) -> Artifact:
    """Find an artifact and record that it was opened, by whom and in which form.

    Raises:
        NotFound, Gone: see :func:`retinue.artifacts.find`.
    """
    found = await locked(scope, artifact_id)
    await record(scope, found, form, start=start, end=end, operation_id=operation_id)
    return found


async def record(
    scope: Scope,
    found: Artifact,
    form: Form,
    *,
    start: int | None = None,
    end: int | None = None,
    operation_id: UUID | None = None,
) -> None:
    """Record that an artifact, whose row the scope has locked, is opened."""
    fact = ArtifactOpened(artifact_id=found.artifact_id, form=form, start=start, end=end, operation_id=operation_id)
    await append(scope, stream_of(found.artifact_id), found.version, [fact], owner_id=found.owner_id)
    await note(scope, "artifact.opened", found.artifact_id)


async def unlock(scope: Scope, artifact: Artifact) -> Opened:
    """Return an artifact with its key.

    Raises:
        Gone: its key was destroyed in the meantime.
    """
    key = await keys.find(scope, artifact.artifact_id)
    if key is None:
        raise Gone("It was deleted; its key is destroyed.")
    return Opened(artifact, key)


async def read(
    services: Services, tenant_id: UUID, opened: Opened, start: int = 0, end: int | None = None
) -> AsyncGenerator[bytes]:
    """Decrypt an artifact, or a range of it, in constant memory. Nothing comes before it is authenticated.

    Raises:
        Unavailable: the store does not answer.
        Damaged: it does not hold what was stored; the log tells more.
    """
    artifact_id, size = opened.artifact.artifact_id, sealed_size(opened.artifact.size)
    store, name = services.get(BlobStore), blob_name(tenant_id, artifact_id)

    def sealed(low: int, high: int) -> AsyncIterator[Chunk]:
        return store.read(name, low, high, size=size)

    context = context_of(tenant_id, artifact_id)
    try:
        async with aclosing(decrypt_range(opened.key, sealed, size, context=context, start=start, end=end)) as pieces:
            async for piece in pieces:
                yield piece
    except (SealBroken, NotFound) as error:
        raise _damaged(artifact_id, error) from error


async def open(
    services: Services, tenant_id: UUID, artifact: Artifact, start: int = 0, end: int | None = None
) -> AsyncGenerator[bytes]:
    """As :func:`read`, with a transaction of its own to get the key. :func:`take` first, so that it is recorded."""
    async with open_scope(services, tenant_id, cause="artifact:open") as scope:
        opened = await unlock(scope, artifact)
    async with aclosing(read(services, tenant_id, opened, start, end)) as pieces:
        async for piece in pieces:
            yield piece


async def sealed_header(scope: Scope, artifact: Artifact) -> bytes:
    """Return the beginning of an artifact's sealed file: what it is, and the key sealed to who may open it.

    An application gets the key that is sealed to it, a user those for everybody.
    """
    rows = await scope.queries.fetch(
        "SELECT label, public_key, sealed FROM artifact_recipients WHERE artifact_id = $1 "
        "AND ($2::text IS NULL OR label = $2) ORDER BY label",
        artifact.artifact_id,
        None if scope.grant_id is None else grantee_label(scope.grant_id),
    )
    recipients = [Recipient(row["label"], row["public_key"], row["sealed"]) for row in rows]
    return header_of(scope.tenant_id, artifact, recipients)


def sealed_length(artifact: Artifact) -> int:
    """Return the bytes of an artifact as it is stored, without a header."""
    return sealed_size(artifact.size)


async def read_sealed(services: Services, tenant_id: UUID, artifact: Artifact, header: bytes) -> AsyncGenerator[Chunk]:
    """Return the sealed file: its header, and the blob as it lies in the store.

    Raises:
        Unavailable, Damaged: as :func:`read`.
    """
    size = sealed_size(artifact.size)
    yield header
    try:
        name = blob_name(tenant_id, artifact.artifact_id)
        async with aclosing(services.get(BlobStore).read(name, 0, size, size=size)) as pieces:
            async for piece in pieces:
                yield piece
    except (SealBroken, NotFound) as error:
        raise _damaged(artifact.artifact_id, error) from error


def _damaged(artifact_id: UUID, error: Exception) -> Damaged:
    log.error("the artifact %s is damaged: %s", artifact_id, error)
    return Damaged("What is stored of this artifact is damaged or gone. It can only be deleted.")
