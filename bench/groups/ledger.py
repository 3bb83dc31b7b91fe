"""Appends a second, beside pgbench's single inserts and the `eventsourcing` library."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from uuid import UUID, uuid4

from bench.floors import inserts
from bench.harness import Bench, median
from bench.loading import ROOT, Load
from bench.postgres import Postgres, with_libpq
from bench.product.appends import AppendOrder
from bench.product.ledger import cluster
from bench.rows import Goal, Group, Measured, Results, times

_WRITERS = 32
_PROCESSES = 2


async def _append_rate(dsn: str, tenants: list[UUID], seconds: float) -> float:
    """Return appends a second of all writers, spread over two processes as pgbench spreads over two threads."""
    loads = []
    try:
        for process in range(_PROCESSES):
            order = AppendOrder(dsn=dsn, tenants=tenants[process::_PROCESSES], seconds=seconds)
            loads.append(await Load.start("bench.product.appends", order))
        for load in loads:
            await load.ready()
        results = await asyncio.gather(*(load.go() for load in loads))
    finally:
        for load in loads:
            await load.stop()
    return sum(float(result["appends"]) / float(result["seconds"]) for result in results)


def event_library(postgres: Postgres, seconds: int) -> dict[str, float | str]:
    """Run the peer on the floor's PostgreSQL. Raises CalledProcessError."""
    command = [sys.executable, "-m", "bench.floors.event_library"]
    command += ["--socket", postgres.socket_folder, "--seconds", str(seconds)]
    done = subprocess.run(command, cwd=ROOT, env=with_libpq(), check=True, capture_output=True, timeout=300)
    found: dict[str, float | str] = json.loads(done.stdout)
    return found


async def _rates(bench: Bench, folder: Path, seconds: int) -> tuple[list[float], list[float], list[float]]:
    """Measure pgbench, 32 tenants and one tenant in turns."""
    floor: list[float] = []
    many: list[float] = []
    single: list[float] = []
    with Postgres(folder / "floor") as postgres:
        script = await inserts.prepare(postgres, folder)
        async with cluster(folder / "product") as product:
            for _ in range(bench.rounds):
                found = await asyncio.to_thread(inserts.pgbench, postgres, script, _WRITERS, seconds)
                floor.append(found.rate)
                tenants = [uuid4() for _ in range(_WRITERS)]
                many.append(await _append_rate(product.dsn(), tenants, seconds))
                single.append(await _append_rate(product.dsn(), [uuid4()] * _WRITERS, seconds))
    return floor, many, single


async def _measure(bench: Bench) -> Results:
    folder, seconds = bench.scratch("ledger"), 2 if bench.quick else 4
    floor, many, single = await _rates(bench, folder, seconds)
    with Postgres(folder / "peer") as postgres:
        peer = await asyncio.to_thread(event_library, postgres, seconds)
    note = f"pgbench, {_WRITERS} clients; product in {_PROCESSES} processes"
    library = f"eventsourcing app.save, 8 threads, psycopg in {peer['libpq']}"
    return {
        "appends a second, 32 writers, 32 tenants": Measured(median(many), median(floor), note),
        "appends a second, 32 writers, one tenant": Measured(median(single), median(floor), note),
        "appends a second, beside eventsourcing": Measured(median(many), float(peer["appends"]), library),
    }


GROUP = Group(
    "appends",
    (
        Goal("appends a second, 32 writers, 32 tenants", "1/s", times(0.5), "0.5x the floor", higher=True),
        Goal("appends a second, 32 writers, one tenant", "1/s", times(0.1), "0.1x the floor", higher=True),
        Goal("appends a second, beside eventsourcing", "1/s", times(5), "5x the library", higher=True),
    ),
    _measure,
)
