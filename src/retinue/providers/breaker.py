"""A circuit breaker: when a provider keeps failing, stop asking it for a while.

The libraries at hand were read and not taken: in the half-open state they let every waiting call through at once,
and count a cancelled or refused call as a recovery; both would be wrong here. The pattern is from M. Nygard,
"Release It!", 2nd edition, chapter 5.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum, auto


class Admission(Enum):
    """What the breaker says to a call."""

    FREE = auto()
    PROBE = auto()
    HELD = auto()


class Breaker:
    """Counts the failures in a row of one endpoint.

    Closed: calls go through. Open, after ``threshold`` failures in a row: none do, for ``rest`` seconds. Half-open,
    after that: one call goes through as a probe; its success closes the breaker, its failure opens it again.
    """

    def __init__(self, threshold: int = 5, rest: float = 15.0, now: Callable[[], float] = time.monotonic) -> None:
        self._threshold = threshold
        self._rest = rest
        self._now = now
        self._failures = 0
        self._opened_at: float | None = None
        self._probing = False

    def admit(self) -> Admission:
        """Say whether a call may be made now; unless it is HELD, :meth:`ended` must follow."""
        if self._opened_at is None:
            return Admission.FREE
        if self._probing or self._now() - self._opened_at < self._rest:
            return Admission.HELD
        self._probing = True
        return Admission.PROBE

    def wait(self) -> float:
        """Return the seconds until a probe may be made; 0 when it may be now, or is under way."""
        if self._opened_at is None:
            return 0.0
        return max(0.0, self._opened_at + self._rest - self._now())

    def ended(self, admission: Admission, healthy: bool | None) -> None:
        """Note how an admitted call ended.

        ``healthy`` is True when the endpoint answered, False when it is in trouble, and None when the call says
        nothing about it: it was cancelled, or failed for reasons of its own.
        """
        if admission is Admission.PROBE:
            self._probing = False
        if healthy:
            self._failures = 0
            self._opened_at = None
        elif healthy is False:
            self._failures += 1
            # A late failure of a call from before the opening does not prolong it.
            if admission is Admission.PROBE or (self._opened_at is None and self._failures >= self._threshold):
                self._opened_at = self._now()
