"""The harness: starts servers once, hands them to the groups, and collects what they measured."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from bench.loading import Load
from bench.people import People
from bench.servers import Server, StartFailed, floor_server, product_server
from bench.watching import cpu_seconds, memory_bytes
from tests.support.model_server import ModelServerProcess

MEBIBYTE = 2**20
_SETTLE_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class Watched:
    """The result of a load program, and the processor seconds that the server's processes used meanwhile."""

    result: dict[str, Any]
    cpu: float


class Bench:
    """What a group needs. Servers are started when they are first asked for and stay until the end of the run."""

    def __init__(self, folder: Path, stub: ModelServerProcess, *, quick: bool) -> None:
        self.folder = folder
        self.stub = stub
        self.quick = quick
        self.rounds = 1 if quick else 3
        self._closing = contextlib.AsyncExitStack()
        self._floor: Server | None = None
        self._product: Server | None = None
        self._no_product: StartFailed | None = None
        self._people: People | None = None
        self.numbers = 0

    async def close(self) -> None:
        """Stop everything that was started."""
        await self._closing.aclose()

    def scratch(self, name: str) -> Path:
        """Return a new folder of this run."""
        self.numbers += 1
        folder = self.folder / f"{name}-{self.numbers}"
        folder.mkdir()
        return folder

    async def floor(self) -> Server:
        """Return the floor of a turn, running."""
        if self._floor is None:
            server = floor_server(self.folder, self.stub.environment())
            await self._start(server)
            self._floor = server
        return self._floor

    async def product(self) -> Server:
        """Return the product, running. Raises StartFailed, to every group that asks."""
        if self._no_product is not None:
            raise self._no_product
        if self._product is None:
            server = product_server(self.folder, self.stub.environment())
            try:
                await self._start(server)
            except StartFailed as failure:
                self._no_product = failure
                raise
            self._product = server
        return self._product

    async def _start(self, server: Server) -> None:
        self._closing.push_async_callback(server.stop)
        await server.start()

    async def people(self) -> People:
        """Return the users of the product."""
        if self._people is None:
            self._people = People((await self.product()).port)
            self._closing.push_async_callback(self._people.close)
        return self._people


def memory(server: Server) -> int:
    """Return the resident memory of a server in bytes, its database left out."""
    database = server.database_pid()
    return memory_bytes(server.pid, without=() if database is None else (database,))


async def idle(server: Server, seconds: float) -> tuple[float, float]:
    """Let a server settle; return its share of a core in percent, database included, and its memory in MiB."""
    await asyncio.sleep(_SETTLE_SECONDS)
    before = cpu_seconds(server.pids())
    await asyncio.sleep(seconds)
    share = (cpu_seconds(server.pids()) - before) / seconds * 100
    return share, memory(server) / MEBIBYTE


async def watched(server: Server, module: str, order: msgspec.Struct, *, timeout: float = 300.0) -> Watched:
    """Run a load program; set-up is left out of the processor time. Raises LoadFailed."""
    load = await Load.start(module, order, timeout=timeout)
    try:
        await load.ready()
        pids = server.pids()
        before = cpu_seconds(pids)
        result = await load.go()
        return Watched(result, cpu_seconds(pids) - before)
    finally:
        await load.stop()


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value below which that share lies (nearest rank). Raises ValueError when there is none."""
    if not values:
        raise ValueError("nothing was measured")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def median(values: Sequence[float]) -> float:
    """Return the median. Raises ValueError when there is no value."""
    if not values:
        raise ValueError("nothing was measured")
    return statistics.median(values)
