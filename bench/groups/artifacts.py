"""Artifacts: sealing and opening, beside OpenSSL's own AES-256-GCM on the same machine; a large one up and down."""

from __future__ import annotations

from typing import Any

from bench.harness import MEBIBYTE, Bench, median, memory, percentile
from bench.load.artifacts import ArtifactOrder
from bench.loading import run_load
from bench.people import People
from bench.product.sealing import SealingOrder
from bench.rows import Goal, Group, Measured, Results, fixed, plus, times
from bench.servers import Server, product_server
from bench.watching import peak_memory

_MEGABYTE = 1e6
_LARGEST = 2**31
_WHOLE = "1 GiB artifact up and down, memory grown"
_PIECES = "1 GiB artifact up in pieces (tus) and down, memory grown"
_RANGE = "4 KiB in the middle of a 1 GiB artifact, p50"
_FILE = 4 * 2**20  # fits into the caches, as the floor's block does: this compares the work, not the memory


async def _measure(bench: Bench) -> Results:
    order = SealingOrder(size=_FILE, rounds=1 if bench.quick else 5)
    found = await run_load("bench.product.sealing", order)
    floor = median(found["openssl"]) / _MEGABYTE
    note = "a file of 4 MiB in memory, by processor time as the floor; its blocks have 64 KiB"
    return {
        "artifact, encrypt": Measured(median(found["encrypt"]) / _MEGABYTE, floor, note),
        "artifact, decrypt": Measured(median(found["decrypt"]) / _MEGABYTE, floor, note),
        **await _large(bench),
    }


async def _large(bench: Bench) -> Results:
    """Send a gigabyte up and down a server of its own, whole and in pieces, and read ranges in its middle."""
    folder = bench.scratch("artifacts")
    server = product_server(folder, {"RETINUE_ARTIFACT_BYTES": str(_LARGEST)})
    await server.start()
    people = People(server.port)
    try:
        token = (await people.get(1))[0].token
        tenant = (await people.call("GET", "/v1/tenants", token=token))["items"][0]["tenant_id"]
        policy = {"most": {"artifact_bytes": _LARGEST}}
        await people.call("PUT", f"/v1/tenants/{tenant}/operations/policy", token=token, json=policy)
        blobs = str(folder / "product" / "blobs")
        # What the first file brings into memory stays there; it is no part of the growth.
        await run_load("bench.load.artifacts", _order(server, token, blobs, 20, pieces=False, ranges=20))
        await run_load("bench.load.artifacts", _order(server, token, blobs, 20, pieces=True, ranges=0))
        ranges = 100 if bench.quick else 400
        whole = _order(server, token, blobs, 1024, pieces=False, ranges=ranges)
        found, grown = await _grown(server, whole)
        results = {
            _WHOLE: Measured(grown, None, _speeds(found)),
            _RANGE: Measured(
                median(found["through"]),
                median(found["store"]),
                f"{ranges} ranges; p95 {percentile(found['through'], 95):.2f} ms; each is recorded as an event",
            ),
        }
        if not bench.quick:
            found, grown = await _grown(server, _order(server, token, blobs, 1024, pieces=True, ranges=0))
            results[_PIECES] = Measured(grown, None, _speeds(found))
        return results
    finally:
        await people.close()
        await server.stop()


def _order(server: Server, token: str, blobs: str, mebibytes: int, *, pieces: bool, ranges: int) -> ArtifactOrder:
    return ArtifactOrder(port=server.port, token=token, mebibytes=mebibytes, pieces=pieces, ranges=ranges, blobs=blobs)


async def _grown(server: Server, order: ArtifactOrder) -> tuple[dict[str, Any], float]:
    """Run an order; return its result and by how many MiB the server's memory grew at most."""
    database = server.database_pid()
    before = memory(server)
    async with peak_memory(server.pid, without=() if database is None else (database,)) as peak:
        found = await run_load("bench.load.artifacts", order)
    return found, (peak.bytes - before) / MEBIBYTE


def _speeds(found: dict[str, Any]) -> str:
    return f"up in {found['up']:.1f} s, down in {found['down']:.1f} s"


GROUP = Group(
    "artifacts",
    (
        Goal("artifact, encrypt", "MB/s", times(0.4), "0.4x openssl speed, AES-256-GCM", higher=True),
        Goal("artifact, decrypt", "MB/s", times(0.8), "0.8x openssl speed, AES-256-GCM", higher=True),
        Goal(_WHOLE, "MiB", fixed(64), "64 MiB", needs_floor=False),
        Goal(_PIECES, "MiB", fixed(64), "64 MiB", needs_floor=False),
        Goal(_RANGE, "ms", plus(5), "the store's own time + 5 ms"),
    ),
    _measure,
)
