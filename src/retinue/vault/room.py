"""The manifest of the room ``vault``."""

from __future__ import annotations

from retinue.kernel import Room
from retinue.vault import events
from retinue.vault.api import router

ROOM = Room(name="vault", events=(events.SecretSealed, events.SecretRemoved), routers=(router,))
