"""The manifest of the room ``identity``."""

from __future__ import annotations

from retinue.identity import events
from retinue.identity.api import auth, my
from retinue.kernel import Room

ROOM = Room(
    name="identity",
    events=(
        events.UserSignedUp,
        events.PasswordChanged,
        events.LoginStarted,
        events.LoginEnded,
        events.KeyCreated,
        events.KeyRevoked,
    ),
    routers=(auth, my),
)
