"""Watching processes: processor time and memory of a server and of its database."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

import psutil

_SAMPLE_SECONDS = 0.02


@dataclass(slots=True)
class Peak:
    """The largest memory seen, in bytes."""

    bytes: int = 0


def family(pid: int) -> list[psutil.Process]:
    """Return a process and all its descendants that live now."""
    try:
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return user and system time of these processes, their descendants, and descendants that ended and were reaped."""
    total = 0.0
    for pid in pids:
        for process in family(pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                used = process.cpu_times()
                total += used.user + used.system + used.children_user + used.children_system
    return total


def memory_bytes(pid: int, *, without: Iterable[int] = ()) -> int:
    """Return the resident memory of a process and its descendants, without the families of `without`."""
    left_out = {process.pid for other in without for process in family(other)}
    total = 0
    for process in family(pid):
        if process.pid not in left_out:
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
    return total


@contextlib.asynccontextmanager
async def peak_memory(pid: int, *, without: Iterable[int] = ()) -> AsyncIterator[Peak]:
    """Sample the resident memory every 20 ms while the block runs."""
    peak, left_out = Peak(memory_bytes(pid, without=without)), tuple(without)

    async def sample() -> None:
        while True:
            peak.bytes = max(peak.bytes, memory_bytes(pid, without=left_out))
            await asyncio.sleep(_SAMPLE_SECONDS)

    task = asyncio.create_task(sample())
    try:
        yield peak
    finally:
        task.cancel()
