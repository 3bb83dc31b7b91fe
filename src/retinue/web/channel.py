"""Fan-out of one tenant's events and frames to the live streams of this process.

Each event is written to bytes once. Streams that want the same share a :class:`Track`: a ring of what they want, and a
cursor each. What a wake-up brought goes to all of them as one chunk. A stream that cannot take it keeps its cursor and
goes on by itself; when the ring has moved past the cursor it is cut, and the client resumes from its last position.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from uuid import UUID

import orjson

from retinue.kernel import BadInput, Fault, Gone, Unavailable
from retinue.ledger import Encoded, Feed, Subscription
from retinue.live import Frame, Live, LiveSubscription, Texts
from retinue.web.catalogue import DELTA, Catalogue, Filter, Shown, written_frame
from retinue.web.track import Follower, Track

log = logging.getLogger(__name__)

_CHUNK_BYTES = 200_000  # handed on at once, so that a burst does not outrun the ring
_OLDEST_SECONDS = 30.0
_REACH_SECONDS = 10.0
_STUMBLE_SECONDS = 0.5
# After these, a run's text is an event or never will be one.
_ENDS_TEXT = frozenset({"message_created", "run_completed", "run_failed"})


class Channel:
    """One tenant's live streams in this process.

    Attributes:
        position: everything up to here was handed to the tracks.
        backlogs: readers of the past at once; the others wait without holding a database connection.
    """

    def __init__(self, tenant_id: UUID, catalogue: Catalogue, feed: Feed, backlogs: asyncio.Semaphore) -> None:
        self.tenant_id = tenant_id
        self.backlogs = backlogs
        self.catalogue = catalogue
        self.feed = feed
        self.position = 0
        self._texts = Texts()
        self._tracks: dict[UUID, dict[Filter, Track]] = {}
        self._frames: list[Frame] = []
        self._touched: set[Track] = set()
        self._waiting = 0  # bytes put into tracks and not handed on yet
        self._woken = asyncio.Event()
        self._moved = asyncio.Event()
        self._events: Subscription | None = None
        self._live: LiveSubscription | None = None
        self._pump: asyncio.Task[None] | None = None
        self._oldest = (0, 0.0)

    async def open(self, live: Live) -> None:
        """Start to follow the tenant, from now on.

        Raises:
            Unavailable: the database does not answer.
        """
        self._events = await self.feed.subscribe(self.tenant_id)
        self.position = self._events.position
        self._events.on_wake = self._woken.set
        self._live = await live.subscribe(self.tenant_id, self._on_frames)
        self._woken.set()
        self._pump = asyncio.create_task(self._run(self._events), name="stream-pump")

    async def close(self) -> None:
        """Stop following."""
        if self._live is not None:
            self._live.close()
        if self._events is not None:
            self._events.close()
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.gather(self._pump, return_exceptions=True)

    # Streams come and go

    def join(self, follower: Follower, wanted: Filter) -> Track:
        """Let a stream in: it gets everything after :attr:`position`."""
        tracks = self._tracks.setdefault(wanted.owner, {})
        track = tracks.get(wanted)
        if track is None:
            track = tracks[wanted] = Track(wanted)
        track.busy.add(follower)
        follower.cursor = track.end
        return track

    def leave(self, follower: Follower, track: Track) -> None:
        """Let a stream go; the last one takes its track along."""
        track.busy.discard(follower)
        track.quick.discard(follower)
        if not track.quick and not track.busy:
            tracks = self._tracks.get(track.wanted.owner, {})
            tracks.pop(track.wanted, None)
            if not tracks:
                self._tracks.pop(track.wanted.owner, None)

    def tracks(self) -> Iterable[Track]:
        """Return all tracks."""
        return [track for tracks in self._tracks.values() for track in tracks.values()]

    def texts(self, wanted: Filter) -> list[Shown]:
        """Return the texts so far that a stream wants, for one that comes while an answer is being written."""
        stamp = _now()
        return [
            written_frame(frame, stamp)
            for frame in self._texts.frames()
            if frame.owner_id == wanted.owner and wanted.wants(DELTA, frame.session_id, frame.run_id)
        ]

    def forget_old(self) -> None:
        """Forget texts of runs that ended without a word."""
        self._texts.sweep()

    async def check(self, after: int) -> None:
        """Refuse a position that cannot be resumed from.

        Raises:
            Gone: events after it are no longer kept.
            BadInput: it is in the future.
        """
        if after > self.position and after > await self.feed.position(self.tenant_id):
            raise BadInput("There is no such position yet.", field="after")
        oldest, known_at = self._oldest
        if time.monotonic() - known_at > _OLDEST_SECONDS or not known_at:
            oldest = await self.feed.oldest(self.tenant_id)
            self._oldest = (oldest, time.monotonic())
        if after < oldest - 1:
            raise Gone(
                f"Events up to {oldest - 1} are no longer kept. Load the present state, then stream from now on.",
                extra={"oldest": oldest},
            )

    async def reached(self, position: int) -> None:
        """Wait until the tracks have got everything up to ``position``, which exists.

        Raises:
            Unavailable: that takes too long; the database is away or very slow.
        """
        try:
            async with asyncio.timeout(_REACH_SECONDS):
                while self.position < position:
                    await self._moved.wait()
        except TimeoutError:
            raise Unavailable("The newest events cannot be read. Connect again in a moment.") from None

    # Events and frames arrive

    def _on_frames(self, frames: list[Frame]) -> None:
        self._frames.extend(frames)
        self._woken.set()

    async def _run(self, events: Subscription) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            try:
                await self._take(events)
            except Exception as error:
                # The database is away, as a rule. Whatever it is: a pump that ends would leave streams open and silent.
                if not isinstance(error, Fault):
                    log.exception("the streams of a tenant stumbled; they go on")
                await asyncio.sleep(_STUMBLE_SECONDS)
                self._woken.set()

    async def _take(self, events: Subscription) -> None:
        frames, self._frames = self._frames, []
        if frames:
            stamp = _now()
            for frame in frames:
                self._take_frame(frame, stamp)
                if self._waiting > _CHUNK_BYTES:
                    await self._flush()
            await self._flush()
        while batch := await events.ready():
            for event in batch:
                try:
                    self._take_event(event)
                except Exception:  # one that cannot be shown must not hide the others
                    log.exception("%s at %d cannot be streamed", event.type, event.position)
                self.position = event.position
                if self._waiting > _CHUNK_BYTES:
                    await self._flush()
            self._moved.set()
            self._moved.clear()
            await self._flush()

    def _take_frame(self, frame: Frame, stamp: bytes) -> None:
        if not self._texts.add(frame) or frame.owner_id is None:
            return
        self._put(
            self._tracks.get(frame.owner_id, {}).values(),
            DELTA,
            frame.session_id,
            frame.run_id,
            lambda: written_frame(frame, stamp),
        )

    def _take_event(self, event: Encoded) -> None:
        streamed = self.catalogue.get(event.type)
        if streamed is None:
            return
        meta = event.meta
        if meta.run is not None and streamed.name in _ENDS_TEXT:
            self._texts.end(meta.run)
        if meta.owner is not None:
            tracks: Iterable[Track] = self._tracks.get(meta.owner, {}).values()
        else:
            audience = self.catalogue.audience(streamed, event)
            tracks = [track for track in self.tracks() if track.wanted.sees(streamed, audience)]
        self._put(tracks, streamed.name, meta.session, meta.run, lambda: self.catalogue.written(streamed, event))

    def _put(
        self,
        tracks: Iterable[Track],
        name: str,
        session: UUID | None,
        run: UUID | None,
        write: Callable[[], Shown],
    ) -> None:
        shown: Shown | None = None
        for track in tracks:
            if track.wanted.wants(name, session, run):
                if shown is None:
                    shown = write()
                    self._waiting += len(shown.sse)
                track.add(shown)
                self._touched.add(track)

    async def _flush(self) -> None:
        touched, self._touched = self._touched, set()
        self._waiting = 0
        for track in touched:
            await track.flush()


def _now() -> bytes:
    """Return the time of this machine as JSON; only frames carry it, and no order depends on it."""
    return orjson.dumps(datetime.now(UTC), option=orjson.OPT_UTC_Z)
