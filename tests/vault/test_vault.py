"""The vault on a real database: opening it, secrets of tenants, rotation of the root key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest

from retinue.database import Database
from retinue.kernel import NotFound, Scope, Services, Settings
from retinue.ledger import Feed
from retinue.vault import (
    FileKeyRing,
    ProviderSecret,
    SealBroken,
    Vault,
    VaultLocked,
    open_secret,
    open_secrets,
    provider_secrets,
    remove_secret,
    rotate_root,
    seal,
    store_secret,
    tenant_secrets,
)
from tests.support.databases import Cluster
from tests.support.scopes import ledger_services, scope_of
from tests.support.waiting import until_blocked_or_done


@pytest.fixture
async def own_database(postgres: Cluster) -> AsyncIterator[Database]:
    """A database of the test's own: there is one server key in each."""
    name = await postgres.clone()
    found = Database(postgres.dsn(name), size=8)
    await found.open()
    yield found
    await found.close()
    await postgres.drop(name)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path)


@pytest.fixture
async def services(own_database: Database, settings: Settings) -> Services:
    found = ledger_services(own_database)
    found.add(Vault, await Vault.open(settings, own_database))
    return found


async def put(services: Services, tenant: UUID, name: str, value: bytes, purpose: str = "test") -> None:
    async with scope_of(services, tenant) as scope:
        await seal(scope, purpose, name, value)


async def get(services: Services, tenant: UUID, name: str, purpose: str = "test") -> bytes | None:
    async with scope_of(services, tenant) as scope:
        return await open_secret(scope, purpose, name)


async def test_a_secret_comes_back_as_it_was_put(services: Services) -> None:
    tenant = uuid4()
    await put(services, tenant, "token", b"first")
    await put(services, tenant, "token", b"second \x00\xff")
    await put(services, tenant, "other", b"")
    assert await get(services, tenant, "token") == b"second \x00\xff"
    assert await get(services, tenant, "missing") is None
    async with scope_of(services, tenant) as scope:
        assert await open_secrets(scope, "test") == {"token": b"second \x00\xff", "other": b""}
        assert await scope.queries.fetchval("SELECT count(*) FROM tenant_keys") == 1


async def test_a_secret_belongs_to_its_tenant_and_purpose(services: Services) -> None:
    tenant, neighbour = uuid4(), uuid4()
    await put(services, tenant, "token", b"mine")
    assert await get(services, neighbour, "token") is None
    assert await get(services, tenant, "token", purpose="another") is None
    await put(services, neighbour, "token", b"theirs")
    assert await get(services, tenant, "token") == b"mine"


async def test_a_removed_secret_is_gone(services: Services) -> None:
    tenant = uuid4()
    await put(services, tenant, "token", b"mine")
    async with scope_of(services, tenant) as scope:
        await remove_secret(scope, "test", "token")
    assert await get(services, tenant, "token") is None
    with pytest.raises(NotFound):
        async with scope_of(services, tenant) as scope:
            await remove_secret(scope, "test", "token")


async def test_nothing_in_the_database_shows_a_value(services: Services, own_database: Database) -> None:
    tenant = uuid4()
    async with scope_of(services, tenant) as scope:
        await store_secret(scope, "openai", "sk-very-secret-value", "https://llm.example.com")
    async with scope_of(services, tenant) as scope:
        for table in ("secrets", "tenant_keys", "events"):
            rows = await scope.queries.fetch(f"SELECT t::text AS text FROM {table} t")
            assert rows
            for row in rows:
                assert "very-secret" not in row["text"]
                assert b"very-secret".hex() not in row["text"]
    types = [one.type for one in await services.get(Feed).read(tenant, 0)]
    assert types == ["secret.sealed"]


async def test_a_value_moved_to_another_row_does_not_open(services: Services) -> None:
    tenant = uuid4()
    await put(services, tenant, "cheap", b"a")
    await put(services, tenant, "dear", b"b")

    async def swap(assignment: str) -> None:
        async with scope_of(services, tenant) as scope:
            await scope.queries.execute(f"UPDATE secrets SET {assignment} WHERE name = 'cheap'")

    await swap("sealed = (SELECT sealed FROM secrets WHERE name = 'dear')")
    with pytest.raises(SealBroken):
        await get(services, tenant, "cheap")
    await put(services, tenant, "cheap", b"a")
    await swap("purpose = 'another'")
    with pytest.raises(SealBroken):
        await get(services, tenant, "cheap", purpose="another")


