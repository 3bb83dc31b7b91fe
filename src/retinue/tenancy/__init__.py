"""Tenants, members, roles, the permission table, and the keeper of the door."""

from retinue.tenancy.commands import found, refuse_when_stopped, stop_hooks
from retinue.tenancy.doorkeeper import DoorKeeper
from retinue.tenancy.permissions import ACTIONS, RESOURCES, ROLES, permits
from retinue.tenancy.views import find_member, is_stopped

__all__ = [
    "ACTIONS",
    "RESOURCES",
    "ROLES",
    "DoorKeeper",
    "find_member",
    "found",
    "is_stopped",
    "permits",
    "refuse_when_stopped",
    "stop_hooks",
]
