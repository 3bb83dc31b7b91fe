"""Beginning an upload, and its bytes on their way into the store, piece by piece."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from uuid import UUID

from retinue.artifacts import keys, loose_blobs
from retinue.artifacts.finishing import Part, begin
from retinue.artifacts.hooks import limits_of
from retinue.artifacts.quota import reserve
from retinue.artifacts.rules import blob_name, check_name, part_context, too_large
from retinue.artifacts.uploads import EXPIRE, Upload, expiry, find, key_of
from retinue.database import open_scope
from retinue.dispatch import wake
from retinue.kernel import BadInput, Conflict, PayloadTooLarge, Scope, Services, Settings, new_id
from retinue.vault import BlobStore, encrypt_stream
from retinue.web import BodyCut

log = logging.getLogger(__name__)

MOST_PARTS = 10_000

MOST_BY_GRANT = 10
"""Uploads that an application may have under way by one grant: what they announce is reserved."""

OpenScope = Callable[[], AbstractAsyncContextManager[Scope]]
"""Opens a transaction as the caller, for a moment."""


async def create(
    scope: Scope, name: str, length: int, *, version_of: str | None = None, retention_seconds: int | None = None
) -> Upload:
    """Begin an upload of ``length`` bytes, which are reserved.

    Raises:
        BadInput: the name or a number cannot be stored.
        PayloadTooLarge: it would be larger than an artifact may be.
        StorageFull: it would be over the user's quota.
        Conflict: an application has as many uploads under way as it may.
    """
    check_name(name)
    if version_of is not None:
        check_name(version_of, where="version_of")
    owner = scope.owner()
    limits = await limits_of(scope, owner)
    if length > limits.artifact_bytes:
        raise too_large(limits.artifact_bytes)
    upload_id = new_id()
    await keys.make(scope, upload_id)
    expires = expiry(scope)
    await scope.queries.execute(
        "INSERT INTO uploads (tenant_id, upload_id, owner_id, grant_id, actor_kind, actor_id, name, version_of, "
        "length, received, parts, state, retention_seconds, created_at, expires_at) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0, 0, 'open', $10, $11, $12)",
        scope.tenant_id,
        upload_id,
        owner,
        scope.grant_id,
        scope.actor.kind.value,
        scope.actor.id,
        name,
        version_of,
        length,
        retention_seconds,
        scope.clock.now(),
        expires,
    )
    await wake(scope, EXPIRE, upload_id, at=expires)
    await reserve(scope, owner, length, limits)
    await _few_by_grant(scope)
    if length == 0:
        await begin(scope, upload_id)
    return await find(scope, upload_id)


async def _few_by_grant(scope: Scope) -> None:
    """Let no application take all of its user's storage by mere announcements. The user's reservations are locked."""
    if scope.grant_id is None:
        return
    open_now = await scope.queries.fetchval(
        "SELECT count(*) FROM uploads WHERE grant_id = $1 AND state = 'open'", scope.grant_id
    )
    if open_now > MOST_BY_GRANT:
        raise Conflict(f"An application has at most {MOST_BY_GRANT} uploads under way. Go on with one, or give it up.")


class _Body:
    """The bytes of a request, taken in portions; ``cut_is_end``: what came before the client went away counts."""

    def __init__(self, chunks: AsyncIterator[bytes], *, cut_is_end: bool) -> None:
        self._chunks = chunks
        self._cut_is_end = cut_is_end
        self._left = b""
        self._over = False

    async def more(self) -> bool:
        """Return whether there are more bytes; wait until that is known."""
        while not self._left and not self._over:
            try:
                self._left = await anext(self._chunks)
            except StopAsyncIteration:
                self._over = True
            except BodyCut:
                if not self._cut_is_end:
                    raise
                self._over = True
        return bool(self._left)

    async def portion(self, most: int) -> AsyncIterator[bytes]:
        """Yield the next bytes, at most so many."""
        while most > 0 and await self.more():
            taken, self._left = self._left[:most], self._left[most:]
            most -= len(taken)
            yield taken


@dataclass(slots=True)
class _Count:
    size: int = 0

    async def of(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            self.size += len(chunk)
            yield chunk


class Writing:
    """The bytes of one request on their way into an upload.

    Args:
        services: the server's.
        tenant_id: the tenant's.
        caller: opens a transaction as the caller.
        upload_id: which upload.
        whole: keep nothing before all has come and was checked: for bytes with a checksum or a signed digest. Otherwise
            what has come is kept, also when the client goes away.
    """

    def __init__(self, services: Services, tenant_id: UUID, caller: OpenScope, upload_id: UUID, *, whole: bool) -> None:
        self._services = services
        self._tenant_id = tenant_id
        self._caller = caller
        self._upload_id = upload_id
        self._whole = whole
        self._stored: list[Part] = []

    async def write(self, offset: int, chunks: AsyncIterator[bytes], check: Callable[[], Awaitable[None]]) -> Upload:
        """Keep the bytes that come, and return the upload as it is then.

        Args:
            offset: where the client believes the upload is.
            chunks: the bytes.
            check: called when all have come; raises when they are not what they should be.

        Raises:
            Conflict: the upload is not at ``offset``, or was refused.
            PayloadTooLarge: more comes than was announced.
            NotFound, Gone, StorageFull, Unavailable: as elsewhere.
        """
        body = _Body(chunks, cut_is_end=not self._whole)
        async with self._caller() as scope:
            upload = await find(scope, self._upload_id)
            _refuse_elsewhere(upload, offset)
            key = b"" if upload.state == "stored" else await key_of(scope, upload.upload_id)
        try:
            while await body.more():
                upload = await self._next(upload, key, body)
            await check()
            return await self._keep() or upload
        except BaseException:
            await self._give_up()
            raise

    async def _next(self, upload: Upload, key: bytes, body: _Body) -> Upload:
        """Store one more piece; return how the upload is, or will be, with it."""
        room = upload.length - upload.received
        if room > 0:
            part = await self._store(upload, key, body, room)
            upload = replace(upload, received=upload.received + part.size, parts=upload.parts + 1)
        if upload.received == upload.length and await body.more():
            raise PayloadTooLarge(f"More has come than the {upload.length:,} bytes that were announced.")
        return upload if self._whole else await self._keep() or upload

    async def _store(self, upload: Upload, key: bytes, body: _Body, room: int) -> Part:
        if upload.parts >= MOST_PARTS:
            raise BadInput(f"An upload has at most {MOST_PARTS:,} pieces. Send larger ones.", field="Upload-Offset")
        part = Part(upload.parts, new_id(), 0)
        async with self._caller() as scope:
            await loose_blobs.announce(scope, part.blob_id)
        self._stored.append(part)  # so that it is given up should this fail
        most = min(room, self._services.get(Settings).upload_part_bytes)
        count = _Count()
        context = part_context(self._tenant_id, upload.upload_id, part.blob_id, part.number)
        sealed = encrypt_stream(key, count.of(body.portion(most)), context=context)
        await self._services.get(BlobStore).put(blob_name(self._tenant_id, part.blob_id), sealed)
        self._stored[-1] = replace(part, size=count.size)
        return self._stored[-1]

    async def _keep(self) -> Upload | None:
        """Move the upload's offset past the pieces that lie in the store; None when there are none."""
        if not self._stored:
            return None
        async with self._caller() as scope:
            upload = await _keep_parts(scope, self._upload_id, self._stored)
        self._stored = []
        return upload

    async def _give_up(self) -> None:
        if not self._stored:
            return
        try:
            async with open_scope(self._services, self._tenant_id, cause="upload:write") as scope:
                for blob_id in await loose_blobs.locked(scope, [part.blob_id for part in self._stored]):
                    await loose_blobs.doom(scope, blob_id)
        except Exception:
            log.warning("pieces of an upload are removed later", exc_info=True)