async def test_provider_credentials_are_the_secrets_with_known_names(services: Services) -> None:
    tenant = uuid4()
    async with scope_of(services, tenant) as scope:
        await store_secret(scope, "openai", "sk-1", "https://llm.example.com/v1")
        await store_secret(scope, "google", "g-12345678")
        await store_secret(scope, "github", "gh-1")
    async with scope_of(services, tenant) as scope:
        assert await provider_secrets(scope) == {
            "openai": ProviderSecret("sk-1", "https://llm.example.com/v1"),
            "google": ProviderSecret("g-12345678", None),
        }
        assert await tenant_secrets(scope) == {"openai": "sk-1", "google": "g-12345678", "github": "gh-1"}


async def test_first_secrets_put_at_once_are_all_kept(services: Services) -> None:
    tenant = uuid4()
    await asyncio.gather(*(put(services, tenant, f"s{n}", b"%d" % n) for n in range(8)))
    async with scope_of(services, tenant) as scope:
        assert await open_secrets(scope, "test") == {f"s{n}": b"%d" % n for n in range(8)}


# Opening


async def test_the_server_key_survives_a_restart(own_database: Database, settings: Settings) -> None:
    first = await Vault.open(settings, own_database)
    second = await Vault.open(settings, own_database)
    assert first.derive("tokens") == second.derive("tokens") != first.derive("keys")


async def test_servers_that_start_at_once_agree(own_database: Database, settings: Settings) -> None:
    vaults = await asyncio.gather(*(Vault.open(settings, own_database) for _ in range(6)))
    assert len({vault.derive("tokens") for vault in vaults}) == 1


async def test_a_missing_root_key_is_never_replaced(own_database: Database, settings: Settings) -> None:
    await Vault.open(settings, own_database)
    path = settings.data / "root.key"
    path.unlink()
    with pytest.raises(VaultLocked, match="is missing"):
        await Vault.open(settings, own_database)
    assert not path.exists()


async def test_another_root_key_is_refused(own_database: Database, settings: Settings) -> None:
    await Vault.open(settings, own_database)
    path = settings.data / "root.key"
    path.unlink()
    FileKeyRing.create(path)
    with pytest.raises(VaultLocked, match="is not the root key of this database"):
        await Vault.open(settings, own_database)


async def test_a_root_key_open_to_others_is_refused(own_database: Database, settings: Settings) -> None:
    await Vault.open(settings, own_database)
    (settings.data / "root.key").chmod(0o644)
    with pytest.raises(VaultLocked, match="can be read by others"):
        await Vault.open(settings, own_database)


async def test_a_damaged_server_key_is_refused(own_database: Database, settings: Settings) -> None:
    await Vault.open(settings, own_database)
    async with own_database.routing() as queries:
        await queries.execute("UPDATE server_keys SET wrapped = wrapped || '\\x00'::bytea")
    with pytest.raises(VaultLocked, match="copies that belong together"):
        await Vault.open(settings, own_database)


# Rotation


async def test_a_rotation_wraps_everything_again_and_changes_nothing_else(
    services: Services, own_database: Database, settings: Settings
) -> None:
    tenants = [uuid4() for _ in range(5)]
    for tenant in tenants:
        await put(services, tenant, "token", tenant.bytes)
    vault = services.get(Vault)
    former, tokens = (settings.data / "root.key").read_bytes(), vault.derive("tokens")
    assert await rotate_root(own_database, vault) == 5

    fresh = await Vault.open(settings, own_database)
    assert fresh.derive("tokens") == tokens
    assert fresh.ring.root_id == vault.ring.root_id
    services.add(Vault, fresh)
    for tenant in tenants:
        assert await get(services, tenant, "token") == tenant.bytes
    (settings.data / "root.key").write_bytes(former)
    with pytest.raises(VaultLocked):
        await Vault.open(settings, own_database)


