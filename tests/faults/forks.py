"""Workers that are forked in a blink and die at a boundary: the test's side of ``zygote.py``."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from tests.support.running import RunningServer


class Zygote:
    """Forks workers; see ``zygote.py``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def worker(self, fatal: int, mutant: str = "") -> int:
        """Start a worker that dies at a boundary (0: lives) and may have a bug; return its process id."""
        return int(await self._ask(f"{fatal} {mutant}"))

    async def stop(self, pid: int) -> None:
        await self._ask(f"stop {pid}")

    async def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n".encode())
        await self._process.stdin.drain()
        return (await asyncio.wait_for(self._process.stdout.readline(), 30)).decode().strip()


@asynccontextmanager
async def zygote(server: RunningServer, trace: Path) -> AsyncIterator[Zygote]:
    environment = server.environment() | {
        "PYTHONPATH": os.pathsep.join([str(Path.cwd()), server.settings["PYTHONPATH"]]),
        "TEST_BOUNDARY_TRACE": str(trace),
    }
    log = (server.folder / "zygote.log").open("ab")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.faults.zygote",
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=log,
    )
    try:
        assert process.stdout is not None
        assert (await asyncio.wait_for(process.stdout.readline(), 60)).strip() == b"ready", server.log()
        yield Zygote(process)
    finally:
        process.kill()
        await process.wait()
        log.close()


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
