"""Time, always aware and in UTC, behind a seam so that tests can move it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Tells the time. Order is never taken from it: positions and versions give order."""

    def now(self) -> datetime:
        """Return the current time in UTC."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Return the current time in UTC."""
        return datetime.now(UTC)


class ManualClock:
    """A clock that stands still until it is moved; for tests and replays."""

    def __init__(self, start: datetime) -> None:
        self._now = start

    def now(self) -> datetime:
        """Return the time this clock was last set to."""
        return self._now

    def advance(self, by: timedelta) -> None:
        """Move the clock forward (or back, with a negative ``by``)."""
        self._now += by
