"""The feed: every event of a tenant, once, in order, without gaps, soon after its commit.

A process reads a tenant only while somebody here listens. What this process commits itself goes straight to its
listeners when it is the next position; everything else is read back from the table. Other processes are told by
NOTIFY on a connection of its own, one for all commits of a few milliseconds; a poll is the net underneath.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import msgspec

from retinue.kernel import Fault, Queries
from retinue.ledger.event import Event, Meta, Recorded, decode, meta_of

log = logging.getLogger(__name__)

CHANNEL = "retinue_feed"
RING = 2000  # recent events kept for each tenant that has listeners
PAGE = 500
POLL_SECONDS = 0.4
NOTIFY_SECONDS = 0.005
_MAX_PAYLOAD = 7000  # PostgreSQL takes up to 7999 bytes


class Encoded(msgspec.Struct, frozen=True, gc=False):
    """An event as it is stored: ``data`` is still JSON text."""

    position: int
    version: int
    schema: int
    recorded_at: datetime
    stream: str
    type: str
    data: str
    meta: Meta

    def decoded(self, tenant_id: UUID) -> Recorded[Event]:
        """Return the event itself."""
        fact = decode(self.type, self.schema, self.data)
        return Recorded(
            tenant_id, self.position, self.stream, self.version, self.type, fact, self.meta, self.recorded_at
        )


class Source(Protocol):
    """What the feed needs of the database."""

    def routing(self) -> contextlib.AbstractAsyncContextManager[Queries]: ...

    async def dedicated(self) -> Any: ...


class _Channel:
    """One tenant in this process: the newest events and who waits for more."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.ring: deque[Encoded] = deque(maxlen=RING)
        self.listeners: set[Subscription] = set()
        self.reading: asyncio.Task[None] | None = None
        self.behind = False

    def add(self, batch: Sequence[Encoded]) -> None:
        for one in batch:
            if one.position == self.last + 1:
                self.ring.append(one)
                self.last = one.position
        for listener in self.listeners:
            listener.wake()


class Subscription:
    """A cursor on one tenant's events: ``async for batch in subscription``; close it when done."""

    def __init__(self, feed: Feed, tenant_id: UUID, channel: _Channel, after: int) -> None:
        self.position = after
        self.tenant_id = tenant_id
        self._feed = feed
        self._channel = channel
        self._woken = asyncio.Event()
        self._woken.set()
        self._closed = False
        self.on_wake: Callable[[], None] | None = None

    def wake(self) -> None:
        """Say that there may be something new."""
        self._woken.set()
        if self.on_wake is not None:
            self.on_wake()

    def close(self) -> None:
        """Stop; a waiting reader ends."""
        self._closed = True
        self._feed._leave(self)
        self._woken.set()

    async def next(self, timeout: float | None = None) -> list[Encoded]:
        """Return the next events; an empty list after ``timeout`` seconds or when closed."""
        try:
            async with asyncio.timeout(timeout):
                while not self._closed:
                    found = await self.ready()
                    if found:
                        return found
                    self._woken.clear()
                    if self.position >= self._channel.last:
                        await self._woken.wait()
        except TimeoutError:
            pass
        return []

    async def ready(self) -> list[Encoded]:
        """Return what can be had without waiting for new events."""
        ring = self._channel.ring
        if self.position >= self._channel.last:
            return []
        if ring and ring[0].position <= self.position + 1:
            start = self.position + 1 - ring[0].position
            batch = [ring[n] for n in range(start, min(len(ring), start + PAGE))]
        else:
            batch = await self._feed.read(self.tenant_id, self.position, PAGE)
        if batch:
            self.position = batch[-1].position
        return batch

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> list[Encoded]:
        batch = await self.next()
        if not batch:
            raise StopAsyncIteration
        return batch


