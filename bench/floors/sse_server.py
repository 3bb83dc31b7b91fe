"""The floor of fan-out: raw asyncio sockets, an event encoded once, written to every stream.

`python -m bench.floors.sse_server --port N`. GET /health/ready answers; any other GET opens a stream. `--rate` events a
second go to all streams, each with its time of sending.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import time
from typing import cast

import uvloop

_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-store\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_READY = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
# As long as an event of the product's stream.
_PADDING = "x" * 220


class Client(asyncio.Protocol):
    """A connection; it joins the streams with its first request that is no health check."""

    def __init__(self, streams: set[asyncio.Transport]) -> None:
        self._streams = streams
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A stream transport, but uvloop's is no subclass of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._streams.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        if self._transport is None:
            return
        if data.startswith(b"GET /health"):
            self._transport.write(_READY)
        else:
            self._transport.write(_HEAD)
            self._streams.add(self._transport)


async def serve(port: int, rate: float) -> None:
    """Serve until the process is ended."""
    loop = asyncio.get_running_loop()
    streams: set[asyncio.Transport] = set()
    await loop.create_server(lambda: Client(streams), "127.0.0.1", port, backlog=4096)
    number, due = 0, loop.time()
    while True:
        due += 1 / rate
        await asyncio.sleep(max(0.0, due - loop.time()))
        number += 1
        event = b'id: %d\nevent: tick\ndata: {"at":%d,"pad":"%b"}\n\n' % (number, time.time_ns(), _PADDING.encode())
        chunk = b"%x\r\n%b\r\n" % (len(event), event)
        for stream in tuple(streams):
            stream.write(chunk)


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rate", type=float, default=10.0)
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(serve(options.port, options.rate))


if __name__ == "__main__":
    main()
