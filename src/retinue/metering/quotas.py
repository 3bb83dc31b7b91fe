"""Counts what a month's quota is used for. Whatever begins at the same time, no user gets more than the tier has."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast
from uuid import UUID

from retinue.kernel import Row, Scope
from retinue.ledger import Event, Projection, Recorded, append, stream_version
from retinue.metering import tiers
from retinue.metering.events import QuotaUsedUp, QuotaWarned, TierChanged, TierName
from retinue.metering.rules import start_of
from retinue.metering.tiers import Quota, Storage, Tier


@dataclass(slots=True)
class Hooks:
    """What rooms above fill in.

    Attributes:
        storage: what a user has stored and may store; None: nobody stores anything.
    """

    storage: Callable[[Scope, UUID], Awaitable[Storage]] | None = None


hooks = Hooks()
"""The one set of hooks of this process."""

_COLUMNS = "user_id, month, operations, warned, exhausted, storage_warned, storage_full"


async def tier_of(scope: Scope) -> Tier:
    """Return the tier of the scope's tenant."""
    name: TierName | None = await scope.queries.fetchval("SELECT tier FROM tiers")
    return tiers.TIERS[name or tiers.FIRST]


async def set_tier(scope: Scope, name: TierName) -> None:
    """Put the tenant into another tier. What was counted this month stays counted.

    Who has used most of the new quota already is warned now.
    """
    revision: int | None = await scope.queries.fetchval("SELECT revision FROM tiers")
    if (await tier_of(scope)).name == name and revision is not None:
        return
    # Nobody owns what happens to it: all who may read costs see it.
    ownerless = replace(scope, user_id=None)
    await append(ownerless, f"tier:{scope.tenant_id}", revision or 0, [TierChanged(tier=name)])
    rows = await scope.queries.fetch(f"SELECT {_COLUMNS} FROM quotas ORDER BY user_id FOR UPDATE")
    for quota in [_quota(row).as_of(scope.clock.now()) for row in rows]:
        await _record(scope, quota, tiers.operation_marks(quota, tiers.TIERS[name]))


async def quota_of(scope: Scope, user_id: UUID) -> Quota:
    """Return how far a user's month is used."""
    row = await scope.queries.fetchrow(f"SELECT {_COLUMNS} FROM quotas WHERE user_id = $1", user_id)
    now = scope.clock.now()
    return _quota(row).as_of(now) if row else Quota(user_id, start_of("month", now))


async def quotas(scope: Scope, after: UUID | None, limit: int) -> Sequence[Quota]:
    """Return how far the month is used by those who began something in it, by user id."""
    rows = await scope.queries.fetch(
        f"SELECT {_COLUMNS} FROM quotas WHERE month >= $1 AND ($2::uuid IS NULL OR user_id > $2) "
        "ORDER BY user_id LIMIT $3",
        start_of("month", scope.clock.now()),
        after,
        limit,
    )
    return [_quota(row) for row in rows]


async def storage_of(scope: Scope, user_id: UUID) -> Storage:
    """Return what a user has stored and may store; where nobody stores anything, what the tier says."""
    if hooks.storage is not None:
        return await hooks.storage(scope, user_id)
    tier = await tier_of(scope)
    return Storage(0, tier.storage_bytes, tier.retention_seconds)


async def check_quota(scope: Scope, user_id: UUID) -> None:
    """Look whether a user may begin another operation this month.

    To look is not to count: of several who look at once, :func:`count_operation` lets as many through as are left.

    Raises:
        QuotaExhausted: the month's operations are used; the fault says when the quota begins anew.
    """
    tier, quota = await tier_of(scope), await quota_of(scope, user_id)
    if quota.used_up(tier):
        raise tiers.refusal(quota, tier, scope.clock.now())


