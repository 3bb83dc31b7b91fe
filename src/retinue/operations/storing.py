"""What a program left: found without trusting it, held against schemas, and stored under seal, not yet published."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from retinue import artifacts, metering
from retinue.artifacts import Incoming, Infected, Received
from retinue.database import open_scope
from retinue.kernel import BadInput, PayloadTooLarge, Services, least
from retinue.operations import rules
from retinue.operations.beginning import Begun
from retinue.operations.events import Expected, Output, Skipped
from retinue.operations.filled_hooks import recipients
from retinue.operations.judging import Judged
from retinue.operations.policy import Limits
from retinue.sandbox import Collection, Found, Taking, Workspace, collect

_CHUNK = 1024 * 1024
_MOST_SKIPPED = 200
_NEARLY_FULL = 50  # a fiftieth is left


@dataclass(slots=True)
class Gathered:
    """What was found. Close it before the workspace is wiped. ``full``: its disk has no room left."""

    collection: Collection
    skipped: tuple[Skipped, ...]
    full: bool = False

    @property
    def files(self) -> Sequence[Found]:
        """The files that may be taken."""
        return self.collection.found

    def close(self) -> None:
        """Let go of the workspace."""
        self.collection.close()


@dataclass(frozen=True, slots=True)
class Stored:
    """What was stored, and what the store would not take."""

    outputs: tuple[Output, ...] = ()
    skipped: tuple[Skipped, ...] = ()


async def gather(begun: Begun, workspace: Workspace, limits: Limits) -> Gathered:
    """Find what the program left that is new or changed; every process of it must be dead."""
    unchanged = {one.name: artifact.sha256 for one, artifact in begun.inputs}
    unchanged |= {name: hashlib.sha256(content).hexdigest() for name, content in begun.files.items()}
    taking = Taking(files=limits.artifacts, file_bytes=limits.artifact_bytes, total_bytes=limits.disk)
    found = await asyncio.to_thread(collect, workspace.work, unchanged=unchanged, taking=taking)
    skipped = tuple(Skipped(name=one.name, why=one.reason) for one in found.skipped[:_MOST_SKIPPED])
    return Gathered(found, skipped, await asyncio.to_thread(_is_full, workspace, limits.disk))


def _is_full(workspace: Workspace, disk: int) -> bool:
    """Whether a volume of the job's own, if it has one, is full."""
    state = os.statvfs(workspace.volume)
    total, free = state.f_blocks * state.f_frsize, state.f_bavail * state.f_frsize
    return total <= 2 * disk and free * _NEARLY_FULL < total


async def complaints(gathered: Gathered, expected: Sequence[Expected]) -> list[str]:
    """Return what is wrong with files that must fit a schema."""
    schemas = rules.Schemas(expected)
    found: list[str] = []
    for one in gathered.files:
        if not schemas.concern(one.name):
            continue
        if not rules.readable(one.size):
            found.append(f"{one.name}: it is too large to be held against a schema.")
            continue
        content = await asyncio.to_thread(_whole, gathered.collection, one)
        complaint = await asyncio.to_thread(schemas.complaint, one.name, content)
        if complaint:
            found.append(complaint)
    return found


async def store(
    services: Services, begun: Begun, gathered: Gathered, judged: Judged, received: list[Received]
) -> Stored:
    """Store what was found, each file under seal; ``received`` grows with each, and nothing of it is visible yet.

    Raises:
        StorageFull: the user's quota, or the disk, is full.
        Unavailable: the store does not answer.
    """
    if not gathered.files:
        return Stored()
    retention = await _retention(services, begun, judged)
    outputs: list[Output] = []
    skipped: list[Skipped] = []
    for one in gathered.files:
        wanted = _incoming(begun, one, retention)
        try:
            made = await artifacts.receive(services, begun.tenant_id, wanted, _pieces(gathered.collection, one))
        except (BadInput, PayloadTooLarge, Infected) as fault:
            skipped.append(Skipped(name=one.name, why=fault.detail))
            continue
        received.append(made)
        outputs.append(
            Output(
                artifact_id=made.artifact_id,
                name=made.name,
                size=made.size,
                sha256=made.sha256,
                media_type=made.media_type,
            )
        )
    return Stored(tuple(outputs), tuple(skipped))


def _incoming(begun: Begun, found: Found, retention: int) -> Incoming:
    requested, terms = begun.state.requested, begun.terms
    return Incoming(
        owner_id=requested.owner_id,
        name=found.name,
        kind="output",
        grant_id=requested.grant_id,
        operation_id=begun.operation_id,
        size_hint=found.size,
        max_bytes=requested.limits.artifact_bytes,
        retention_seconds=retention,
        expires_at=None if terms is None else terms.expires_at,
        recipients={} if terms is None else recipients(terms),
    )


async def _retention(services: Services, begun: Begun, judged: Judged) -> int:
    """Return for how many seconds the outputs are kept: the least of what anybody says."""
    async with open_scope(services, begun.tenant_id) as scope:
        tier = await metering.tier_of(scope)
    holds = begun.holds
    failed = None if judged.ok else holds.failed_retention_seconds
    wanted = begun.state.requested.retention_seconds
    return max(1, least(holds.retention_seconds, wanted, failed, tier.retention_seconds))


async def _pieces(collection: Collection, found: Found) -> AsyncIterator[bytes]:
    file = await asyncio.to_thread(collection.open, found)
    try:
        while piece := await asyncio.to_thread(os.read, file, _CHUNK):
            yield piece
    finally:
        os.close(file)


def _whole(collection: Collection, found: Found) -> bytes:
    file = collection.open(found)
    with open(file, "rb") as opened:
        return opened.read()
