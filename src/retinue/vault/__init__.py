"""The vault: the root key, keys derived from it and wrapped by it, the secrets of tenants, sealed files and where
they lie.
"""

from retinue.vault.blobs import BlobInfo, BlobStore
from retinue.vault.commands import open_secret, open_secrets, remove_secret, rotate_root, seal
from retinue.vault.data_keys import WrappedKey, new_data_key, unwrap_data_key, wrap_data_key
from retinue.vault.keyring import FileKeyRing, KeyRing, VaultLocked, Wrapped
from retinue.vault.opening import open_blobs
from retinue.vault.provider_keys import ProviderSecret, provider_secrets, store_secret, tenant_secrets
from retinue.vault.recipients import new_recipient, open_sealed, seal_to, usable_recipient
from retinue.vault.sealing import SealBroken
from retinue.vault.segments import HEADER, SEGMENT, Chunk
from retinue.vault.streaming import Read, decrypt_range, encrypt_stream, plain_size, sealed_size
from retinue.vault.vault import Vault
from retinue.vault.views import SecretInfo

__all__ = [
    "HEADER",
    "SEGMENT",
    "BlobInfo",
    "BlobStore",
    "Chunk",
    "FileKeyRing",
    "KeyRing",
    "ProviderSecret",
    "Read",
    "SealBroken",
    "SecretInfo",
    "Vault",
    "VaultLocked",
    "Wrapped",
    "WrappedKey",
    "decrypt_range",
    "encrypt_stream",
    "new_data_key",
    "new_recipient",
    "open_blobs",
    "open_sealed",
    "open_secret",
    "open_secrets",
    "plain_size",
    "provider_secrets",
    "remove_secret",
    "rotate_root",
    "seal",
    "seal_to",
    "sealed_size",
    "store_secret",
    "tenant_secrets",
    "unwrap_data_key",
    "usable_recipient",
    "wrap_data_key",
]
