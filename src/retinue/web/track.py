"""What one filter lets through, as a ring that all streams with that filter share."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from starlette.types import Message

from retinue.web.catalogue import Filter, Shown
from retinue.web.metrics import DELIVERIES

RING_ITEMS = 2_000
RING_BYTES = 2_000_000
_TURN = 200  # streams served before others get a turn on the event loop


class Follower(Protocol):
    """A stream, as a track sees it.

    Attributes:
        cursor: how many items of the track it was given.
    """

    cursor: int

    @classmethod
    def chunks(cls, items: Sequence[Shown]) -> Sequence[Message]:
        """Return the messages that carry ``items``."""
        ...

    def push(self, messages: Sequence[Message], end: int) -> None:
        """Take the messages up to item ``end``, on the spot."""
        ...

    def go_on_alone(self) -> None:
        """Take the rest from the ring."""
        ...

    def lost(self) -> None:
        """Take note that the ring has moved past the cursor."""
        ...

    def keep_alive(self) -> None:
        """Show a quiet client that the stream is alive."""
        ...


class Track:
    """What one filter lets through, for all streams with that filter.

    Attributes:
        end: the number of items there ever were; a cursor equal to it has got everything.
        quick: the streams that have got everything up to the last chunk and can take more.
        busy: the others: they read the past, or are slow.
    """

    def __init__(self, wanted: Filter) -> None:
        self.wanted = wanted
        self.end = 0
        self.quick: set[Follower] = set()
        self.busy: set[Follower] = set()
        self.last_sent = time.monotonic()
        self._ring: deque[Shown] = deque()
        self._bytes = 0
        self._sent = 0

    def add(self, shown: Shown) -> None:
        """Put one item at the end; the oldest go when there are too many or they are too large."""
        self._ring.append(shown)
        self._bytes += len(shown.sse)
        self.end += 1
        while len(self._ring) > RING_ITEMS or (self._bytes > RING_BYTES and len(self._ring) > 1):
            self._bytes -= len(self._ring.popleft().sse)

    def after(self, cursor: int) -> list[Shown] | None:
        """Return the items from ``cursor`` on; None when the ring no longer holds them all."""
        count = self.end - cursor
        if count > len(self._ring):
            return None
        return [self._ring[n] for n in range(len(self._ring) - count, len(self._ring))]

    async def flush(self) -> None:
        """Hand what is new to every stream that can take it."""
        start, end = self._sent, self.end
        if start == end:
            return
        self._sent = end
        self.last_sent = time.monotonic()
        fresh = self.after(start)
        if fresh is None:  # one batch larger than the ring: each stream finds out for itself
            for follower in tuple(self.quick):
                follower.go_on_alone()
            return
        chunks: dict[type[Follower], Sequence[Message]] = {}
        for n, follower in enumerate(tuple(self.quick), 1):
            if follower.cursor == start and follower in self.quick:  # it may have left meanwhile
                kind = type(follower)
                if kind not in chunks:
                    chunks[kind] = follower.chunks(fresh)
                follower.push(chunks[kind], end)
            if n % _TURN == 0:
                await asyncio.sleep(0)
        DELIVERIES.inc(len(self.quick))
        for follower in tuple(self.busy):
            if self.end - follower.cursor > len(self._ring):
                follower.lost()
