"""All live streams of this process: their channels, how many there are, and whether they may still be open."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from uuid import UUID

from retinue.kernel import Clock, Fault, Settings, Unavailable
from retinue.ledger import Feed
from retinue.live import Live
from retinue.web.catalogue import Catalogue
from retinue.web.channel import Channel
from retinue.web.connection import Connection
from retinue.web.gate import Credential, Entry, Gate
from retinue.web.metrics import CUT, STREAMS
from retinue.web.routing import Cell

log = logging.getLogger(__name__)

QUIET_SECONDS = 15.0
RECHECK_SECONDS = 2.5
STALLED_SECONDS = 60.0
UNCHECKED_SECONDS = 60.0


@dataclass(slots=True)
class Holder:
    """Somebody who holds streams under one cell of the permission table: rights are checked once for all of them.

    ``others``: whether they show what has no owner, too, so that audiences matter. A stream of one thing does not.
    """

    credential: Credential
    tenant_id: UUID
    entry: Entry
    cell: Cell
    others: bool
    connections: set[Connection] = field(default_factory=set)


@dataclass(slots=True)
class Seats:
    """A tenant's channel, opened by whoever came first, and how many use it or wait for it."""

    tenant_id: UUID
    opening: asyncio.Task[Channel]
    taken: int = 0

    async def channel(self) -> Channel:
        """Return the channel, once it is open.

        Raises:
            Unavailable: the database does not answer.
        """
        # Shielded: one client's going away must not stop the opening that others wait for.
        return await asyncio.shield(self.opening)

    def opened(self) -> Channel | None:
        """Return the channel if it is open by now."""
        if not self.opening.done() or self.opening.cancelled() or self.opening.exception() is not None:
            return None
        return self.opening.result()

    async def close(self) -> None:
        """Close the channel, or stop opening it."""
        self.opening.cancel()
        channel = self.opened()
        if channel is not None:
            await channel.close()


