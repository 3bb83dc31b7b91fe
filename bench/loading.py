"""Starting load programs from the harness."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any, Self

import msgspec

ROOT = Path(__file__).resolve().parent.parent
# A result can be long: one number for every delivery of a thousand streams.
_LINE_LIMIT = 256 * 2**20


class LoadFailed(Exception):
    """A load program ended without a result; the message is the end of what it said."""


class Load:
    """A running load program. `ready` waits for its set-up, `go` lets it work and returns its result."""

    def __init__(self, process: asyncio.subprocess.Process, timeout: float) -> None:
        self._process = process
        self._timeout = timeout

    @classmethod
    async def start(cls, module: str, order: msgspec.Struct, *, timeout: float = 300.0) -> Self:
        """Start `python -m module` with its order; `timeout` seconds bound its set-up and its work each."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_LINE_LIMIT,
        )
        load = cls(process, timeout)
        load._tell(msgspec.json.encode(order))
        return load

    def _tell(self, line: bytes) -> None:
        if self._process.stdin is None:
            raise LoadFailed("the program has no input")
        self._process.stdin.write(line + b"\n")

    async def _line(self) -> bytes:
        if self._process.stdout is None:
            raise LoadFailed("the program has no output")
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), self._timeout)
        except TimeoutError:
            await self.stop()
            raise LoadFailed(f"no answer within {self._timeout:g} s") from None
        if not line:
            _, error = await self._process.communicate()
            raise LoadFailed(error.decode(errors="replace").strip()[-600:] or "it ended without a word")
        return line

    async def ready(self) -> None:
        """Wait until the set-up is done. Raises LoadFailed."""
        await self._line()

    async def go(self) -> dict[str, Any]:
        """Let it work; return its result. Raises LoadFailed."""
        self._tell(b"go")
        result: dict[str, Any] = msgspec.json.decode(await self._line())
        await self._process.wait()
        return result

    async def stop(self) -> None:
        """End the program if it still runs."""
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


async def run_load(module: str, order: msgspec.Struct, *, timeout: float = 300.0) -> dict[str, Any]:
    """Start a program, let it prepare and work, return its result. Raises LoadFailed."""
    load = await Load.start(module, order, timeout=timeout)
    try:
        await load.ready()
        return await load.go()
    finally:
        await load.stop()
