"""The gateway room."""

from __future__ import annotations

from retinue.gateway.commands import RELEASE
from retinue.gateway.work import release
from retinue.kernel import Room

ROOM = Room(name="gateway", work={RELEASE: release})
