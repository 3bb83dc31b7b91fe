"""The operations room."""

from __future__ import annotations

from retinue.kernel import Room

ROOM = Room(name="operations")
