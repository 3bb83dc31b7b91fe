"""The bus of frames: what every transport of it offers, and the text so far of each answer."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from uuid import UUID

import msgspec
from prometheus_client import Counter

PATIENCE_SECONDS = 600.0
MAX_TEXT = 1_000_000

DROPPED = Counter("retinue_frames_dropped_total", "Frames that could not be passed on", ["reason"])


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """A piece of an answer while the model writes it.

    Attributes:
        tenant_id, run_id, session_id, owner_id: whose it is; clients are chosen by these.
        message_id: the message it will be part of, when that has an id already.
        attempt: which try of the model call, from 1. A higher one replaces all that was shown of the lower.
        offset: how many characters (Unicode code points) of the text come before it; 0 starts the text anew.
        text: the piece.
    """

    tenant_id: UUID
    run_id: UUID
    session_id: UUID | None
    owner_id: UUID | None
    message_id: UUID | None
    attempt: int
    offset: int
    text: str


class _Partial:
    """The text so far of one run's current answer."""

    __slots__ = ("frame", "length", "pieces", "touched")

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.pieces = [frame.text]
        self.length = len(frame.text)
        self.touched = time.monotonic()

    def whole(self) -> Frame:
        """Return the text so far as one frame; the pieces are joined once."""
        if len(self.pieces) > 1:
            self.pieces = ["".join(self.pieces)]
        return msgspec.structs.replace(self.frame, text=self.pieces[0])


class Texts:
    """The texts so far, folded from frames, also when a network lost or repeated some.

    A frame with offset 0 starts a run's text anew: its next message, or another try. A piece that is there already is
    ignored; what comes after a lost piece cannot be placed, so the text is forgotten until it starts anew. Texts end
    with :meth:`end`, or by :meth:`sweep` when nothing came for ten minutes.
    """

    def __init__(self) -> None:
        self._partials: dict[UUID, _Partial] = {}

    def add(self, frame: Frame) -> bool:
        """Take a frame; return whether it is worth showing: False for a repeated or outdated one."""
        if frame.offset == 0:
            self._partials[frame.run_id] = _Partial(frame)
            return True
        known = self._partials.get(frame.run_id)
        if known is None:
            return True
        if frame.attempt < known.frame.attempt or (
            frame.attempt == known.frame.attempt and frame.offset < known.length
        ):
            return False
        if frame.attempt > known.frame.attempt or frame.offset > known.length or known.length > MAX_TEXT:
            del self._partials[frame.run_id]
            return True
        known.pieces.append(frame.text)
        known.length += len(frame.text)
        known.touched = time.monotonic()
        return True

    def end(self, run_id: UUID) -> None:
        """Forget the text of a run: its answer is an event by now, or never will be."""
        self._partials.pop(run_id, None)

    def frames(self) -> list[Frame]:
        """Return each text so far as one frame from offset 0."""
        return [known.whole() for known in self._partials.values()]

    def __len__(self) -> int:
        return len(self._partials)

    def sweep(self) -> None:
        """Forget what nothing was added to for ten minutes."""
        now = time.monotonic()
        for run_id, known in list(self._partials.items()):
            if now - known.touched > PATIENCE_SECONDS:
                del self._partials[run_id]


class TextsByTenant:
    """The texts so far of all tenants; old ones go by themselves."""

    def __init__(self) -> None:
        self._by_tenant: dict[UUID, Texts] = {}
        self._swept = time.monotonic()

    def add(self, frame: Frame) -> bool:
        """Take a frame; see :meth:`Texts.add`."""
        if time.monotonic() - self._swept > PATIENCE_SECONDS / 10:
            self._sweep()
        texts = self._by_tenant.get(frame.tenant_id)
        if texts is None:
            texts = self._by_tenant[frame.tenant_id] = Texts()
        return texts.add(frame)

    def end(self, tenant_id: UUID, run_id: UUID) -> None:
        """Forget the text of a run."""
        texts = self._by_tenant.get(tenant_id)
        if texts is not None:
            texts.end(run_id)
            if not texts:
                del self._by_tenant[tenant_id]

    def frames(self, tenant_id: UUID) -> list[Frame]:
        """Return a tenant's texts so far, each as one frame."""
        texts = self._by_tenant.get(tenant_id)
        return texts.frames() if texts is not None else []

    def _sweep(self) -> None:
        self._swept = time.monotonic()
        for tenant_id, texts in list(self._by_tenant.items()):
            texts.sweep()
            if not texts:
                del self._by_tenant[tenant_id]


class LiveSubscription:
    """One tenant's frames for one listener: ``async for frames in subscription``; close it when done."""

    def __init__(self, live: Live, tenant_id: UUID, listener: Callable[[list[Frame]], None]) -> None:
        self.tenant_id = tenant_id
        self.listener = listener
        self._live = live

    def close(self) -> None:
        """Stop listening."""
        self._live.leave(self)


class Live(ABC):
    """A bus of frames; a service of the house.

    Frames are a courtesy: publishing never waits and never fails, and a bus that is away loses them. The finished
    message is an event and does not depend on them.
    """

    @abstractmethod
    def publish(self, frame: Frame) -> None:
        """Pass a frame on to whoever listens to its tenant."""

    @abstractmethod
    def finish(self, tenant_id: UUID, run_id: UUID) -> None:
        """Say that a run's answer is finished or given up: who comes later need not see its pieces."""

    @abstractmethod
    async def subscribe(self, tenant_id: UUID, listener: Callable[[list[Frame]], None]) -> LiveSubscription:
        """Call ``listener`` with each new batch of a tenant's frames; it must not wait.

        The texts so far come first, as frames with offset 0.
        """

    @abstractmethod
    async def so_far(self, tenant_id: UUID) -> list[Frame]:
        """Return the text so far of each of the tenant's answers at work, each as one frame with offset 0."""

    @abstractmethod
    def leave(self, subscription: LiveSubscription) -> None:
        """End a subscription."""

    @abstractmethod
    async def open(self) -> None:
        """Connect; does not fail when the other side is away."""

    @abstractmethod
    async def close(self) -> None:
        """Disconnect."""


def deliver(subscriptions: Iterable[LiveSubscription], frames: list[Frame]) -> None:
    """Hand frames to listeners; one that fails does not keep them from the others."""
    for subscription in tuple(subscriptions):
        try:
            subscription.listener(frames)
        except Exception:
            DROPPED.labels("listener").inc(len(frames))
