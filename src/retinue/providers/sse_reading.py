"""Server-sent events taken apart without changing a byte (WHATWG HTML, section 9.2)."""

from __future__ import annotations

import re
from collections.abc import Iterator

_END = re.compile(rb"\r?\n\r?\n")
_LONGEST_END = 4


class TooLong(Exception):
    """An event does not end within the limit."""


class Events:
    """Cuts a stream of bytes into events.

    Every event is handed out with the blank line that ends it, so that what is passed on is what came. Lines that end
    with a lone carriage return, which the standard allows, are sent by no provider; they come out at the end, whole.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pending = bytearray()

    def feed(self, read: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the events that are complete now: their bytes, and the data in them.

        Raises:
            TooLong: an event has more than ``limit`` bytes.
        """
        looked = max(0, len(self._pending) - _LONGEST_END + 1)
        self._pending += read
        begin = 0
        while found := _END.search(self._pending, max(looked, begin)):
            event = bytes(self._pending[begin : found.end()])
            begin = found.end()
            yield event, _data(event)
        del self._pending[:begin]
        if len(self._pending) > self._limit:
            raise TooLong

    def rest(self) -> tuple[bytes, bytes]:
        """Return what came after the last event; most often nothing."""
        rest = bytes(self._pending)
        self._pending.clear()
        return rest, _data(rest)


def _data(event: bytes) -> bytes:
    lines = [line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")]
    return lines[0] if len(lines) == 1 else b"\n".join(lines)
