"""What a worker does for artifacts and uploads when their time has come."""

from __future__ import annotations

import time
from uuid import UUID

from retinue.artifacts import accrual, claims, finishing, lifetime, loose_blobs, uploads
from retinue.database import open_scope
from retinue.kernel import Services
from retinue.vault import BlobStore

_CLEAR_SECONDS = 6 * 3600.0
_LEFT_SECONDS = 24 * 3600.0

_cleared = -_CLEAR_SECONDS


async def on_expire(services: Services, tenant_id: UUID, artifact_id: UUID) -> None:
    """Handle the wake-up ``artifact.expire``."""
    async with open_scope(services, tenant_id, cause=f"wake-up:{lifetime.EXPIRE}") as scope:
        await lifetime.expire(scope, artifact_id)


async def on_accrue(services: Services, tenant_id: UUID, _tenant: UUID) -> None:
    """Handle the wake-up ``artifact.accrue``."""
    async with open_scope(services, tenant_id, cause=f"wake-up:{accrual.ACCRUE}") as scope:
        await accrual.on_time_to_accrue(scope)
    await _clear_store(services)


async def _clear_store(services: Services) -> None:
    """Remove what writers that were killed left in the store; now and then is enough, once for all tenants."""
    global _cleared  # this process's memory of when it did that
    if time.monotonic() - _cleared > _CLEAR_SECONDS:
        _cleared = time.monotonic()
        await services.get(BlobStore).sweep(_LEFT_SECONDS)


async def on_sweep(services: Services, tenant_id: UUID, blob_id: UUID) -> None:
    """Handle the wake-up ``artifact.sweep``."""
    async with open_scope(services, tenant_id, cause=f"wake-up:{loose_blobs.SWEEP}") as scope:
        await claims.claim(scope, loose_blobs.SWEEP, blob_id, loose_blobs.sweep)


async def on_finish(services: Services, tenant_id: UUID, upload_id: UUID) -> None:
    """Handle the wake-up ``upload.finish``."""
    async with open_scope(services, tenant_id, cause=f"wake-up:{finishing.FINISH}") as scope:
        await claims.claim(scope, finishing.FINISH, upload_id, finishing.finish)


async def on_upload_expire(services: Services, tenant_id: UUID, upload_id: UUID) -> None:
    """Handle the wake-up ``upload.expire``."""
    async with open_scope(services, tenant_id, cause=f"wake-up:{uploads.EXPIRE}") as scope:
        await uploads.expire(scope, upload_id)
