"""Tiers and what they allow a user in a month: decisions without a database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time
from types import MappingProxyType
from uuid import UUID

from retinue.kernel import QuotaExhausted
from retinue.ledger import Event
from retinue.metering.events import Quotaed, QuotaUsedUp, QuotaWarned, TierName
from retinue.metering.rules import WARN_PERCENT, end_of, start_of

_GB = 10**9
_DAY = 86_400


@dataclass(frozen=True, slots=True)
class Tier:
    """What a user of a tenant gets.

    Attributes:
        name: as the operator sets it.
        operations: how many a month may begin; None for no limit.
        storage_bytes: how much may be stored at a time; None: as the tenant's policy says.
        retention_seconds: how long artifacts are kept at most; None: as the tenant's policy says.
    """

    name: TierName
    operations: int | None
    storage_bytes: int | None
    retention_seconds: int | None


TIERS: Mapping[TierName, Tier] = MappingProxyType(
    {
        "free": Tier("free", 10, _GB, 3 * _DAY),
        "pro": Tier("pro", 100, 10 * _GB, 30 * _DAY),
        "own": Tier("own", None, None, None),
    }
)
FIRST: TierName = "own"
"""The tier of tenants for which the operator set none."""


@dataclass(frozen=True, slots=True)
class Storage:
    """What a user has stored, and may store by tier, policy and settings together.

    Attributes:
        used, limit: bytes; no limit is None.
        retention_seconds: how long artifacts are kept where nobody asks for less; None: for ever.
    """

    used: int
    limit: int | None
    retention_seconds: int | None


@dataclass(frozen=True, slots=True)
class Quota:
    """How far a user's month is used.

    Attributes:
        user_id: whose it is.
        month: its first day, in UTC.
        operations: how many were counted in it.
        warned, exhausted: whether that was recorded of operations in this month already.
        storage_warned, storage_full: the same of storage.
    """

    user_id: UUID
    month: date
    operations: int = 0
    warned: bool = False
    exhausted: bool = False
    storage_warned: bool = False
    storage_full: bool = False

    def as_of(self, now: datetime) -> Quota:
        """Return the quota as it is at ``now``: a month may have ended since it was last written."""
        month = start_of("month", now)
        return self if self.month >= month else Quota(self.user_id, month)

    def used_up(self, tier: Tier) -> bool:
        """Whether no operation may begin any more in this month."""
        return tier.operations is not None and self.operations >= tier.operations

    def with_one_more(self) -> Quota:
        """Return the quota with another operation counted."""
        return replace(self, operations=self.operations + 1)


def operation_marks(quota: Quota, tier: Tier) -> list[Event]:
    """Return what is to be recorded of a user's operations, and was not yet in this month."""
    if tier.operations is None:
        return []
    return _marks(quota, "operations", tier.operations, quota.operations, (quota.warned, quota.exhausted))


def storage_marks(quota: Quota, storage: Storage) -> list[Event]:
    """Return what is to be recorded of what a user has stored, and was not yet in this month."""
    if storage.limit is None:
        return []
    return _marks(quota, "storage", storage.limit, storage.used, (quota.storage_warned, quota.storage_full))


def _marks(quota: Quota, what: Quotaed, limit: int, used: int, recorded: tuple[bool, bool]) -> list[Event]:
    kinds: list[type[QuotaWarned] | type[QuotaUsedUp]] = []
    if not recorded[0] and used * 100 >= limit * WARN_PERCENT:
        kinds.append(QuotaWarned)
    if not recorded[1] and used >= limit:
        kinds.append(QuotaUsedUp)
    return [kind(user_id=quota.user_id, what=what, limit=limit, used=used, month=quota.month) for kind in kinds]


def begins_anew(quota: Quota) -> datetime:
    """Return when the next month begins."""
    return datetime.combine(end_of(quota.month), time(), UTC)


def refusal(quota: Quota, tier: Tier, now: datetime) -> QuotaExhausted:
    """Return the fault that says that no operation may begin any more, and when one may."""
    anew = begins_anew(quota)
    return QuotaExhausted(
        f"All {tier.operations} operations of this month are used; that is what the tier {tier.name} has. "
        f"The quota begins anew on {anew.date().isoformat()} (UTC). Whoever runs this server can set another tier.",
        begins_anew=anew,
        now=now,
    )
