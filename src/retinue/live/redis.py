"""The bus across processes: Redis publish and subscribe, and the text so far of each run for who comes late.

Redis being away must not slow or break a run. Frames for listeners of the same process never leave it. The rest waits
in a bounded queue that one task empties; what finds no room, or fails, is dropped and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from retinue.live.bus import DROPPED, MAX_TEXT, PATIENCE_SECONDS, Frame, Live, LiveSubscription, TextsByTenant, deliver

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = logging.getLogger(__name__)

_QUEUE = 10_000
_BATCH = 500
_RETRY_SECONDS = 1.0
_encoder = msgspec.msgpack.Encoder()


class _Parcel(msgspec.Struct, array_like=True):
    """Frames as they travel: who sent them, and the runs that are finished."""

    sender: bytes
    frames: list[Frame]
    finished: list[UUID]


_parcels = msgspec.msgpack.Decoder(_Parcel)
_heads = msgspec.msgpack.Decoder(Frame)


def _topic(tenant_id: UUID) -> str:
    return f"retinue:frames:{tenant_id}"


def _runs_key(tenant_id: UUID) -> str:
    return f"retinue:runs:{tenant_id}"


def _head_key(tenant_id: UUID, run_id: UUID) -> str:
    return f"retinue:head:{tenant_id}:{run_id}"


def _text_key(tenant_id: UUID, run_id: UUID) -> str:
    return f"retinue:text:{tenant_id}:{run_id}"


class RedisLive(Live):
    """Frames across processes. Attributes: connected: whether the last exchange with Redis worked."""

    def __init__(self, url: str) -> None:
        # Imported here: the library takes 70 ms to load, and most servers do without Redis.
        from redis.asyncio import Redis
        from redis.exceptions import RedisError

        self._redis: Redis = Redis.from_url(url, socket_timeout=5, socket_connect_timeout=2)
        self._away: tuple[type[Exception], ...] = (RedisError, OSError, TimeoutError)
        self._name = os.urandom(8)
        self._queue: deque[Frame | tuple[UUID, UUID]] = deque()
        self._filled = asyncio.Event()
        self._listeners: dict[UUID, list[LiveSubscription]] = {}
        self._own_texts = TextsByTenant()
        self._lengths: dict[UUID, int] = {}
        self._pubsub: Any = None
        self._tasks: list[asyncio.Task[None]] = []
        self.connected = False

    async def open(self) -> None:
        """Start sending and listening; both go on trying while Redis is away."""
        self._pubsub = self._redis.pubsub(ignore_subscribe_messages=True)
        self._tasks = [
            asyncio.create_task(self._forever(self._send), name="frames-send"),
            asyncio.create_task(self._forever(self._listen), name="frames-listen"),
        ]

    async def close(self) -> None:
        """Stop; frames still queued are lost."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(*self._away):
            if self._pubsub is not None:
                await self._pubsub.aclose()
            await self._redis.aclose()

    async def _forever(self, work: Callable[[], Any]) -> None:
        while True:
            try:
                await work()
            except self._away as error:
                if self.connected:
                    log.warning("Redis does not answer; frames stay in this process: %s", error)
                self.connected = False
            await asyncio.sleep(_RETRY_SECONDS)

    # Sending

    def publish(self, frame: Frame) -> None:
        """Pass a frame on: to listeners here at once, to other processes soon."""
        if not self._own_texts.add(frame):
            return
        listeners = self._listeners.get(frame.tenant_id)
        if listeners:
            deliver(listeners, [frame])
        self._enqueue(frame)

    def finish(self, tenant_id: UUID, run_id: UUID) -> None:
        """Forget a run's text, here and in Redis."""
        self._own_texts.end(tenant_id, run_id)
        self._enqueue((tenant_id, run_id))

    def _enqueue(self, item: Frame | tuple[UUID, UUID]) -> None:
        if len(self._queue) >= _QUEUE:
            self._queue.popleft()
            DROPPED.labels("queue full").inc()
        self._queue.append(item)
        self._filled.set()

    async def _send(self) -> None:
        while True:
            await self._filled.wait()
            batch = [self._queue.popleft() for _ in range(min(_BATCH, len(self._queue)))]
            if not self._queue:
                self._filled.clear()
            try:
                await self._send_batch(batch)
                self.connected = True
            except self._away:
                DROPPED.labels("redis").inc(sum(isinstance(item, Frame) for item in batch))
                raise

    async def _send_batch(self, batch: list[Frame | tuple[UUID, UUID]]) -> None:
        parcels: dict[UUID, _Parcel] = {}
        pipeline = self._redis.pipeline(transaction=False)
        for item in batch:
            tenant_id = item.tenant_id if isinstance(item, Frame) else item[0]
            parcel = parcels.setdefault(tenant_id, _Parcel(self._name, [], []))
            if isinstance(item, Frame):
                parcel.frames.append(item)
                self._keep_text(pipeline, item)
            else:
                parcel.finished.append(item[1])
                self._drop_text(pipeline, *item)
        for tenant_id, parcel in parcels.items():
            pipeline.publish(_topic(tenant_id), _encoder.encode(parcel))
        await pipeline.execute()

    def _keep_text(self, pipeline: Any, frame: Frame) -> None:
        """Extend the stored text, up to a bound; a text that lost its beginning is not stored."""
        text = _text_key(frame.tenant_id, frame.run_id)
        head = _head_key(frame.tenant_id, frame.run_id)
        patience = int(PATIENCE_SECONDS)
        if frame.offset == 0:
            pipeline.set(head, _encoder.encode(msgspec.structs.replace(frame, text="")), ex=patience)
            pipeline.set(text, frame.text.encode(), ex=patience)
            pipeline.sadd(_runs_key(frame.tenant_id), str(frame.run_id))
            pipeline.expire(_runs_key(frame.tenant_id), patience)
            self._lengths[frame.run_id] = len(frame.text)
        elif self._lengths.get(frame.run_id) == frame.offset and frame.offset < MAX_TEXT:
            pipeline.append(text, frame.text.encode())
            for key in (text, head, _runs_key(frame.tenant_id)):
                pipeline.expire(key, patience)
            self._lengths[frame.run_id] += len(frame.text)
        elif self._lengths.pop(frame.run_id, None) is not None:
            self._drop_text(pipeline, frame.tenant_id, frame.run_id)

    def _drop_text(self, pipeline: Any, tenant_id: UUID, run_id: UUID) -> None:
        self._lengths.pop(run_id, None)
        pipeline.delete(_text_key(tenant_id, run_id), _head_key(tenant_id, run_id))
        pipeline.srem(_runs_key(tenant_id), str(run_id))

    # Listening

    async def subscribe(self, tenant_id: UUID, listener: Callable[[list[Frame]], None]) -> LiveSubscription:
        """Listen to a tenant; the texts so far are handed over before this returns, when Redis can be reached."""
        subscription = LiveSubscription(self, tenant_id, listener)
        first = tenant_id not in self._listeners
        self._listeners.setdefault(tenant_id, []).append(subscription)
        if first and self._pubsub is not None:
            # A failed one is made up for by the listening task, which subscribes to everything when it connects.
            with contextlib.suppress(*self._away):
                await self._pubsub.subscribe(_topic(tenant_id))
        # Frames may arrive meanwhile; the listener folds both by offset.
        known = await self.so_far(tenant_id)
        if known:
            deliver([subscription], known)
        return subscription

    def leave(self, subscription: LiveSubscription) -> None:
        """End a subscription. The topic itself is left at the next message that nobody wants."""
        listeners = self._listeners.get(subscription.tenant_id, [])
        if subscription in listeners:
            listeners.remove(subscription)
        if not listeners:
            self._listeners.pop(subscription.tenant_id, None)

    async def _listen(self) -> None:
        pubsub = self._pubsub
        topics = [_topic(tenant_id) for tenant_id in self._listeners]
        # One topic is always there: without any, there is no connection to notice a failure on.
        await pubsub.subscribe(f"retinue:process:{self._name.hex()}", *topics)
        self.connected = True
        await self._hand_over_texts()
        while True:
            message = await pubsub.get_message(timeout=30)
            if message is not None and message["type"] == "message":
                await self._received(message["channel"].decode(), message["data"])

    async def _hand_over_texts(self) -> None:
        """Close the gap after Redis was away: the texts so far once more, from the beginning."""
        for tenant_id, listeners in list(self._listeners.items()):
            known = await self.so_far(tenant_id)
            if known:
                deliver(listeners, known)

    async def _received(self, topic: str, data: bytes) -> None:
        tenant_id = UUID(topic.rpartition(":")[2])
        listeners = self._listeners.get(tenant_id)
        if not listeners:
            await self._pubsub.unsubscribe(topic)
            if tenant_id in self._listeners:  # somebody came in the meantime
                await self._pubsub.subscribe(topic)
            return
        try:
            parcel = _parcels.decode(data)
        except msgspec.MsgspecError:
            DROPPED.labels("unreadable").inc()
            return
        if parcel.sender != self._name and parcel.frames:
            deliver(listeners, parcel.frames)

    async def so_far(self, tenant_id: UUID) -> list[Frame]:
        """Return the texts so far: this process's own, and what others keep in Redis when it can be reached."""
        found = {frame.run_id: frame for frame in self._own_texts.frames(tenant_id)}
        with contextlib.suppress(*self._away):
            for frame in await self._stored(tenant_id):
                found.setdefault(frame.run_id, frame)
        return list(found.values())

    async def _stored(self, tenant_id: UUID) -> list[Frame]:
        members: set[bytes] = await _answer(self._redis.smembers(_runs_key(tenant_id)))
        runs = [UUID(member.decode()) for member in members]
        if not runs:
            return []
        keys = [key for run_id in runs for key in (_head_key(tenant_id, run_id), _text_key(tenant_id, run_id))]
        values: list[bytes | None] = await _answer(self._redis.mget(keys))
        found = []
        for head, text in zip(values[::2], values[1::2], strict=True):
            if head is not None and text is not None:
                found.append(msgspec.structs.replace(_heads.decode(head), text=text.decode()))
        return found


async def _answer(reply: Any) -> Any:
    """Wait for a reply; the library's types allow for its synchronous twin as well."""
    return await reply
