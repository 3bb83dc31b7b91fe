"""Append and follow: `python -m bench.product.feed`. One process appends and follows, another may follow only."""

from __future__ import annotations

import asyncio
import time
from typing import Any, ClassVar
from uuid import UUID

import msgspec

from bench.load.program import Program
from bench.product.ledger import Ledger, Noted, Writer

_WRITERS = 8
_LEAD_SECONDS = 0.2
_LATE_SECONDS = 20.0


class FeedOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Follow a tenant to which `rate` events a second are appended for `seconds`, by this process or by another."""

    dsn: str
    tenant: UUID
    seconds: float
    rate: int
    append: bool


class Follow(Program[FeedOrder]):
    """The result has the latency of every append, and of every event from before its append to being seen, in ms."""

    order_type: ClassVar[type[msgspec.Struct]] = FeedOrder

    async def prepare(self) -> None:
        self._ledger = Ledger(self.order.dsn, connections=_WRITERS + 4)
        await self._ledger.open()
        if self.order.append:
            await Writer(self._ledger, self.order.tenant).write()
        self._subscription = await self._ledger.feed.subscribe(self.order.tenant)

    async def work(self) -> dict[str, Any]:
        reader = asyncio.create_task(self._read())
        took = []
        if self.order.append:
            # Followers in other processes begin when they are told to, a moment after this one.
            await asyncio.sleep(_LEAD_SECONDS)
            took = await self._append()
        seen = await reader
        await self._ledger.close()
        return {"appends": took, "seen": seen}

    async def _read(self) -> list[float]:
        """Return the latencies of as many events as are appended, or of those that came in a generous time."""
        seen: list[float] = []
        end = time.monotonic() + self.order.seconds + _LATE_SECONDS
        while len(seen) < self._turns() * _WRITERS and time.monotonic() < end:
            batch = await self._subscription.next(1.0)
            now = time.time_ns()
            for encoded in batch:
                fact = encoded.decoded(self.order.tenant).event
                if isinstance(fact, Noted):
                    seen.append((now - fact.at) / 1e6)
        return seen

    def _turns(self) -> int:
        """Return how many events each writer appends."""
        return int(self.order.seconds * self.order.rate) // _WRITERS

    async def _append(self) -> list[float]:
        """Spread the appends evenly over several writers; a late one does not wait for its next time."""
        loop = asyncio.get_running_loop()
        start = loop.time()

        async def writer(number: int) -> list[float]:
            mine, took = Writer(self._ledger, self.order.tenant), []
            for turn in range(self._turns()):
                due = start + (turn * _WRITERS + number) / self.order.rate
                await asyncio.sleep(max(0.0, due - loop.time()))
                took.append(await mine.write())
            return took

        results = await asyncio.gather(*(writer(number) for number in range(_WRITERS)))
        return [took for result in results for took in result]


if __name__ == "__main__":
    Follow.main()
