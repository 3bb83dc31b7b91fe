"""The vault: the root key, keys derived from it and wrapped by it, and the secrets of tenants."""

from retinue.vault.commands import open_secret, open_secrets, remove_secret, rotate_root, seal
from retinue.vault.keyring import FileKeyRing, KeyRing, VaultLocked, Wrapped
from retinue.vault.provider_keys import ProviderSecret, provider_secrets, store_secret, tenant_secrets
from retinue.vault.sealing import SealBroken
from retinue.vault.vault import Vault
from retinue.vault.views import SecretInfo

__all__ = [
    "FileKeyRing",
    "KeyRing",
    "ProviderSecret",
    "SealBroken",
    "SecretInfo",
    "Vault",
    "VaultLocked",
    "Wrapped",
    "open_secret",
    "open_secrets",
    "provider_secrets",
    "remove_secret",
    "rotate_root",
    "seal",
    "store_secret",
    "tenant_secrets",
]
