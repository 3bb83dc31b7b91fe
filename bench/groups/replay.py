"""Replay: all events of a tenant, decoded."""

from __future__ import annotations

import asyncio

from bench.floors import copy_replay
from bench.groups.ledger import event_library
from bench.harness import Bench, median
from bench.loading import run_load
from bench.postgres import Postgres
from bench.product.ledger import cluster
from bench.product.replay import ReplayOrder
from bench.rows import Goal, Group, Measured, Results, times


async def _measure(bench: Bench) -> Results:
    folder, events = bench.scratch("replay"), 20_000 if bench.quick else 100_000
    rounds = bench.rounds + 1
    with Postgres(folder / "floor") as postgres:
        await copy_replay.prepare(postgres.dsn, events)
        floor = [await copy_replay.replay(postgres.dsn) for _ in range(rounds)]
        async with cluster(folder / "product") as product:
            order = ReplayOrder(dsn=product.dsn(), events=events, rounds=rounds)
            found = await run_load("bench.product.replay", order)
        floor += [await copy_replay.replay(postgres.dsn) for _ in range(rounds)]
        peer = await asyncio.to_thread(event_library, postgres, 2 if bench.quick else 4)
    rate, note = median(found["rates"]), f"{events} events of one tenant"
    return {
        "replay, decoded": Measured(rate, median(floor), note),
        "replay, beside eventsourcing": Measured(rate, float(peer["replay"]), note),
    }


GROUP = Group(
    "replay",
    (
        Goal("replay, decoded", "1/s", times(0.85), "0.85x COPY text and orjson", higher=True),
        Goal("replay, beside eventsourcing", "1/s", times(3), "3x the library", higher=True),
    ),
    _measure,
)
