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


def to_the_second(moment: datetime) -> str:
    """Write a moment for people, in UTC and to the second (RFC 3339), such as ``2026-11-20T12:00:00Z``."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


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