class Feed:
    """This process's readers of the ledger; a service of the house.

    Attributes:
        alone: True while no other process uses the database, so that nobody needs a NOTIFY.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._channels: dict[UUID, _Channel] = {}
        self._dirty: set[UUID] = set()
        self._dirty_event = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.alone = False
        self.lag_seconds = 0.0
        self._own_pid = 0

    async def open(self) -> None:
        """Start listening to other processes, telling them, and polling."""
        self._tasks = [
            asyncio.create_task(self._forever(self._listen), name="feed-listen"),
            asyncio.create_task(self._forever(self._tell), name="feed-tell"),
            asyncio.create_task(self._forever(self._poll), name="feed-poll"),
        ]

    async def close(self) -> None:
        """Stop; every subscription ends."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for channel in list(self._channels.values()):
            for listener in list(channel.listeners):
                listener.close()

    # Reading

    async def read(self, tenant_id: UUID, after: int, limit: int = PAGE) -> list[Encoded]:
        """Return up to ``limit`` events of the tenant after a position, straight from the table."""
        async with self._source.routing() as queries:
            rows = await queries.fetch("SELECT * FROM ledger_feed($1, $2, $3)", tenant_id, after, limit)
        return [Encoded(row[0], row[1], row[2], row[3], row[4], row[5], row[6], meta_of(*row[7:])) for row in rows]

    async def position(self, tenant_id: UUID) -> int:
        """Return the tenant's newest position; 0 when nothing happened yet."""
        async with self._source.routing() as queries:
            rows = await queries.fetch("SELECT * FROM ledger_heads($1)", [tenant_id])
        return rows[0][1] if rows else 0

    async def behind(self) -> int:
        """Return how many committed events this process has not taken yet, of all tenants somebody here follows."""
        if not self._channels:
            return 0
        async with self._source.routing() as queries:
            rows = await queries.fetch("SELECT * FROM ledger_heads($1)", list(self._channels))
        followed = [(self._channels.get(row[0]), row[1]) for row in rows]
        return sum(max(0, head - channel.last) for channel, head in followed if channel is not None)

    async def oldest(self, tenant_id: UUID) -> int:
        """Return the oldest position still kept; 0 when nothing happened yet."""
        first = await self.read(tenant_id, 0, 1)
        return first[0].position if first else 0

    async def subscribe(self, tenant_id: UUID, after: int | None = None) -> Subscription:
        """Follow a tenant from just after a position; from now on when it is None."""
        channel = self._channels.get(tenant_id)
        if channel is None:
            last = await self.position(tenant_id)
            channel = self._channels.setdefault(tenant_id, _Channel(last))
        subscription = Subscription(self, tenant_id, channel, channel.last if after is None else after)
        channel.listeners.add(subscription)
        # Something may have been committed between the look and the joining.
        self._catch_up(tenant_id, channel)
        return subscription

    def _leave(self, subscription: Subscription) -> None:
        channel = self._channels.get(subscription.tenant_id)
        if channel is None:
            return
        channel.listeners.discard(subscription)
        if not channel.listeners:
            del self._channels[subscription.tenant_id]
            if channel.reading is not None:
                channel.reading.cancel()

    # Learning of new events

    def committed(self, tenant_id: UUID, batch: Sequence[Encoded]) -> None:
        """Take what this process has just committed."""
        channel = self._channels.get(tenant_id)
        if channel is not None:
            if batch[0].position <= channel.last + 1:
                channel.add(batch)
            else:
                self._catch_up(tenant_id, channel)
        if not self.alone:
            self._dirty.add(tenant_id)
            self._dirty_event.set()

    def _catch_up(self, tenant_id: UUID, channel: _Channel) -> None:
        channel.behind = True
        if channel.reading is None or channel.reading.done():
            channel.reading = asyncio.create_task(self._read_new(tenant_id, channel))

    async def _read_new(self, tenant_id: UUID, channel: _Channel) -> None:
        while channel.behind and channel.listeners:
            channel.behind = False
            try:
                while batch := await self.read(tenant_id, channel.last):
                    channel.add(batch)
            except Fault:
                channel.behind = True
                await asyncio.sleep(POLL_SECONDS)

    async def _listen(self) -> None:
        connection = await self._source.dedicated()
        gone = asyncio.Event()
        connection.add_termination_listener(lambda _: gone.set())
        try:
            await connection.add_listener(CHANNEL, self._told)
            await gone.wait()
        finally:
            with contextlib.suppress(Exception):
                connection.terminate()

    def _told(self, _connection: object, pid: int, _channel: str, payload: str) -> None:
        if pid == self._own_pid:
            return
        for text in payload.split(","):
            tenant_id = UUID(text)
            channel = self._channels.get(tenant_id)
            if channel is not None:
                self._catch_up(tenant_id, channel)

    async def _tell(self) -> None:
        connection = await self._source.dedicated()
        self._own_pid = connection.get_server_pid()
        try:
            while True:
                await self._dirty_event.wait()
                self._dirty_event.clear()
                await self._notify(connection)
                # The first of a burst goes at once; what comes meanwhile goes together.
                await asyncio.sleep(NOTIFY_SECONDS)
        finally:
            with contextlib.suppress(Exception):
                connection.terminate()

    async def tell_now(self) -> None:
        """Tell other processes what was committed here; for a process that does not open the feed, and ends."""
        async with self._source.routing() as queries:
            await self._notify(queries)

    async def _notify(self, queries: Queries) -> None:
        tenants, self._dirty = [str(one) for one in self._dirty], set()
        size = _MAX_PAYLOAD // 37
        for n in range(0, len(tenants), size):
            await queries.execute("SELECT pg_notify($1, $2)", CHANNEL, ",".join(tenants[n : n + size]))

    async def _poll(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + POLL_SECONDS
            await asyncio.sleep(POLL_SECONDS)
            self.lag_seconds = max(0.0, loop.time() - due)
            if not self._channels or self.alone:
                continue
            async with self._source.routing() as queries:
                rows = await queries.fetch("SELECT * FROM ledger_heads($1)", list(self._channels))
            for row in rows:
                channel = self._channels.get(row[0])
                if channel is not None and row[1] > channel.last:
                    self._catch_up(row[0], channel)

    @staticmethod
    async def _forever(work: Callable[[], Any]) -> None:
        """Run ``work`` again, a little later, whenever it ends; the database may be away for a while."""
        while True:
            try:
                await work()
            except asyncio.CancelledError:
                raise
            except Exception as error:
                log.info("the feed lost its connection: %s", type(error).__name__)
            await asyncio.sleep(POLL_SECONDS)
