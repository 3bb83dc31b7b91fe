"""The artifacts room."""

from __future__ import annotations

from retinue.kernel import Room

ROOM = Room(name="artifacts")
