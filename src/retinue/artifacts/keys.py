"""The keys of files and uploads, wrapped by the tenant's key: to destroy one is to destroy the file, copies and all."""

from __future__ import annotations

from uuid import UUID

from retinue.kernel import Scope
from retinue.vault import WrappedKey, new_data_key, unwrap_data_key, wrap_data_key


async def make(scope: Scope, file_id: UUID) -> bytes:
    """Return a fresh key for a file, and keep it wrapped."""
    key = new_data_key()
    wrapped = await wrap_data_key(scope, file_id, key)
    await scope.queries.execute(
        "INSERT INTO artifact_keys (tenant_id, artifact_id, key_id, wrapped) VALUES ($1, $2, $3, $4)",
        scope.tenant_id,
        file_id,
        wrapped.key_id,
        wrapped.data,
    )
    return key


async def find(scope: Scope, file_id: UUID) -> bytes | None:
    """Return the key of a file; None once it is destroyed.

    Raises:
        SealBroken: what is stored is not the key of this file of this tenant.
    """
    row = await scope.queries.fetchrow("SELECT key_id, wrapped FROM artifact_keys WHERE artifact_id = $1", file_id)
    return None if row is None else await unwrap_data_key(scope, file_id, WrappedKey(row["key_id"], row["wrapped"]))


async def destroy(scope: Scope, file_id: UUID) -> None:
    """Delete the keys of a file: from the commit on nobody opens it, not from a copy of the blob either."""
    await scope.queries.execute("DELETE FROM artifact_keys WHERE artifact_id = $1", file_id)
    await scope.queries.execute("DELETE FROM artifact_recipients WHERE artifact_id = $1", file_id)
