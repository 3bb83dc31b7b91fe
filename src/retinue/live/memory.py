"""The bus inside one process."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from retinue.live.bus import Frame, Live, LiveSubscription, TextsByTenant, deliver


class MemoryLive(Live):
    """Hands frames over at once, in the call that publishes them; enough while one process does everything."""

    def __init__(self) -> None:
        self._listeners: dict[UUID, list[LiveSubscription]] = {}
        self._texts = TextsByTenant()

    def publish(self, frame: Frame) -> None:
        """Pass a frame on."""
        if not self._texts.add(frame):
            return
        listeners = self._listeners.get(frame.tenant_id)
        if listeners:
            deliver(listeners, [frame])

    def finish(self, tenant_id: UUID, run_id: UUID) -> None:
        """Forget a run's text."""
        self._texts.end(tenant_id, run_id)

    async def subscribe(self, tenant_id: UUID, listener: Callable[[list[Frame]], None]) -> LiveSubscription:
        """Listen to a tenant; the texts so far are handed over before this returns."""
        subscription = LiveSubscription(self, tenant_id, listener)
        known = await self.so_far(tenant_id)
        if known:
            deliver([subscription], known)
        self._listeners.setdefault(tenant_id, []).append(subscription)
        return subscription

    async def so_far(self, tenant_id: UUID) -> list[Frame]:
        """Return the texts so far."""
        return self._texts.frames(tenant_id)

    def leave(self, subscription: LiveSubscription) -> None:
        """End a subscription."""
        listeners = self._listeners.get(subscription.tenant_id, [])
        if subscription in listeners:
            listeners.remove(subscription)
        if not listeners:
            self._listeners.pop(subscription.tenant_id, None)

    async def open(self) -> None:
        """Nothing to connect to."""

    async def close(self) -> None:
        """Nothing to disconnect from."""