async def count_operation(scope: Scope, user_id: UUID, operation_id: UUID) -> None:
    """Count an operation that begins; call it in the transaction that begins it. An operation is counted once.

    Others who begin one for the same user wait until this transaction ends. That most, or all, of the month is used
    is recorded once a month.

    Raises:
        QuotaExhausted: the month's operations are used; the fault says when the quota begins anew.
    """
    quota, tier = await _locked(scope, user_id), await tier_of(scope)
    if await scope.queries.fetchval("SELECT true FROM counted_operations WHERE operation_id = $1", operation_id):
        return
    if quota.used_up(tier):
        raise tiers.refusal(quota, tier, scope.clock.now())
    await scope.queries.execute(
        "INSERT INTO counted_operations (tenant_id, operation_id, user_id, month) VALUES ($1, $2, $3, $4)",
        scope.tenant_id,
        operation_id,
        user_id,
        quota.month,
    )
    await scope.queries.execute("UPDATE quotas SET operations = operations + 1 WHERE user_id = $1", user_id)
    quota = quota.with_one_more()
    await _record(scope, quota, tiers.operation_marks(quota, tier))


async def note_storage(scope: Scope, user_id: UUID) -> None:
    """Record, once a month, that a user has stored most or all of what may be stored.

    It refuses nothing: who stores asks before writing.
    """
    storage = await storage_of(scope, user_id)
    if tiers.storage_marks(await quota_of(scope, user_id), storage):
        quota = await _locked(scope, user_id)
        await _record(scope, quota, tiers.storage_marks(quota, storage))


async def _locked(scope: Scope, user_id: UUID) -> Quota:
    """Return a user's quota, which nobody changes before this transaction ends; begin a new month if one has come."""
    row = await scope.queries.fetchrow(
        "INSERT INTO quotas AS q (tenant_id, user_id, month, operations, warned, exhausted, storage_warned, "
        "storage_full) VALUES ($1, $2, $3, 0, false, false, false, false) "
        "ON CONFLICT (tenant_id, user_id) DO UPDATE SET month = greatest(q.month, excluded.month), "
        "operations = CASE WHEN q.month < excluded.month THEN 0 ELSE q.operations END, "
        "warned = q.warned AND q.month >= excluded.month, exhausted = q.exhausted AND q.month >= excluded.month, "
        "storage_warned = q.storage_warned AND q.month >= excluded.month, "
        f"storage_full = q.storage_full AND q.month >= excluded.month RETURNING {_COLUMNS}",
        scope.tenant_id,
        user_id,
        start_of("month", scope.clock.now()),
    )
    return _quota(cast(Row, row))


async def _record(scope: Scope, quota: Quota, marks: Sequence[Event]) -> None:
    """Append to the stream of a user's quota; the user sees it, whoever acts."""
    if marks:
        stream = f"quota:{quota.user_id}"
        await append(scope, stream, await stream_version(scope, stream), marks, owner_id=quota.user_id)


def _quota(row: Row) -> Quota:
    return Quota(*row[0:7])


async def _on_tier(scope: Scope, recorded: Recorded[TierChanged]) -> None:
    """Write the tier. What was recorded of the former one's limits says nothing of the new ones."""
    await scope.queries.execute(
        "INSERT INTO tiers (tenant_id, tier, revision) VALUES ($1, $2, $3) "
        "ON CONFLICT (tenant_id) DO UPDATE SET tier = excluded.tier, revision = excluded.revision",
        scope.tenant_id,
        recorded.event.tier,
        recorded.version,
    )
    await scope.queries.execute(
        "UPDATE quotas SET warned = false, exhausted = false, storage_warned = false, storage_full = false"
    )


async def _on_warned(scope: Scope, recorded: Recorded[QuotaWarned]) -> None:
    column = "warned" if recorded.event.what == "operations" else "storage_warned"
    await scope.queries.execute(f"UPDATE quotas SET {column} = true WHERE user_id = $1", recorded.event.user_id)


async def _on_used_up(scope: Scope, recorded: Recorded[QuotaUsedUp]) -> None:
    column = "exhausted" if recorded.event.what == "operations" else "storage_full"
    await scope.queries.execute(f"UPDATE quotas SET {column} = true WHERE user_id = $1", recorded.event.user_id)


PROJECTION = Projection({TierChanged: _on_tier, QuotaWarned: _on_warned, QuotaUsedUp: _on_used_up})
