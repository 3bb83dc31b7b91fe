"""Data keys of files: kept only wrapped, tied to their tenant and file, untouched by a new root key."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from retinue.database import Database
from retinue.kernel import Scope, Services, Settings
from retinue.vault import (
    SealBroken,
    Vault,
    Wrapped,
    WrappedKey,
    data_keys,
    new_data_key,
    rotate_root,
    seal,
    unwrap_data_key,
    views,
    wrap_data_key,
)
from tests.support.databases import Cluster
from tests.support.scopes import ledger_services, scope_of


@pytest.fixture
async def services(postgres: Cluster, tmp_path: Path) -> AsyncIterator[Services]:
    """Services on a database of its own: its root key is rotated."""
    name = await postgres.clone()
    database = Database(postgres.dsn(name), size=4)
    await database.open()
    found = ledger_services(database)
    found.add(Vault, await Vault.open(Settings(data=tmp_path), database))
    yield found
    await database.close()
    await postgres.drop(name)


async def wrap(services: Services, tenant: UUID, file: UUID, key: bytes) -> WrappedKey:
    async with scope_of(services, tenant) as scope:
        return await wrap_data_key(scope, file, key)


async def unwrap(services: Services, tenant: UUID, file: UUID, wrapped: WrappedKey) -> bytes:
    async with scope_of(services, tenant) as scope:
        return await unwrap_data_key(scope, file, wrapped)


async def test_a_data_key_comes_back_and_is_nowhere_in_the_open(services: Services) -> None:
    tenant, file, key = uuid4(), uuid4(), new_data_key()
    wrapped = await wrap(services, tenant, file, key)
    assert key not in wrapped.data
    assert await unwrap(services, tenant, file, wrapped) == key
    assert len({new_data_key() for _ in range(100)}) == 100


async def test_a_data_key_opens_for_its_own_file_and_tenant_only(services: Services) -> None:
    """Catches a wrapped key that is moved to another row, to read a deleted file's successor or somebody else's."""
    tenant, other, file = uuid4(), uuid4(), uuid4()
    wrapped = await wrap(services, tenant, file, new_data_key())
    foreign = await wrap(services, other, file, new_data_key())
    changed = replace(wrapped, data=wrapped.data[:-1] + bytes([wrapped.data[-1] ^ 1]))
    for where, what, which in (
        (tenant, uuid4(), wrapped),
        (other, file, wrapped),
        (tenant, file, foreign),
        (tenant, file, changed),
        (tenant, file, replace(wrapped, key_id=uuid4())),
        (tenant, file, replace(wrapped, key_id=foreign.key_id)),
        (other, file, replace(wrapped, key_id=foreign.key_id)),
    ):
        with pytest.raises(SealBroken):
            await unwrap(services, where, what, which)


async def test_a_data_key_is_bound_to_its_tenant_besides_the_tenants_key(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If two tenants came to have the same key, neither would open what the other wrapped."""
    shared, key_id, file = new_data_key(), uuid4(), uuid4()

    async def sealing_key(_scope: Scope) -> tuple[UUID, bytes]:
        return key_id, shared

    async def stored(_scope: Scope, _key_id: UUID) -> Wrapped:
        return Wrapped("", b"")

    async def unwrapped(_scope: Scope, _key_id: UUID, _wrapped: Wrapped) -> bytes:
        return shared

    monkeypatch.setattr(data_keys, "sealing_key", sealing_key)
    monkeypatch.setattr(data_keys, "unwrapped", unwrapped)
    monkeypatch.setattr(views, "tenant_key", stored)
    tenant, key = uuid4(), new_data_key()
    wrapped = await wrap(services, tenant, file, key)
    assert await unwrap(services, tenant, file, wrapped) == key
    with pytest.raises(SealBroken):
        await unwrap(services, uuid4(), file, wrapped)


async def test_data_keys_outlive_a_rotation_of_the_root_key(services: Services) -> None:
    tenants, file, key = [uuid4() for _ in range(3)], uuid4(), new_data_key()
    wrapped = {tenant: await wrap(services, tenant, file, key) for tenant in tenants}
    vault = services.get(Vault)
    before = vault.ring.root_id
    assert await rotate_root(services.get(Database), vault) == 3
    assert vault.ring.root_id != before
    for tenant in tenants:
        assert await unwrap(services, tenant, file, wrapped[tenant]) == key


async def test_secrets_and_files_of_a_tenant_share_its_key(services: Services) -> None:
    """So that a rotation has one key of a tenant to wrap again, whatever the tenant stores."""
    tenant = uuid4()
    async with scope_of(services, tenant) as scope:
        await seal(scope, "test", "token", b"x")
    wrapped = await wrap(services, tenant, uuid4(), new_data_key())
    async with scope_of(services, tenant) as scope:
        assert await scope.queries.fetchval("SELECT array_agg(key_id) FROM tenant_keys") == [wrapped.key_id]