class Streams:
    """Opens, watches and ends live streams; a service."""

    def __init__(
        self, settings: Settings, catalogue: Catalogue, feed: Feed, live: Live, gate: Gate, clock: Clock
    ) -> None:
        self.catalogue = catalogue
        self._limit = settings.stream_limit
        self._feed = feed
        self._live = live
        self._gate = gate
        self._clock = clock
        self._seats: dict[UUID, Seats] = {}
        self._holders: dict[tuple[str, UUID, Cell, bool], Holder] = {}
        self._backlogs = asyncio.Semaphore(4)
        self._visible: dict[frozenset[str], frozenset[str]] = {}
        self._count = 0
        self._checked_at = time.monotonic()
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False

    async def close(self) -> None:
        """End every stream in good order; clients reconnect, elsewhere or later. No new one is opened."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        for holder in list(self._holders.values()):
            self._end_all(holder, "restart")

    def count(self) -> int:
        """Return how many streams are open."""
        return self._count

    def visible(self, role: str, scopes: frozenset[str] | None) -> frozenset[str]:
        """Return the resources whose ownerless events a caller may see; one object for all with equal rights."""
        found = frozenset(
            resource
            for resource in self.catalogue.resources()
            if self._gate.permits(role, scopes, resource, "read") == "allow"
        )
        return self._visible.setdefault(found, found)

    def take_seat(self, tenant_id: UUID) -> Seats:
        """Take one of the places for streams; give it back with :meth:`leave_seat`.

        Raises:
            Unavailable: the server is stopping, or it has as many streams as it may.
        """
        if self._closing:
            raise Unavailable("The server is stopping. Connect again.", retry_after=1)
        if self._count >= self._limit:
            raise Unavailable(f"This server has {self._limit} live streams and takes no more.", retry_after=10)
        seats = self._seats.get(tenant_id)
        if seats is None:
            seats = self._seats[tenant_id] = Seats(tenant_id, asyncio.create_task(self._open(tenant_id)))
        self._count += 1
        seats.taken += 1
        return seats

    async def leave_seat(self, seats: Seats) -> None:
        """Give a place back; the last one of a tenant takes its channel along."""
        self._count -= 1
        seats.taken -= 1
        if seats.taken == 0:
            if self._seats.get(seats.tenant_id) is seats:
                del self._seats[seats.tenant_id]
            await seats.close()

    async def _open(self, tenant_id: UUID) -> Channel:
        if not self._tasks:
            self._checked_at = time.monotonic()
            self._tasks = [
                asyncio.create_task(self._regularly(1.0, self._look_around), name="streams-watch"),
                asyncio.create_task(self._regularly(RECHECK_SECONDS, self._recheck), name="streams-recheck"),
            ]
        channel = Channel(tenant_id, self.catalogue, self._feed, self._backlogs)
        try:
            await channel.open(self._live)
        except BaseException:
            await channel.close()
            raise
        return channel

    def watch(
        self,
        connection: Connection,
        credential: Credential,
        tenant_id: UUID,
        entry: Entry,
        cell: Cell,
        *,
        others: bool,
    ) -> Holder:
        """Watch over a stream from now on, until :meth:`unwatch`."""
        key = (credential.subject, tenant_id, cell, others)
        holder = self._holders.get(key)
        if holder is None:
            holder = self._holders[key] = Holder(credential, tenant_id, entry, cell, others)
        holder.connections.add(connection)
        STREAMS.labels(connection.kind).inc()
        return holder

    def unwatch(self, connection: Connection, holder: Holder) -> None:
        """Let go of a stream that has ended."""
        STREAMS.labels(connection.kind).dec()
        holder.connections.discard(connection)
        key = (holder.credential.subject, holder.tenant_id, holder.cell, holder.others)
        if not holder.connections and self._holders.get(key) is holder:
            del self._holders[key]
        if connection.ended:
            CUT.labels(connection.ended).inc()

    # Watching

    async def _regularly(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await work()
            except Exception:
                log.exception("watching the live streams failed; it goes on")

    async def _look_around(self) -> None:
        """Show quiet streams alive; end those that expired or do not move."""
        now, monotonic = self._clock.now(), time.monotonic()
        for seats in list(self._seats.values()):
            channel = seats.opened()
            if channel is None:
                continue
            channel.forget_old()
            for track in channel.tracks():
                if monotonic - track.last_sent >= QUIET_SECONDS:
                    track.last_sent = monotonic
                    for follower in tuple(track.quick):
                        follower.keep_alive()
        for holder in list(self._holders.values()):
            for connection in list(holder.connections):
                if connection.expires_at is not None and connection.expires_at <= now:
                    connection.end("expired")
                elif connection.busy_since and monotonic - connection.busy_since > STALLED_SECONDS:
                    connection.end("slow")

    async def _recheck(self) -> None:
        """Ask the gate about everybody who holds a stream; end those of who lost the right, or whose rights changed.

        While the database is away nobody can be checked; after a minute of that all streams end.
        """
        holders = list(self._holders.values())
        if not holders:
            self._checked_at = time.monotonic()
            return
        try:
            entries = await self._gate.standing([(holder.credential, holder.tenant_id) for holder in holders])
        except Fault:
            if time.monotonic() - self._checked_at > UNCHECKED_SECONDS:
                for holder in holders:
                    self._end_all(holder, "rights cannot be checked")
            return
        self._checked_at = time.monotonic()
        for holder, entry in zip(holders, entries, strict=True):
            if entry is None or not self._permits(entry, holder.cell):
                self._end_all(holder, "not allowed any more")
            elif _rights(entry, holder) != _rights(holder.entry, holder):
                self._end_all(holder, "rights changed")

    def _permits(self, entry: Entry, cell: Cell) -> bool:
        return self._gate.permits(entry.role, entry.scopes, cell.resource, cell.action) == "allow"

    def _end_all(self, holder: Holder, reason: str) -> None:
        for connection in list(holder.connections):
            connection.end(reason)


def _rights(entry: Entry, holder: Holder) -> tuple[object, ...]:
    return entry.role, entry.scopes, entry.audiences if holder.others else None
