"""Counters of the library ``limits`` in memory.

The library's own memory storage looks through all its counters after every hit, which costs 80 us a request with a
thousand callers and grows with them; anybody can be many callers. This one sweeps once in a while and is bounded.
"""

from __future__ import annotations

import time
from math import floor

from limits.aio.storage import Storage
from limits.aio.storage.base import SlidingWindowCounterSupport
from limits.storage.base import TimestampedSlidingWindow

_SWEEP_SECONDS = 30.0
_MOST = 200_000


class Counters(Storage, SlidingWindowCounterSupport, TimestampedSlidingWindow):
    """Counts for fixed and sliding windows. Nothing here waits, so every method is one atomic step."""

    STORAGE_SCHEME = None

    def __init__(self) -> None:
        super().__init__()
        self._counts: dict[str, tuple[int, float]] = {}
        self._swept = time.time()

    @property
    def base_exceptions(self) -> type[Exception]:
        """What a failing storage would raise; this one does not fail."""
        return RuntimeError

    async def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Add to a counter that lives for ``expiry`` seconds from its first use."""
        return self._add(key, expiry, amount)

    async def get(self, key: str) -> int:
        """Return a counter; 0 when there is none."""
        return self._count(key, time.time())

    async def get_expiry(self, key: str) -> float:
        """Return when a counter ends, in seconds of Unix time."""
        return self._counts.get(key, (0, time.time()))[1]

    async def check(self) -> bool:
        """Return whether the storage works."""
        return True

    async def reset(self) -> int | None:
        """Forget everything; return how many counters there were."""
        total = len(self._counts)
        self._counts.clear()
        return total

    async def clear(self, key: str) -> None:
        """Forget a counter."""
        self._counts.pop(key, None)

    async def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count ``amount`` unless the weighted sum of this window and the one before would pass ``limit``."""
        previous, previous_left, current, _ = self._window(key, expiry)
        if floor(previous * previous_left / expiry + current) + amount > limit:
            return False
        _, current_key = self.sliding_window_keys(key, expiry, time.time())
        self._add(current_key, 2 * expiry, amount)
        return True

    async def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """Return count and seconds left of the window before, and of this one."""
        return self._window(key, expiry)

    async def clear_sliding_window(self, key: str, expiry: int) -> None:
        """Forget both windows."""
        for name in self.sliding_window_keys(key, expiry, time.time()):
            self._counts.pop(name, None)

    def _window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        now = time.time()
        previous_key, current_key = self.sliding_window_keys(key, expiry, now)
        left = (1 - (now / expiry) % 1) * expiry
        return self._count(previous_key, now), left, self._count(current_key, now), left + expiry

    def _count(self, key: str, now: float) -> int:
        count, ends = self._counts.get(key, (0, 0.0))
        return count if ends > now else 0

    def _add(self, key: str, expiry: float, amount: int) -> int:
        now = time.time()
        if now - self._swept > _SWEEP_SECONDS or len(self._counts) > _MOST:
            self._sweep(now)
        count, ends = self._counts.get(key, (0, 0.0))
        if ends <= now:
            count, ends = 0, now + expiry
        self._counts[key] = (count + amount, ends)
        return count + amount

    def _sweep(self, now: float) -> None:
        self._swept = now
        self._counts = {key: value for key, value in self._counts.items() if value[1] > now}
        if len(self._counts) > _MOST:  # a flood of addresses: the oldest half goes
            for key in list(self._counts)[: _MOST // 2]:
                del self._counts[key]
