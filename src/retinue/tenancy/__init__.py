"""Tenants, members, roles, the permission table, and the keeper of the door."""

from retinue.tenancy.commands import found, leave_hooks, refuse_when_stopped, stop_hooks
from retinue.tenancy.doorkeeper import DoorKeeper
from retinue.tenancy.names import member_names
from retinue.tenancy.permissions import ACTIONS, AGENT, GRANTEE, GRANTEE_SCOPES, RESOURCES, ROLES, may, permits
from retinue.tenancy.teams import Team, role_of, sees_all_teams, sees_team, team, team_hooks, teams_of
from retinue.tenancy.views import find_member, is_stopped, this_tenant

__all__ = [
    "ACTIONS",
    "AGENT",
    "GRANTEE",
    "GRANTEE_SCOPES",
    "RESOURCES",
    "ROLES",
    "DoorKeeper",
    "Team",
    "find_member",
    "found",
    "is_stopped",
    "leave_hooks",
    "may",
    "member_names",
    "permits",
    "refuse_when_stopped",
    "role_of",
    "sees_all_teams",
    "sees_team",
    "stop_hooks",
    "team",
    "team_hooks",
    "teams_of",
    "this_tenant",
]
