"""Replay of a tenant's events, decoded: `python -m bench.product.replay`."""

from __future__ import annotations

import time
from typing import Any, ClassVar
from uuid import UUID, uuid4

import msgspec

from bench.load.program import Program
from bench.product.ledger import Ledger, Noted
from retinue.ledger import Event

_BATCH = 1000


class ReplayOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Write `events` events, then read them all `rounds` times."""

    dsn: str
    events: int
    rounds: int


class Replay(Program[ReplayOrder]):
    """The result has events a second, one number for each round."""

    order_type: ClassVar[type[msgspec.Struct]] = ReplayOrder

    async def prepare(self) -> None:
        self._ledger = Ledger(self.order.dsn, connections=4)
        await self._ledger.open()
        self._tenant = uuid4()
        for start in range(0, self.order.events, _BATCH):
            events: list[Event] = [Noted(at=number) for number in range(start, start + _BATCH)]
            await self._ledger.append(self._tenant, "bench:replay", start, events)

    async def work(self) -> dict[str, Any]:
        rates = [await self._replay(self._tenant) for _ in range(self.order.rounds)]
        await self._ledger.close()
        return {"rates": rates}

    async def _replay(self, tenant: UUID) -> float:
        position, count, started = 0, 0, time.perf_counter()
        while batch := await self._ledger.feed.read(tenant, position, _BATCH):
            count += len([encoded.decoded(tenant) for encoded in batch])
            position = batch[-1].position
        if count < self.order.events:
            raise RuntimeError(f"replayed {count} of {self.order.events} events")
        return count / (time.perf_counter() - started)


if __name__ == "__main__":
    Replay.main()
