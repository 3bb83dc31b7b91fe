"""A program in a sandbox that the caller talks to while it runs."""

from __future__ import annotations

import asyncio

from retinue.sandbox.jobs import Ended, Interactive, OnOutput, OnUsage, Stream
from retinue.sandbox.supervision import Supervision, pump


class Conversation(Interactive):
    """The running program, as its caller sees it."""

    def __init__(self, supervision: Supervision, on_error: OnOutput | None, on_usage: OnUsage | None) -> None:
        self._supervision = supervision
        self._child = supervision.child
        errors = asyncio.create_task(pump("stderr", self._child.stderr, on_error or _drop, supervision))
        self._end = asyncio.create_task(supervision.complete(errors, on_usage=on_usage), name="sandbox-conversation")

    async def write(self, data: bytes) -> None:
        """Write to the program's standard input, as fast as it reads."""
        stdin = self._child.stdin
        assert stdin is not None
        if self._end.done() or stdin.is_closing():
            raise BrokenPipeError("the program has ended")
        stdin.write(data)
        await stdin.drain()

    async def close_input(self) -> None:
        """End the program's standard input."""
        stdin = self._child.stdin
        if stdin is not None and not stdin.is_closing():
            stdin.close()

    async def read(self, size: int = 65536) -> bytes:
        """Return what the program wrote next; empty at the end, also when it wrote too much."""
        data = await self._child.stdout.read(size)
        return data if self._supervision.count(len(data)) else b""

    async def readline(self, limit: int = 16 << 20) -> bytes:
        """Return the program's next line; empty at the end."""
        line = b""
        while True:
            try:
                line += await self._child.stdout.readuntil(b"\n")
                break
            except asyncio.IncompleteReadError as end:
                line += end.partial
                break
            except asyncio.LimitOverrunError as overrun:
                line += await self._child.stdout.readexactly(overrun.consumed)
                if len(line) > limit:
                    self._supervision.end("output")
                    raise ValueError(f"the program wrote a line of more than {limit} bytes") from None
        return line if self._supervision.count(len(line)) else b""

    async def ended(self) -> Ended:
        """Wait for the program's end."""
        return await asyncio.shield(self._end)

    async def __aenter__(self) -> Conversation:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if not self._end.done():
            self._supervision.end("killed")
        await asyncio.wait([self._end])
        if not self._end.cancelled():
            self._end.exception()  # was told by ended(), if anybody asked


def _drop(_stream: Stream, _data: bytes) -> None:
    return None