def _refuse_elsewhere(upload: Upload, offset: int) -> None:
    if upload.state == "refused":
        raise Conflict(upload.problem or "This upload was refused.")
    if upload.received != offset:
        raise Conflict(f"The upload is at {upload.received}, not {offset}. Go on from there.")


async def _keep_parts(scope: Scope, upload_id: UUID, parts: Sequence[Part]) -> Upload:
    blobs = [part.blob_id for part in parts]
    if len(await loose_blobs.owned(scope, blobs)) < len(blobs):
        raise Conflict("A piece was given up, because it took too long. Ask for the offset and go on from there.")
    upload = await find(scope, upload_id, lock=True)
    if upload.state != "open" or upload.parts != parts[0].number:
        raise Conflict(f"Somebody else sent the same piece; the upload is at {upload.received}.")
    received = upload.received + sum(part.size for part in parts)
    await scope.queries.executemany(
        "INSERT INTO upload_parts (tenant_id, upload_id, number, blob_id, size) VALUES ($1, $2, $3, $4, $5)",
        [(scope.tenant_id, upload_id, part.number, part.blob_id, part.size) for part in parts],
    )
    await scope.queries.execute(
        "UPDATE uploads SET received = $2, parts = $3, expires_at = $4 WHERE upload_id = $1",
        upload_id,
        received,
        parts[-1].number + 1,
        expiry(scope),
    )
    if received == upload.length:
        await begin(scope, upload_id)
    return await find(scope, upload_id)
