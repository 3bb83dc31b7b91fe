"""One live stream: an SSE response or a WebSocket, driven by its channel without a task of its own.

ASGI's ``send`` is a coroutine that, as long as the client keeps up, ends without ever waiting. So the channel runs it
to its end on the spot. Only when it does wait, because the client is slow, a task takes over, and ends when the client
has caught up. A quiet stream is one coroutine that waits for the client to leave; that keeps it under 15 KB.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Generator, Sequence
from datetime import datetime
from types import coroutine
from typing import Any, ClassVar

from starlette.types import Message, Receive, Send

from retinue.kernel import Fault
from retinue.web.catalogue import Filter, Shown
from retinue.web.channel import Channel
from retinue.web.track import Track

log = logging.getLogger(__name__)

ABORT = "retinue.abort"  # an extension of the ASGI scope; see server.py
_PART = 65_536
_PAGE = 500


@coroutine
def _rest(started: Coroutine[Any, Any, None], waits_for: Any) -> Generator[Any, Any, None]:
    """Go on with a coroutine that was started by hand and waits for something."""
    try:
        yield waits_for
    except BaseException:
        started.close()
        raise
    yield from started


class Connection(ABC):
    """A stream to one client.

    Attributes:
        kind: the protocol, for the numbers.
        cursor: how many items of its track it was given.
        expires_at: when the credential it was opened with ends; None for never.
        busy_since: when it last made progress with what it could not take at once, in monotonic seconds; 0 when there
            is nothing of the kind.
        ended: why this side ended it; empty while it goes on.
    """

    kind: ClassVar[str]

    __slots__ = (
        "__weakref__",
        "_abort",
        "_channel",
        "_in_the_past",
        "_main",
        "_receive",
        "_send",
        "_task",
        "_track",
        "_wanted",
        "busy_since",
        "cursor",
        "ended",
        "expires_at",
    )

    def __init__(
        self,
        channel: Channel,
        wanted: Filter,
        receive: Receive,
        send: Send,
        *,
        expires_at: datetime | None = None,
        abort: Callable[[], None] | None = None,
    ) -> None:
        self.cursor = 0
        self.busy_since = 0.0
        self.expires_at = expires_at
        self.ended = ""
        self._channel = channel
        self._wanted = wanted
        self._receive = receive
        self._send = send
        self._abort = abort
        self._in_the_past = False
        self._main: asyncio.Task[Any] | None = None
        self._track: Track | None = None
        self._task: asyncio.Task[None] | None = None

    @classmethod
    @abstractmethod
    def chunks(cls, items: Sequence[Shown]) -> Sequence[Message]:
        """Return the messages that carry ``items``; they may be sent to many streams."""

    @abstractmethod
    def opening(self, position: int) -> Message:
        """Return the message that says where the stream begins, so that a client can resume from there."""

    @abstractmethod
    def quiet(self) -> Message | None:
        """Return the message that shows a quiet stream is alive; None when the protocol does that itself."""

    @abstractmethod
    def closing(self, reason: str) -> Message:
        """Return the message that ends the stream."""

    # Life

    async def run(self, after: int | None) -> None:
        """Stream until the client leaves or :meth:`end` is called; the response has begun."""
        if self._abort is None:
            self._main = asyncio.current_task()
        track = self._track = self._channel.join(self, self._wanted)
        self._wanted = track.wanted  # equal, and there once for all
        self._start(self._begin(track, self._channel.position, after, self._channel.texts(self._wanted)))
        try:
            while True:
                message = await self._receive()
                if message["type"] in ("http.disconnect", "websocket.disconnect"):
                    return
        except asyncio.CancelledError:
            if not self.ended:
                raise
        finally:
            self._channel.leave(self, track)
            self._track = None
            if self._task is not None:
                self._task.cancel()

    async def _begin(self, track: Track, start: int, after: int | None, texts: Sequence[Shown]) -> None:
        await self._send(self.opening(start if after is None else after))
        while after is not None:
            self._in_the_past = True
            await self._send_past(after, start)
            if track.after(self.cursor) is not None:
                break
            # The past was so long that the ring has moved on meanwhile: what it lost is in the past by now.
            after, start = start, self._channel.position
            self.cursor = track.end
            texts = self._channel.texts(self._wanted)
        self._in_the_past = False
        await self._send_all(self.chunks(texts))
        await self._catch_up(track)

    async def _send_past(self, after: int, upto: int) -> None:
        """Send what was recorded before the stream joined its track, from the ledger."""
        # Whoever waits goes on in a task of its own (see `_start`), and a time limit belongs to the task that set it:
        # so wait once before the database sets any.
        await asyncio.sleep(0)
        while after < upto:
            async with self._channel.backlogs:
                page = await self._channel.feed.read(self._channel.tenant_id, after, min(_PAGE, upto - after))
            if not page:
                return
            after = page[-1].position
            shown = [self._channel.catalogue.shows(self._wanted, event) for event in page]
            await self._send_all(self.chunks([item for item in shown if item is not None]))

    async def _catch_up(self, track: Track) -> None:
        """Send what the track got in the meantime, until nothing is left."""
        while self.cursor < track.end:
            items = track.after(self.cursor)
            if items is None:
                self.end("slow")
                return
            self.cursor = track.end
            await self._send_all(self.chunks(items))
        if not self.ended:
            self.busy_since = 0.0
            track.busy.discard(self)
            track.quick.add(self)

    # Sending without waiting

    def push(self, messages: Sequence[Message], end: int) -> None:
        """Send on the spot; what cannot be sent at once is left to a task."""
        self.cursor = end
        if len(messages) == 1:
            self._start(self._send(messages[0]))  # type: ignore[arg-type]  # ASGI's sends are coroutines
        else:
            self._start(self._send_all(messages))

    async def _send_all(self, messages: Sequence[Message]) -> None:
        for message in messages:
            await self._send(message)
            if self.busy_since:
                self.busy_since = time.monotonic()

    def _start(self, sending: Coroutine[Any, Any, None]) -> None:
        try:
            waits_for = sending.send(None)
        except StopIteration:
            return
        except Exception as error:  # it ends here: the channel that asked for this has other streams to serve
            self._fail(error)
            return
        track = self._track
        if track is None:
            sending.close()
            return
        self._is_busy(track)
        self._task = asyncio.create_task(self._see_through(self._finish(sending, waits_for, track)))

    def go_on_alone(self) -> None:
        """Leave the common chunks and take the rest from the ring."""
        track = self._track
        if track is not None and self._task is None:
            self._is_busy(track)
            self._task = asyncio.create_task(self._see_through(self._catch_up(track)))

    def _is_busy(self, track: Track) -> None:
        track.quick.discard(self)
        track.busy.add(self)
        self.busy_since = time.monotonic()

    def lost(self) -> None:
        """Take note that the ring has moved past the cursor: cut a slow client; one in the past gets it from there."""
        if not self._in_the_past:
            self.end("slow")

    async def _finish(self, sending: Coroutine[Any, Any, None], waits_for: Any, track: Track) -> None:
        await _rest(sending, waits_for)
        await self._catch_up(track)

    async def _see_through(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:
            self._fail(error)
        finally:
            self._task = None

    def _fail(self, error: Exception) -> None:
        """Cut a stream that failed: its client comes back and resumes, and would otherwise wait for ever."""
        if not isinstance(error, Fault | OSError):
            log.error("a live stream failed", exc_info=error)
        self.end("error")

    def keep_alive(self) -> None:
        """Show a quiet client, and whatever lies between, that the stream is alive."""
        message = self.quiet()
        if message is not None and self._task is None and not self.ended:
            self._start(self._send(message))  # type: ignore[arg-type]  # ASGI's sends are coroutines

    def end(self, reason: str) -> None:
        """End the stream from this side: in good order when the client keeps up, otherwise at once.

        A client that does not read would never see the end; its connection is dropped, with what waits for it.
        """
        if self.ended:
            return
        self.ended = reason
        track, task = self._track, self._task
        if track is not None:
            track.quick.discard(self)
        if task is None and self._say_goodbye(reason):
            return
        if self._abort is not None:
            self._abort()
        elif self._main is not None:
            self._main.cancel()
        if task is not None:
            task.cancel()

    def _say_goodbye(self, reason: str) -> bool:
        closing: Any = self._send(self.closing(reason))
        try:
            closing.send(None)
        except StopIteration:
            return True
        except (RuntimeError, OSError):  # the connection is on its way down already
            return True
        except Exception:  # sending is what failed: no word reaches this client
            return False
        closing.close()
        return False


class SseConnection(Connection):
    """A stream of server-sent events."""

    kind = "sse"
    __slots__ = ()

    @classmethod
    def chunks(cls, items: Sequence[Shown]) -> Sequence[Message]:
        """Join the items to chunks of up to 64 KB; a larger item is a chunk of its own."""
        messages: list[Message] = []
        part: list[bytes] = []
        size = 0
        for item in items:
            if part and size + len(item.sse) > _PART:
                messages.append({"type": "http.response.body", "body": b"".join(part), "more_body": True})
                part, size = [], 0
            part.append(item.sse)
            size += len(item.sse)
        if part:
            messages.append({"type": "http.response.body", "body": b"".join(part), "more_body": True})
        return messages

    def opening(self, position: int) -> Message:
        """Say how soon to reconnect, and from where: an id without data sets it without an event."""
        return {"type": "http.response.body", "body": b"retry: 1000\nid: %d\n\n" % position, "more_body": True}

    def quiet(self) -> Message | None:
        """Send a comment, and how far the stream has come."""
        return {"type": "http.response.body", "body": b":\nid: %d\n\n" % self._channel.position, "more_body": True}

    def closing(self, reason: str) -> Message:
        """End the response; a comment says why."""
        return {"type": "http.response.body", "body": b": ended, %b\n\n" % reason.encode(), "more_body": False}


class WebSocketConnection(Connection):
    """A stream of WebSocket messages: the same documents with the position inside, as ``id``."""

    kind = "websocket"
    __slots__ = ()

    @classmethod
    def chunks(cls, items: Sequence[Shown]) -> Sequence[Message]:
        """Send each item as a message of its own."""
        return [{"type": "websocket.send", "text": item.text()} for item in items]

    def opening(self, position: int) -> Message:
        """Say where the stream begins."""
        text = f'{{"id":{position},"event_type":"stream_position","payload":{{}},"session_id":null,"run_id":null}}'
        return {"type": "websocket.send", "text": text}

    def quiet(self) -> Message | None:
        """Nothing: the server pings by itself."""
        return None

    def closing(self, reason: str) -> Message:
        """Close; 4401 says that the credential is no longer good, 1012 that the server restarts, 1013 "try again"."""
        code = {"not allowed any more": 4401, "expired": 4401, "restart": 1012}.get(reason, 1013)
        return {"type": "websocket.close", "code": code, "reason": reason}
