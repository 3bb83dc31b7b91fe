"""Numbers that are looked up when somebody asks for ``/metrics``: connections, the queue, how far the feed is."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable

from prometheus_client import Gauge

from retinue import dispatch
from retinue.database import Database
from retinue.kernel import Fault, Services, Settings
from retinue.ledger import Feed

log = logging.getLogger(__name__)

CONNECTIONS = Gauge("retinue_database_connections", "Database connections of this process", ["state"])
BEHIND = Gauge("retinue_feed_behind_events", "Committed events that this process has not taken yet, where followed")
LAG = Gauge("retinue_event_loop_lag_seconds", "By how much the last timer of this process was late")

_LOOK_SECONDS = 2.0
_FRESH_SECONDS = 1.0


class Measuring:
    """Looks numbers up, at most once a second however many ask; a service."""

    def __init__(self, services: Services, settings: Settings) -> None:
        self._services = services
        self._dead_after_seconds = settings.dead_after_seconds
        self._looked = -_FRESH_SECONDS
        self._one = asyncio.Lock()

    async def look(self) -> None:
        """Bring the gauges up to date. What cannot be looked up, because the database is away, is left out."""
        async with self._one:
            if time.monotonic() - self._looked < _FRESH_SECONDS:
                return
            database, feed = self._services.get(Database), self._services.get(Feed)
            CONNECTIONS.labels("busy").set(database.in_use())
            CONNECTIONS.labels("open").set(database.pool.get_size())
            LAG.set(feed.lag_seconds)
            await self._try(self._look_behind(feed))
            await self._try(dispatch.measure(database, self._dead_after_seconds))
            self._looked = time.monotonic()

    async def _look_behind(self, feed: Feed) -> None:
        BEHIND.set(float("nan"))
        BEHIND.set(await feed.behind())

    async def _try(self, looking: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                await looking
        except (Fault, TimeoutError) as error:
            log.info("a number could not be looked up: %s", error)
