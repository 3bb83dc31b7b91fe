"""What is read of users, logins and keys: narrow functions of the database for the first two, one table for keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from retinue.kernel import Queries, Row, Scope


@dataclass(frozen=True, slots=True)
class Person:
    """A user as other users of a tenant may see them."""

    user_id: UUID
    home: UUID
    email: str | None
    name: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class PasswordUser:
    """What a login needs to know of a user; ``password_hash`` None means that no password opens it."""

    user_id: UUID
    home: UUID
    password_hash: str | None
    version: int


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """An API key without its text."""

    key_id: UUID
    user_id: UUID
    name: str
    hint: str
    scopes: list[str] | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    replaced_by: UUID | None


async def people(queries: Queries, user_ids: Sequence[UUID]) -> dict[UUID, Person]:
    """Return users by their id; those that do not exist are left out."""
    rows = await queries.fetch("SELECT * FROM identity_people($1)", list(user_ids))
    return {
        row["r_user"]: Person(row["r_user"], row["r_home"], row["r_email"], row["r_name"], row["r_created_at"])
        for row in rows
    }


async def find_by_email(queries: Queries, email: str) -> UUID | None:
    """Return the user with this normalised e-mail address, or None."""
    found: UUID | None = await queries.fetchval("SELECT identity_find_by_email($1)", email)
    return found


async def find_for_login(queries: Queries, email: str) -> PasswordUser | None:
    """Return what a login with this normalised e-mail address is checked against."""
    row = await queries.fetchrow("SELECT * FROM identity_find_for_login($1)", email)
    return PasswordUser(row["r_user"], row["r_home"], row["r_password_hash"], row["r_version"]) if row else None


async def find_external(queries: Queries, issuer: str, subject: str) -> tuple[UUID, UUID] | None:
    """Return the user that an issuer's subject is, and that user's personal tenant."""
    row = await queries.fetchrow("SELECT * FROM identity_find_external($1, $2)", issuer, subject)
    return (row["r_user"], row["r_home"]) if row else None


_KEY = (
    "key_id, user_id, name, hint, scopes, created_at, expires_at, revoked_at, last_used_at, replaced_by "
    "FROM api_keys WHERE user_id = $1"
)


async def keys_of(scope: Scope, user_id: UUID, after: UUID | None, limit: int) -> list[KeyInfo]:
    """Return the keys a user has in this tenant, oldest first, revoked ones too."""
    rows = await scope.queries.fetch(
        f"SELECT {_KEY} AND ($2::uuid IS NULL OR key_id > $2) ORDER BY key_id LIMIT $3", user_id, after, limit
    )
    return [_key(row) for row in rows]


async def find_key(scope: Scope, user_id: UUID, key_id: UUID, *, for_change: bool = False) -> KeyInfo | None:
    """Return one key of a user; ``for_change`` keeps others from changing it until the transaction ends."""
    lock = " FOR UPDATE" if for_change else ""
    row = await scope.queries.fetchrow(f"SELECT {_KEY} AND key_id = $2{lock}", user_id, key_id)
    return _key(row) if row else None


def _key(row: Row) -> KeyInfo:
    return KeyInfo(*(row[n] for n in range(10)))
