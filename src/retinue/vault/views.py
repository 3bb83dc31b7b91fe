"""Tables ``tenant_keys`` and ``secrets``: what the vault reads and writes, all of it sealed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from retinue.kernel import Row, Scope
from retinue.vault.keyring import Wrapped


@dataclass(frozen=True, slots=True)
class SecretInfo:
    """All that is ever told about a stored secret."""

    name: str
    created_at: datetime
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class Sealed:
    """A secret with the wrapped key that opens it."""

    name: str
    key_id: UUID
    body: bytes
    key: Wrapped


async def newest_key(scope: Scope) -> tuple[UUID, Wrapped] | None:
    """Return the tenant's key that seals from now on, or None when it has none yet."""
    row = await scope.queries.fetchrow("SELECT key_id, root_id, wrapped FROM tenant_keys ORDER BY key_id DESC LIMIT 1")
    return (row["key_id"], Wrapped(row["root_id"], row["wrapped"])) if row else None


async def tenant_key(scope: Scope, key_id: UUID) -> Wrapped | None:
    """Return one of the tenant's keys, wrapped, or None when there is none of that id."""
    row = await scope.queries.fetchrow("SELECT root_id, wrapped FROM tenant_keys WHERE key_id = $1", key_id)
    return Wrapped(row["root_id"], row["wrapped"]) if row else None


async def add_key(scope: Scope, key_id: UUID, wrapped: Wrapped) -> None:
    """Store a new key of the tenant."""
    await scope.queries.execute(
        "INSERT INTO tenant_keys (tenant_id, key_id, root_id, wrapped, created_at) VALUES ($1, $2, $3, $4, $5)",
        scope.tenant_id,
        key_id,
        wrapped.root_id,
        wrapped.data,
        scope.clock.now(),
    )


async def current_root(scope: Scope) -> str:
    """Return the root key that new keys are wrapped by, and keep a rotation out until this transaction ends."""
    root_id: str = await scope.queries.fetchval("SELECT root_id FROM server_keys FOR SHARE")
    return root_id


async def put_secret(scope: Scope, purpose: str, name: str, key_id: UUID, body: bytes) -> None:
    """Store a sealed value, in place of an older one of the name."""
    await scope.queries.execute(
        "INSERT INTO secrets (tenant_id, purpose, name, key_id, sealed, created_at, changed_at) "
        "VALUES ($1, $2, $3, $4, $5, $6, $6) ON CONFLICT (tenant_id, purpose, name) "
        "DO UPDATE SET key_id = $4, sealed = $5, changed_at = $6",
        scope.tenant_id,
        purpose,
        name,
        key_id,
        body,
        scope.clock.now(),
    )


async def sealed_secrets(scope: Scope, purpose: str, names: Sequence[str] | None) -> list[Sealed]:
    """Return the sealed values of ``names``; all of the purpose when that is None."""
    rows = await scope.queries.fetch(
        "SELECT s.name, s.key_id, s.sealed, k.root_id, k.wrapped FROM secrets s "
        "JOIN tenant_keys k USING (tenant_id, key_id) "
        "WHERE s.purpose = $1 AND ($2::text[] IS NULL OR s.name = ANY ($2))",
        purpose,
        None if names is None else list(names),
    )
    return [Sealed(row["name"], row["key_id"], row["sealed"], Wrapped(row["root_id"], row["wrapped"])) for row in rows]


async def secret_info(scope: Scope, purpose: str, after: str | None, limit: int) -> list[SecretInfo]:
    """Return what may be known about the tenant's secrets of ``purpose``, by name."""
    rows = await scope.queries.fetch(
        "SELECT name, created_at, changed_at FROM secrets WHERE purpose = $1 AND ($2::text IS NULL OR name > $2) "
        "ORDER BY name LIMIT $3",
        purpose,
        after,
        limit,
    )
    return [_info(row) for row in rows]


async def count_secrets(scope: Scope, purpose: str) -> int:
    """Return how many secrets of ``purpose`` the tenant has."""
    count: int = await scope.queries.fetchval("SELECT count(*) FROM secrets WHERE purpose = $1", purpose)
    return count


async def one_secret_info(scope: Scope, purpose: str, name: str) -> SecretInfo | None:
    """Return what may be known about one secret."""
    row = await scope.queries.fetchrow(
        "SELECT name, created_at, changed_at FROM secrets WHERE purpose = $1 AND name = $2", purpose, name
    )
    return _info(row) if row else None


async def delete_secret(scope: Scope, purpose: str, name: str) -> bool:
    """Delete a secret; return whether there was one."""
    found = await scope.queries.fetchval(
        "DELETE FROM secrets WHERE purpose = $1 AND name = $2 RETURNING name", purpose, name
    )
    return found is not None


def _info(row: Row) -> SecretInfo:
    return SecretInfo(row["name"], row["created_at"], row["changed_at"])
