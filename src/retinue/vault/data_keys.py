"""Data keys: each file has one of its own, kept only wrapped by its tenant's key.

The tenant's key is wrapped by the root key, so a rotation of the root key leaves wrapped data keys as they are. To
delete a file for good is to forget its wrapped data key.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from retinue.kernel import Scope
from retinue.vault import views
from retinue.vault.commands import sealing_key, unwrapped
from retinue.vault.sealing import SealBroken, decrypt, encrypt, new_key


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A data key encrypted under one of the tenant's keys.

    Attributes:
        key_id: which of the tenant's keys.
        data: the encrypted data key; it tells nothing without that key.
    """

    key_id: UUID
    data: bytes


def new_data_key() -> bytes:
    """Return a fresh key of 256 bits for one file."""
    return new_key()


async def wrap_data_key(scope: Scope, file_id: UUID, key: bytes) -> WrappedKey:
    """Encrypt the data key of a file under the tenant's key; it unwraps only for this tenant and this file."""
    key_id, tenant_key = await sealing_key(scope)
    return WrappedKey(key_id, encrypt(tenant_key, key, _place(scope.tenant_id, key_id, file_id)))


async def unwrap_data_key(scope: Scope, file_id: UUID, wrapped: WrappedKey) -> bytes:
    """Return the data key of a file.

    Raises:
        SealBroken: what is stored is not what was wrapped for this file of this tenant.
    """
    stored = await views.tenant_key(scope, wrapped.key_id)
    if stored is None:
        raise SealBroken("the data key was wrapped by a key that this tenant does not have")
    tenant_key = await unwrapped(scope, wrapped.key_id, stored)
    return decrypt(tenant_key, wrapped.data, _place(scope.tenant_id, wrapped.key_id, file_id))


def _place(tenant_id: UUID, key_id: UUID, file_id: UUID) -> bytes:
    return f"retinue/data-key/{tenant_id}/{key_id}/{file_id}".encode()
