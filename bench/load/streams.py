"""Many clients of one stream of server-sent events: `python -m bench.load.streams`."""

from __future__ import annotations

import asyncio
import re
import time
from datetime import datetime
from typing import Any, ClassVar, Literal

import msgspec

from bench.load.program import Program
from bench.wire import Connection

_STAMPS = {"ns": re.compile(rb'"at":(\d+)'), "iso": re.compile(rb'"timestamp": ?"([^"]+)"')}
_OPEN_AT_ONCE = 50


class StreamOrder(msgspec.Struct, frozen=True, kw_only=True):
    """`streams` connections followed for `seconds`; `slow` of them stop reading when the measurement begins.

    `stamp` says how an event carries its time: `"at":<nanoseconds>` or `"timestamp":"<ISO 8601>"`, both wall clock.
    """

    port: int
    path: str
    streams: int
    seconds: float
    stamp: Literal["ns", "iso"]
    token: str = ""
    slow: int = 0


class Streams(Program[StreamOrder]):
    """The result has the lag of every delivery in milliseconds, in order of arrival, and how many there were."""

    order_type: ClassVar[type[msgspec.Struct]] = StreamOrder

    async def prepare(self) -> None:
        self._pattern = _STAMPS[self.order.stamp]
        self._lags: list[float] = []
        self._sent: dict[bytes, float] = {}
        self._counts = [0] * self.order.streams
        self._headers = {"authorization": f"Bearer {self.order.token}"} if self.order.token else {}
        self._connections: list[Connection] = []
        for start in range(0, self.order.streams, _OPEN_AT_ONCE):
            numbers = range(start, min(start + _OPEN_AT_ONCE, self.order.streams))
            self._connections += await asyncio.gather(*(self._open(number) for number in numbers))

    async def _open(self, number: int) -> Connection:
        rest = b""

        def on_body(piece: bytes) -> None:
            nonlocal rest
            if rest:
                piece, rest = rest + piece, b""
            if not piece.endswith(b"\n\n"):
                whole, separator, rest = piece.rpartition(b"\n\n")
                piece = whole + separator
            now = time.time()
            for found in self._pattern.finditer(piece):
                self._lags.append((now - self._time(found[1])) * 1000)
                self._counts[number] += 1

        connection = await Connection.open(self.order.port, on_body)
        status = await connection.start(self.order.path, self._headers)
        if status != 200:
            raise RuntimeError(f"GET {self.order.path} answered {status}")
        return connection

    def _time(self, stamp: bytes) -> float:
        """The same event comes a thousand times: read its stamp once."""
        sent = self._sent.get(stamp)
        if sent is None:
            text = stamp.decode()
            sent = int(text) / 1e9 if self.order.stamp == "ns" else datetime.fromisoformat(text).timestamp()
            self._sent[stamp] = sent
        return sent

    async def work(self) -> dict[str, Any]:
        self._lags.clear()
        self._sent.clear()
        self._counts = [0] * self.order.streams
        for connection in self._connections[: self.order.slow]:
            connection.pause()
        await asyncio.sleep(self.order.seconds)
        lags, counts = list(self._lags), self._counts[self.order.slow :]
        cut = sum(connection.lost.is_set() for connection in self._connections[self.order.slow :])
        return {
            "deliveries": len(lags),
            "events": len(self._sent),
            "lags": lags,
            "fewest": min(counts, default=0),
            "cut": cut,
        }


if __name__ == "__main__":
    Streams.main()
