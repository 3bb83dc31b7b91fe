"""From an append to seeing it on the feed, at a thousand events a second, in the same process and in another."""

from __future__ import annotations

import asyncio
from uuid import uuid4

from bench.harness import Bench, median, percentile
from bench.loading import Load
from bench.product.feed import FeedOrder
from bench.product.ledger import cluster
from bench.rows import Goal, Group, Measured, Results, plus

_RATE = 1000


async def _measure(bench: Bench) -> Results:
    seconds, tenant = 2.0 if bench.quick else 6.0, uuid4()
    async with cluster(bench.scratch("feed") / "product") as product:
        writing = FeedOrder(dsn=product.dsn(), tenant=tenant, seconds=seconds, rate=_RATE, append=True)
        following = FeedOrder(dsn=product.dsn(), tenant=tenant, seconds=seconds, rate=_RATE, append=False)
        writer = await Load.start("bench.product.feed", writing)
        await writer.ready()
        follower = await Load.start("bench.product.feed", following)
        try:
            await follower.ready()
            here, there = await asyncio.gather(writer.go(), follower.go())
        finally:
            await writer.stop()
            await follower.stop()
    took, expected = here["appends"], len(here["appends"])
    missing = [expected - len(seen) for seen in (here["seen"], there["seen"])]
    note = f"{expected} appends of one tenant by 8 writers"
    if any(missing):
        raise RuntimeError(f"events were not seen: {missing[0]} in process, {missing[1]} across of {expected}")
    return {
        "append to seen, in process, p50": Measured(median(here["seen"]), median(took), note),
        "append to seen, across processes, p50": Measured(median(there["seen"]), median(took), note),
        "append to seen, across processes, p99": Measured(percentile(there["seen"], 99), percentile(took, 99), note),
    }


GROUP = Group(
    "feed",
    (
        Goal("append to seen, in process, p50", "ms", plus(1), "the append's own latency + 1 ms"),
        Goal("append to seen, across processes, p50", "ms", plus(3), "the append's own latency + 3 ms"),
        Goal("append to seen, across processes, p99", "ms", plus(20), "the append's own p99 + 20 ms"),
    ),
    _measure,
)
