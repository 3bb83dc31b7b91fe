"""Starting load programs from the harness."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any, Self

import msgspec

ROOT = Path(__file__).resolve().parent.parent


class LoadFailed(Exception):
    """A load program ended without a result; the message is the end of what it said."""


class Load:
    """A running load program. `ready` waits for its set-up, `go` lets it work and returns its result.

    A plain subprocess read in a thread: asyncio's own subprocess streams end the output, perhaps with data still in
    it, when the process closes its input by ending (SubprocessStreamProtocol.pipe_connection_lost in Python 3.11).
    """

    def __init__(self, process: subprocess.Popen[bytes], errors: IO[bytes], timeout: float) -> None:
        self._process = process
        self._errors = errors
        self._timeout = timeout

    @classmethod
    async def start(cls, module: str, order: msgspec.Struct, *, timeout: float = 300.0) -> Self:
        """Start `python -m module` with its order; `timeout` seconds bound its set-up and its work each."""
        errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed by stop(): it lives as long as the process
        process = await asyncio.to_thread(
            subprocess.Popen,
            [sys.executable, "-m", module],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        load = cls(process, errors, timeout)
        load._tell(msgspec.json.encode(order))
        return load

    def _tell(self, line: bytes) -> None:
        if self._process.stdin is None:
            raise LoadFailed("the program has no input")
        try:
            self._process.stdin.write(line + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            # It has ended already; reading its answer says why.
            return

    async def _line(self) -> bytes:
        if self._process.stdout is None:
            raise LoadFailed("the program has no output")
        try:
            line = await asyncio.wait_for(asyncio.to_thread(self._process.stdout.readline), self._timeout)
        except TimeoutError:
            await self.stop()
            raise LoadFailed(f"no answer within {self._timeout:g} s") from None
        if not line.endswith(b"\n"):
            status = await asyncio.to_thread(self._process.wait, self._timeout)
            self._errors.seek(0)
            *_, said = self._errors.read().decode(errors="replace").strip().rsplit("\n", 1)
            raise LoadFailed(f"it ended with status {status}: {said[:400] or 'it said nothing'}")
        return line

    async def ready(self) -> None:
        """Wait until the set-up is done. Raises LoadFailed."""
        await self._line()

    async def go(self) -> dict[str, Any]:
        """Let it work; return its result. Raises LoadFailed."""
        self._tell(b"go")
        result: dict[str, Any] = msgspec.json.decode(await self._line())
        return result

    async def stop(self) -> None:
        """End the program if it still runs, and close what is left of it."""
        if self._process.poll() is None:
            self._process.kill()
        await asyncio.to_thread(self._process.wait)
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                stream.close()


async def run_load(module: str, order: msgspec.Struct, *, timeout: float = 300.0) -> dict[str, Any]:
    """Start a program, let it prepare and work, return its result. Raises LoadFailed."""
    load = await Load.start(module, order, timeout=timeout)
    try:
        await load.ready()
        return await load.go()
    finally:
        await load.stop()
