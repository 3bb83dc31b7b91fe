"""Tables ``tenants`` and ``members``: projected from the tenant's stream, read under row-level security."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from retinue.kernel import Row, Scope
from retinue.ledger import Projection, Recorded
from retinue.tenancy.events import (
    MemberAdded,
    MemberChanged,
    MemberRemoved,
    TenantCreated,
    TenantRenamed,
    TenantResumed,
    TenantStopped,
)

PERSONAL_NAME = "Personal"


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant as its members see it."""

    tenant_id: UUID
    name: str
    personal: bool
    created_at: datetime
    stopped_at: datetime | None
    stop_reason: str | None


@dataclass(frozen=True, slots=True)
class Membership:
    """A tenant together with a user's role in it."""

    tenant: Tenant
    role: str


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a tenant; ``shown`` is whether fellow members see the e-mail address and the name."""

    user_id: UUID
    role: str
    joined_at: datetime
    shown: bool


_COLUMNS = "tenant_id, name, personal, created_at, stopped_at, stop_reason"
_MEMBER = "user_id, role, joined_at, shown"


async def this_tenant(scope: Scope, *, for_change: bool = False) -> Tenant | None:
    """Return the scope's tenant; ``for_change`` lets one change at a time pass until the transaction ends."""
    lock = " FOR UPDATE" if for_change else ""
    row = await scope.queries.fetchrow(f"SELECT {_COLUMNS} FROM tenants{lock}")
    return Tenant(*(row[n] for n in range(6))) if row else None


async def memberships(scope: Scope, user_id: UUID) -> list[Membership]:
    """Return every tenant that a user is a member of, the oldest first. The only look across tenants here."""
    rows = await scope.queries.fetch("SELECT * FROM tenancy_of_user($1)", user_id)
    return [_membership(row) for row in rows]


async def members(scope: Scope, after: UUID | None, limit: int) -> list[Member]:
    """Return members of the scope's tenant by user id."""
    rows = await scope.queries.fetch(
        f"SELECT {_MEMBER} FROM members WHERE $1::uuid IS NULL OR user_id > $1 ORDER BY user_id LIMIT $2",
        after,
        limit,
    )
    return [_member(row) for row in rows]


async def members_of(scope: Scope, user_ids: Sequence[UUID]) -> list[Member]:
    """Return those of these users who are members of the scope's tenant."""
    rows = await scope.queries.fetch(f"SELECT {_MEMBER} FROM members WHERE user_id = ANY($1::uuid[])", list(user_ids))
    return [_member(row) for row in rows]


async def find_member(scope: Scope, user_id: UUID) -> Member | None:
    """Return one member of the scope's tenant."""
    row = await scope.queries.fetchrow(f"SELECT {_MEMBER} FROM members WHERE user_id = $1", user_id)
    return _member(row) if row else None


async def count_admins(scope: Scope) -> int:
    """Return how many admins the scope's tenant has."""
    count: int = await scope.queries.fetchval("SELECT count(*) FROM members WHERE role = 'admin'")
    return count


async def is_stopped(scope: Scope) -> bool:
    """Return whether the emergency stop of the scope's tenant is on; it stays so until the scope commits."""
    stopped: bool | None = await scope.queries.fetchval("SELECT stopped_at IS NOT NULL FROM tenants FOR SHARE")
    return bool(stopped)


def _member(row: Row) -> Member:
    return Member(*(row[n] for n in range(4)))


def _membership(row: Row) -> Membership:
    tenant = Tenant(
        row["r_tenant"],
        row["r_name"],
        row["r_personal"],
        row["r_created_at"],
        row["r_stopped_at"],
        row["r_stop_reason"],
    )
    return Membership(tenant, row["r_role"])


async def _on_created(scope: Scope, recorded: Recorded[TenantCreated]) -> None:
    fact = recorded.event
    await scope.queries.execute(
        "INSERT INTO tenants (tenant_id, name, personal, created_at) VALUES ($1, $2, $3, $4)",
        fact.tenant_id,
        fact.name or PERSONAL_NAME,
        fact.personal,
        recorded.recorded_at,
    )


async def _on_renamed(scope: Scope, recorded: Recorded[TenantRenamed]) -> None:
    await scope.queries.execute("UPDATE tenants SET name = $1", recorded.event.name)


async def _on_stopped(scope: Scope, recorded: Recorded[TenantStopped]) -> None:
    await scope.queries.execute(
        "UPDATE tenants SET stopped_at = $1, stop_reason = $2", recorded.recorded_at, recorded.event.reason
    )


async def _on_resumed(scope: Scope, recorded: Recorded[TenantResumed]) -> None:
    await scope.queries.execute("UPDATE tenants SET stopped_at = NULL, stop_reason = NULL")


async def _on_added(scope: Scope, recorded: Recorded[MemberAdded]) -> None:
    await scope.queries.execute(
        "INSERT INTO members (tenant_id, user_id, role, joined_at, shown) VALUES ($1, $2, $3, $4, $5)",
        recorded.tenant_id,
        recorded.event.user_id,
        recorded.event.role,
        recorded.recorded_at,
        recorded.event.shown,
    )


async def _on_changed(scope: Scope, recorded: Recorded[MemberChanged]) -> None:
    fact = recorded.event
    await scope.queries.execute(
        "UPDATE members SET role = $2, shown = shown OR $3 WHERE user_id = $1", fact.user_id, fact.role, fact.shown
    )


async def _on_removed(scope: Scope, recorded: Recorded[MemberRemoved]) -> None:
    await scope.queries.execute("DELETE FROM members WHERE user_id = $1", recorded.event.user_id)


PROJECTION = Projection(
    {
        TenantCreated: _on_created,
        TenantRenamed: _on_renamed,
        TenantStopped: _on_stopped,
        TenantResumed: _on_resumed,
        MemberAdded: _on_added,
        MemberChanged: _on_changed,
        MemberRemoved: _on_removed,
    }
)
