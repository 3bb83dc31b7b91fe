"""Facts about tenants and their members. Names of people and e-mail addresses are not in them."""

from __future__ import annotations

from uuid import UUID

from retinue.ledger import Event, event


@event("tenant.created")
class TenantCreated(Event, frozen=True, kw_only=True):
    """A tenant came to be: a user's personal one, or an organisation. ``name`` is empty for a personal one."""

    tenant_id: UUID
    personal: bool
    name: str = ""


@event("tenant.renamed")
class TenantRenamed(Event, frozen=True, kw_only=True):
    """An organisation has another name."""

    tenant_id: UUID
    name: str


@event("member.added")
class MemberAdded(Event, frozen=True, kw_only=True):
    """A user became a member of a tenant. ``shown``: fellow members see the user's e-mail address and name."""

    user_id: UUID
    role: str
    shown: bool = False


@event("member.changed")
class MemberChanged(Event, frozen=True, kw_only=True):
    """A member has another role, or with ``shown`` is seen by e-mail address and name from now on."""

    user_id: UUID
    role: str
    shown: bool = False


@event("member.removed")
class MemberRemoved(Event, frozen=True, kw_only=True):
    """A user is no member any more; removed by an admin, or left."""

    user_id: UUID


@event("tenant.stopped")
class TenantStopped(Event, frozen=True, kw_only=True):
    """Emergency stop: nothing new starts, and what runs stops at its next step."""

    tenant_id: UUID
    reason: str


@event("tenant.resumed")
class TenantResumed(Event, frozen=True, kw_only=True):
    """The emergency stop is over."""

    tenant_id: UUID


@event("team.created")
class TeamCreated(Event, frozen=True, kw_only=True):
    """A team came to be, with whoever made it as its first member."""

    team_id: UUID
    name: str


@event("team.renamed")
class TeamRenamed(Event, frozen=True, kw_only=True):
    """A team has another name."""

    team_id: UUID
    name: str


@event("team.deleted")
class TeamDeleted(Event, frozen=True, kw_only=True):
    """A team is gone; nothing belonged to it any more."""

    team_id: UUID


@event("team.member_added")
class TeamMemberAdded(Event, frozen=True, kw_only=True):
    """A member of the tenant belongs to a team."""

    team_id: UUID
    user_id: UUID


@event("team.member_removed")
class TeamMemberRemoved(Event, frozen=True, kw_only=True):
    """A member of the tenant belongs to a team no more."""

    team_id: UUID
    user_id: UUID
