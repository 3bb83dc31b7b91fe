"""The manifest of the room ``grants``."""

from __future__ import annotations

from retinue.grants import events
from retinue.grants.api import mine, of_grantees, of_tenants
from retinue.grants.commands import EXPIRE
from retinue.grants.views import PROJECTION
from retinue.grants.work import on_expire
from retinue.kernel import Room

ROOM = Room(
    name="grants",
    events=(events.GrantCreated, events.GrantRevoked, events.GrantExpired, events.GrantUsed),
    projections=(PROJECTION,),
    routers=(mine, of_tenants, of_grantees),
    work={EXPIRE: on_expire},
)
