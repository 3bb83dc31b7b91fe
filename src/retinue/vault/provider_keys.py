"""A tenant's own credentials for model providers, and other named secrets its agents' tools use."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from retinue.kernel import BadInput, Conflict, Scope
from retinue.vault.commands import open_secrets, seal
from retinue.vault.views import count_secrets, one_secret_info

PROVIDERS = ("openai", "anthropic", "google")
PURPOSE = "tenant"
MOST_SECRETS = 500
SHORTEST_KEY = 8  # characters; no provider's keys are shorter


class StoredSecret(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is sealed of a tenant's secret: a value, and for a model provider perhaps where it is spoken to."""

    value: str
    base_url: str | None = None


@dataclass(frozen=True, slots=True)
class ProviderSecret:
    """A tenant's key for a model provider; ``base_url`` None means the provider's usual address."""

    api_key: str
    base_url: str | None


async def store_secret(scope: Scope, name: str, value: str, base_url: str | None = None) -> None:
    """Seal a secret of the tenant. The names in :data:`PROVIDERS` are credentials of model providers.

    Raises:
        BadInput: it is too short to be a provider's key. With a ``base_url`` it may be anything: not all need one.
        Conflict: the tenant has too many secrets.
    """
    if name in PROVIDERS and base_url is None and len(value) < SHORTEST_KEY:
        raise BadInput(
            f"A key of {name} has at least {SHORTEST_KEY} characters; this one has {len(value)}.", field="value"
        )
    if await one_secret_info(scope, PURPOSE, name) is None and await count_secrets(scope, PURPOSE) >= MOST_SECRETS:
        raise Conflict(f"This tenant has {MOST_SECRETS} secrets. Delete some first.")
    await seal(scope, PURPOSE, name, msgspec.json.encode(StoredSecret(value, base_url)))


async def provider_secrets(scope: Scope) -> dict[str, ProviderSecret]:
    """Return the tenant's own credentials of model providers, by provider. One statement."""
    opened = await open_secrets(scope, PURPOSE, PROVIDERS)
    found = {name: msgspec.json.decode(plaintext, type=StoredSecret) for name, plaintext in opened.items()}
    return {name: ProviderSecret(one.value, one.base_url) for name, one in found.items()}


async def tenant_secrets(scope: Scope) -> dict[str, str]:
    """Return the values of all named secrets of the tenant, for the credentials of its MCP servers and tools."""
    opened = await open_secrets(scope, PURPOSE)
    return {name: msgspec.json.decode(plaintext, type=StoredSecret).value for name, plaintext in opened.items()}
