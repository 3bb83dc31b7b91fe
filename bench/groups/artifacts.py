"""Artifacts: sealing and opening, beside OpenSSL's own AES-256-GCM on the same machine."""

from __future__ import annotations

from bench.harness import Bench, median
from bench.loading import run_load
from bench.product.sealing import SealingOrder
from bench.rows import Goal, Group, Measured, Results, times

_MEGABYTE = 1e6
_FILE = 4 * 2**20  # fits into the caches, as the floor's block does: this compares the work, not the memory


async def _measure(bench: Bench) -> Results:
    order = SealingOrder(size=_FILE, rounds=1 if bench.quick else 5)
    found = await run_load("bench.product.sealing", order)
    floor = median(found["openssl"]) / _MEGABYTE
    note = "a file of 4 MiB in memory, by processor time as the floor; its blocks have 64 KiB"
    return {
        "artifact, encrypt": Measured(median(found["encrypt"]) / _MEGABYTE, floor, note),
        "artifact, decrypt": Measured(median(found["decrypt"]) / _MEGABYTE, floor, note),
    }


GROUP = Group(
    "artifacts",
    (
        Goal("artifact, encrypt", "MB/s", times(0.4), "0.4x openssl speed, AES-256-GCM", higher=True),
        Goal("artifact, decrypt", "MB/s", times(0.8), "0.8x openssl speed, AES-256-GCM", higher=True),
    ),
    _measure,
)