async def test_a_process_that_knows_the_former_root_key_goes_on(
    services: Services, own_database: Database, settings: Settings
) -> None:
    tenant = uuid4()
    await put(services, tenant, "token", b"value")
    await rotate_root(own_database, await Vault.open(settings, own_database))
    assert await get(services, tenant, "token") == b"value"
    newcomer = uuid4()
    await put(services, newcomer, "token", b"new")
    services.add(Vault, await Vault.open(settings, own_database))
    assert await get(services, newcomer, "token") == b"new"


async def test_an_interrupted_rotation_goes_on_later(
    services: Services, own_database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenants = [uuid4() for _ in range(4)]
    for tenant in tenants:
        await put(services, tenant, "token", tenant.bytes)
    vault = services.get(Vault)
    real, calls = vault.ring.wrap, 0

    async def dies_in_the_middle(key: bytes, context: bytes, root_id: str | None = None) -> object:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return await real(key, context, root_id)

    monkeypatch.setattr(vault.ring, "wrap", dies_in_the_middle)
    with pytest.raises(KeyboardInterrupt):
        await rotate_root(own_database, vault)
    monkeypatch.undo()

    again = await Vault.open(settings, own_database)
    services.add(Vault, again)
    for tenant in tenants:
        assert await get(services, tenant, "token") == tenant.bytes
    await rotate_root(own_database, again)
    assert len([line for line in (settings.data / "root.key").read_text().splitlines() if line[:1] != "#"]) == 1
    for tenant in tenants:
        assert await get(services, tenant, "token") == tenant.bytes


async def test_secrets_put_during_rotations_are_never_lost(
    services: Services, own_database: Database, settings: Settings
) -> None:
    other = ledger_services(own_database)
    other.add(Vault, await Vault.open(settings, own_database))
    tenants = [uuid4() for _ in range(12)]

    async def newcomers() -> None:
        for n, tenant in enumerate(tenants):
            await put((services, other)[n % 2], tenant, "token", tenant.bytes)

    rotations = (rotate_root(own_database, one.get(Vault)) for one in (services, other))
    await asyncio.gather(newcomers(), *rotations)
    services.add(Vault, await Vault.open(settings, own_database))
    for tenant in tenants:
        assert await get(services, tenant, "token") == tenant.bytes


async def test_a_rotation_waits_for_a_first_secret_that_is_being_put(
    services: Services, own_database: Database, settings: Settings
) -> None:
    tenant = uuid4()
    async with scope_of(services, tenant) as scope:
        await seal(scope, "test", "token", b"value")
        rotation = asyncio.create_task(rotate_root(own_database, await Vault.open(settings, own_database)))
        await until_blocked_or_done(own_database, rotation)
        assert not rotation.done()
    assert await rotation == 1
    services.add(Vault, await Vault.open(settings, own_database))
    assert await get(services, tenant, "token") == b"value"


async def test_the_rotation_learns_ids_only(services: Services, own_database: Database) -> None:
    """Across tenants, the application sees which tenants there are to do, and none of their keys."""
    await put(services, uuid4(), "token", b"value")
    async with own_database.routing() as queries:
        assert await queries.fetch("SELECT * FROM vault_tenants_to_rewrap('', 10)")
        assert not await queries.fetch("SELECT * FROM tenant_keys")
        assert not await queries.fetch("SELECT * FROM secrets")


async def test_a_secret_cannot_name_another_tenant_s_key(services: Services) -> None:
    tenant, neighbour = uuid4(), uuid4()
    await put(services, neighbour, "token", b"theirs")
    async with scope_of(services, neighbour) as scope:
        key_id = await scope.queries.fetchval("SELECT key_id FROM tenant_keys")

    async def borrow(scope: Scope) -> None:
        await scope.queries.execute(
            "INSERT INTO secrets (tenant_id, purpose, name, key_id, sealed, created_at, changed_at) "
            "VALUES ($1, 'test', 'x', $2, '', now(), now())",
            tenant,
            key_id,
        )

    with pytest.raises(asyncpg.ForeignKeyViolationError):
        async with scope_of(services, tenant) as scope:
            await borrow(scope)
