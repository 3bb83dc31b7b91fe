"""Writers that append single events as fast as they can: `python -m bench.product.appends`."""

from __future__ import annotations

import asyncio
import time
from typing import Any, ClassVar
from uuid import UUID

import msgspec

from bench.load.program import Program
from bench.product.ledger import Ledger, Writer


class AppendOrder(msgspec.Struct, frozen=True, kw_only=True):
    """One writer for each tenant named (the same tenant may be named more than once), for `seconds`."""

    dsn: str
    tenants: list[UUID]
    seconds: float


class Appends(Program[AppendOrder]):
    """The result has the number of appends."""

    order_type: ClassVar[type[msgspec.Struct]] = AppendOrder

    async def prepare(self) -> None:
        self._ledger = Ledger(self.order.dsn, connections=len(self.order.tenants) + 2)
        await self._ledger.open()
        self._writers = [Writer(self._ledger, tenant) for tenant in self.order.tenants]
        await asyncio.gather(*(writer.write() for writer in self._writers))

    async def work(self) -> dict[str, Any]:
        end = time.monotonic() + self.order.seconds
        counts = await asyncio.gather(*(self._write_until(writer, end) for writer in self._writers))
        await self._ledger.close()
        return {"appends": sum(counts)}

    @staticmethod
    async def _write_until(writer: Writer, end: float) -> int:
        count = 0
        while time.monotonic() < end:
            await writer.write()
            count += 1
        return count


if __name__ == "__main__":
    Appends.main()
