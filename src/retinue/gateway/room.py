"""The gateway room."""

from __future__ import annotations

from retinue.gateway.api import router
from retinue.gateway.commands import RELEASE
from retinue.gateway.work import release
from retinue.kernel import Room

ROOM = Room(name="gateway", routers=(router,), work={RELEASE: release})
