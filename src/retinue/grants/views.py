"""Table ``grants``, projected from the streams of grants, and ``grant_uses``, which counts."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import orjson

from retinue.grants.events import GrantCreated, GrantExpired, GrantRevoked
from retinue.grants.rules import Terms
from retinue.identity import grantee_id
from retinue.kernel import Row, Scope, from_base64url
from retinue.ledger import Projection, Recorded

_SELECT = """
SELECT g.grant_id, g.owner_id, g.application, g.grantee, g.seal_to, g.drivers, g.models, g.files, g.parameters::text,
    g.uses, g.budget, g.retention_seconds, g.max_seconds, g.created_at, g.expires_at, g.revoked_at,
    u.used, u.spent, u.reserved
FROM grants g, LATERAL (
    SELECT count(*) FILTER (WHERE w.try = 1) AS used, coalesce(sum(w.cost), 0)::bigint AS spent,
        coalesce(sum(w.reserved) FILTER (WHERE w.cost IS NULL), 0)::bigint AS reserved
    FROM grant_uses w WHERE w.tenant_id = g.tenant_id AND w.grant_id = g.grant_id) u
"""


# Projection


async def _on_created(scope: Scope, recorded: Recorded[GrantCreated]) -> None:
    fact = recorded.event
    await scope.queries.execute(
        "INSERT INTO grants (tenant_id, grant_id, owner_id, application, grantee, seal_to, drivers, models, files, "
        "parameters, uses, budget, retention_seconds, max_seconds, created_at, expires_at) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)",
        scope.tenant_id,
        fact.grant_id,
        fact.owner_id,
        fact.application,
        fact.grantee,
        None if fact.seal_to is None else from_base64url(fact.seal_to),
        fact.drivers,
        fact.models,
        fact.files,
        None if fact.parameters is None else orjson.dumps(fact.parameters).decode(),
        fact.uses,
        fact.budget,
        fact.retention_seconds,
        fact.max_seconds,
        recorded.recorded_at,
        fact.expires_at,
    )


async def _on_revoked(scope: Scope, recorded: Recorded[GrantRevoked]) -> None:
    await scope.queries.execute(
        "UPDATE grants SET revoked_at = $2, ended = true WHERE grant_id = $1",
        recorded.event.grant_id,
        recorded.recorded_at,
    )


async def _on_expired(scope: Scope, recorded: Recorded[GrantExpired]) -> None:
    await scope.queries.execute("UPDATE grants SET ended = true WHERE grant_id = $1", recorded.event.grant_id)


PROJECTION = Projection({GrantCreated: _on_created, GrantRevoked: _on_revoked, GrantExpired: _on_expired})


# Queries


async def lock(scope: Scope, grant_id: UUID) -> bool:
    """Let one use or change of a grant pass at a time, until the transaction ends; say whether it goes on.

    What was used must be counted by a later statement: one that waits for the lock still sees the time before.
    """
    row = await scope.queries.fetchrow("SELECT ended FROM grants WHERE grant_id = $1 FOR NO KEY UPDATE", grant_id)
    return row is not None and not row["ended"]


async def find(scope: Scope, grant_id: UUID) -> Terms | None:
    """Return a grant of the scope's tenant."""
    row = await scope.queries.fetchrow(f"{_SELECT} WHERE g.grant_id = $1", grant_id)
    return None if row is None else _terms(row)


async def listed(
    scope: Scope, owner: UUID | None, only: UUID | None, after: UUID | None, limit: int, *, alive: bool = False
) -> list[Terms]:
    """Return grants, the newest first.

    Args:
        owner: only those of this user; None for everybody's.
        only: nothing but this one; None for no such limit.
        after: those that come after this one.
        limit: how many at most.
        alive: leave out those that were revoked or have expired.
    """
    rows = await scope.queries.fetch(
        f"{_SELECT} WHERE ($1::uuid IS NULL OR g.owner_id = $1) AND ($2::uuid IS NULL OR g.grant_id = $2) "
        "AND ($3::uuid IS NULL OR g.grant_id < $3) "
        "AND (NOT $5 OR (g.revoked_at IS NULL AND (g.expires_at IS NULL OR g.expires_at > $6))) "
        "ORDER BY g.grant_id DESC LIMIT $4",
        owner,
        only,
        after,
        limit,
        alive,
        scope.clock.now(),
    )
    return [_terms(row) for row in rows]


async def alive_of(scope: Scope, owner_id: UUID) -> list[UUID]:
    """Return a user's grants whose end was not recorded, in the order in which they are locked."""
    rows = await scope.queries.fetch(
        "SELECT grant_id FROM grants WHERE owner_id = $1 AND NOT ended ORDER BY grant_id", owner_id
    )
    return [row["grant_id"] for row in rows]


async def tries(scope: Scope, grant_id: UUID, operation_id: UUID) -> tuple[int, bool]:
    """Return how often an operation used a grant, and whether it is under way."""
    row = await scope.queries.fetchrow(
        "SELECT count(*) AS tries, count(*) FILTER (WHERE cost IS NULL) AS open FROM grant_uses "
        "WHERE grant_id = $1 AND operation_id = $2",
        grant_id,
        operation_id,
    )
    return (0, False) if row is None else (row["tries"], row["open"] > 0)


async def begin(scope: Scope, grant_id: UUID, operation_id: UUID, number: int, reserved: int) -> None:
    """Count an operation, or one more try of it."""
    await scope.queries.execute(
        "INSERT INTO grant_uses (tenant_id, grant_id, operation_id, try, reserved, used_at) "
        "VALUES ($1, $2, $3, $4, $5, $6)",
        scope.tenant_id,
        grant_id,
        operation_id,
        number,
        reserved,
        scope.clock.now(),
    )


async def end(scope: Scope, grant_id: UUID, operation_id: UUID, cost: int) -> None:
    """Turn the reservation of an operation under way into what it cost; nothing happens when there is none."""
    await scope.queries.execute(
        "UPDATE grant_uses SET cost = $3 WHERE grant_id = $1 AND operation_id = $2 AND cost IS NULL",
        grant_id,
        operation_id,
        cost,
    )


def _terms(row: Row) -> Terms:
    parameters: dict[str, Any] | None = None if row["parameters"] is None else orjson.loads(row["parameters"])
    return Terms(
        grant_id=row["grant_id"],
        owner_id=row["owner_id"],
        application=row["application"],
        grantee=row["grantee"],
        grantee_id=grantee_id(row["grantee"]),
        seal_to=row["seal_to"],
        drivers=tuple(row["drivers"]),
        models=tuple(row["models"]),
        files=None if row["files"] is None else tuple(row["files"]),
        parameters=parameters,
        uses=row["uses"],
        used=row["used"],
        budget=row["budget"],
        spent=row["spent"],
        reserved=row["reserved"],
        retention_seconds=row["retention_seconds"],
        max_seconds=row["max_seconds"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
    )
