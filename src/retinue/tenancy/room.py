"""The manifest of the room ``tenancy``."""

from __future__ import annotations

from retinue.kernel import Room
from retinue.tenancy import events, teams
from retinue.tenancy.api import profile, tenants
from retinue.tenancy.views import PROJECTION
from retinue.web import Streamed

ROOM = Room(
    name="tenancy",
    events=(
        events.TenantCreated,
        events.TenantRenamed,
        events.MemberAdded,
        events.MemberChanged,
        events.MemberRemoved,
        events.TenantStopped,
        events.TenantResumed,
        events.TeamCreated,
        events.TeamRenamed,
        events.TeamDeleted,
        events.TeamMemberAdded,
        events.TeamMemberRemoved,
    ),
    projections=(PROJECTION, teams.PROJECTION),
    routers=(profile, tenants),
    streamed={
        "tenant.stopped": Streamed("system_notice", lambda data: {"notice": "stopped", "reason": data["reason"]}),
        "tenant.resumed": Streamed("system_notice", lambda data: {"notice": "resumed"}),
    },
)
