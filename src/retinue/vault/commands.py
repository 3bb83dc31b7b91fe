"""Sealing and opening a tenant's secrets, and changing the root key."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from retinue.database import Database
from retinue.kernel import NotFound, Scope, new_id
from retinue.ledger import append, stream_version
from retinue.vault import views
from retinue.vault.events import SecretRemoved, SecretSealed
from retinue.vault.keyring import Wrapped
from retinue.vault.sealing import decrypt, encrypt, new_key
from retinue.vault.vault import Vault

_PAGE = 100


async def seal(scope: Scope, purpose: str, name: str, plaintext: bytes) -> None:
    """Store a secret of the tenant, in place of an older one of the name.

    Args:
        scope: whose secret it is.
        purpose: which use it has, such as ``provider``; a value sealed for one purpose opens for no other.
        name: its name within the purpose.
        plaintext: the value.
    """
    key_id, key = await sealing_key(scope)
    body = encrypt(key, plaintext, _place(scope.tenant_id, purpose, name, key_id))
    await views.put_secret(scope, purpose, name, key_id, body)
    stream = _stream(purpose, name)
    await append(scope, stream, await stream_version(scope, stream), [SecretSealed(purpose=purpose, name=name)])


async def open_secret(scope: Scope, purpose: str, name: str) -> bytes | None:
    """Return the value of a secret, or None when the tenant has none of that name.

    Raises:
        SealBroken: what the database holds is not what was sealed there.
    """
    return (await open_secrets(scope, purpose, [name])).get(name)


async def open_secrets(scope: Scope, purpose: str, names: Sequence[str] | None = None) -> dict[str, bytes]:
    """Return the values of several secrets by name; all of the purpose when ``names`` is None. One statement.

    Raises:
        SealBroken: what the database holds is not what was sealed there.
    """
    found: dict[str, bytes] = {}
    keys: dict[UUID, bytes] = {}
    for sealed in await views.sealed_secrets(scope, purpose, names):
        if sealed.key_id not in keys:
            keys[sealed.key_id] = await unwrapped(scope, sealed.key_id, sealed.key)
        place = _place(scope.tenant_id, purpose, sealed.name, sealed.key_id)
        found[sealed.name] = decrypt(keys[sealed.key_id], sealed.body, place)
    return found


async def remove_secret(scope: Scope, purpose: str, name: str) -> None:
    """Delete a secret.

    Raises:
        NotFound: the tenant has none of that name.
    """
    if not await views.delete_secret(scope, purpose, name):
        raise NotFound("secret")
    stream = _stream(purpose, name)
    await append(scope, stream, await stream_version(scope, stream), [SecretRemoved(purpose=purpose, name=name)])


async def rotate_root(database: Database, vault: Vault) -> int:
    """Make a new root key and wrap every tenant's keys again; return how many tenants that were.

    Secrets, tokens and API keys stay as they are. It can be stopped at any point and started again: the former root
    keys are forgotten only when nothing is wrapped by them any more.
    """
    async with database.transaction(_NOBODY) as uow:
        # The row's lock lets one rotation at a time change the ring, and waits for those who are adding a key.
        await uow.queries.fetchval("SELECT root_id FROM server_keys FOR UPDATE")
        await vault.ring.rotate()
        root_id = vault.ring.root_id
        await vault.rewrap(uow.queries, root_id)
    count = 0
    while tenants := await _tenants_to_rewrap(database, root_id):
        for tenant_id in tenants:
            await _rewrap_tenant(database, vault, tenant_id, root_id)
        count += len(tenants)
    async with database.transaction(_NOBODY) as uow:
        current = await uow.queries.fetchval("SELECT root_id FROM server_keys FOR UPDATE")
        if current == root_id and not await _tenants_to_rewrap(database, root_id):
            await vault.ring.retire(root_id)
    return count


_NOBODY = UUID(int=0)  # no tenant has this id: its transaction sees no tenant's rows


async def _tenants_to_rewrap(database: Database, root_id: str) -> list[UUID]:
    async with database.routing() as queries:
        rows = await queries.fetch("SELECT * FROM vault_tenants_to_rewrap($1, $2)", root_id, _PAGE)
    return [row[0] for row in rows]


async def _rewrap_tenant(database: Database, vault: Vault, tenant_id: UUID, root_id: str) -> None:
    async with database.transaction(tenant_id) as uow:
        rows = await uow.queries.fetch(
            "SELECT key_id, root_id, wrapped FROM tenant_keys WHERE root_id <> $1 FOR UPDATE", root_id
        )
        for row in rows:
            context = _key_context(tenant_id, row["key_id"])
            key = await vault.ring.unwrap(Wrapped(row["root_id"], row["wrapped"]), context)
            fresh = await vault.ring.wrap(key, context, root_id)
            await uow.queries.execute(
                "UPDATE tenant_keys SET root_id = $2, wrapped = $3 WHERE key_id = $1",
                row["key_id"],
                fresh.root_id,
                fresh.data,
            )


async def sealing_key(scope: Scope) -> tuple[UUID, bytes]:
    """Return the tenant's key that seals from now on, with its id; at its first use it is made."""
    found = await views.newest_key(scope)
    if found is not None:
        return found[0], await unwrapped(scope, *found)
    key_id, key = new_id(), new_key()
    await views.add_key(scope, key_id, await _wrapped(scope, key_id, key))
    return key_id, key


async def _wrapped(scope: Scope, key_id: UUID, key: bytes) -> Wrapped:
    current = await views.current_root(scope)
    return await scope.service(Vault).ring.wrap(key, _key_context(scope.tenant_id, key_id), current)


async def unwrapped(scope: Scope, key_id: UUID, wrapped: Wrapped) -> bytes:
    """Open one of the tenant's keys. Raises SealBroken and VaultLocked as :meth:`KeyRing.unwrap` does."""
    return await scope.service(Vault).ring.unwrap(wrapped, _key_context(scope.tenant_id, key_id))


def _key_context(tenant_id: UUID, key_id: UUID) -> bytes:
    return f"retinue/tenant-key/{tenant_id}/{key_id}".encode()


def _place(tenant_id: UUID, purpose: str, name: str, key_id: UUID) -> bytes:
    """Return what ties a sealed value to its row. A length keeps ``a/b`` of ``c`` apart from ``b`` of ``c/a``."""
    return f"retinue/secret/{tenant_id}/{key_id}/{len(purpose)}/{purpose}/{name}".encode()


def _stream(purpose: str, name: str) -> str:
    return f"secret:{purpose}/{name}"
