"""What the sandboxes of container engines share: a container is started, listened to, measured, ended and removed."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass

from retinue.sandbox.jobs import Ended, Limits, OnOutput, OnUsage, Reason, Stream, Usage
from retinue.sandbox.levels import Level


@dataclass(frozen=True, slots=True)
class Gone:
    """How a container ended: its exit code, and whether the kernel killed it for its memory."""

    code: int
    out_of_memory: bool = False


@dataclass(slots=True)
class Tally:
    """What samples told."""

    cpu_seconds: float = 0.0
    peak: int = 0
    byte_seconds: float = 0.0
    last: float = 0.0

    def add(self, memory: int, peak: int, cpu_seconds: float) -> None:
        """Take one sample."""
        now = time.monotonic()
        self.byte_seconds += memory * (now - self.last if self.last else 0.0)
        self.last = now
        self.peak = max(self.peak, memory, peak)
        self.cpu_seconds = max(self.cpu_seconds, cpu_seconds)


class Container(ABC):
    """One container of an engine, made and not yet started."""

    @abstractmethod
    async def start(self) -> None:
        """Start it."""

    @abstractmethod
    def output(self) -> AsyncIterator[tuple[Stream, bytes]]:
        """Yield what it writes, to its end."""

    @abstractmethod
    async def wait(self) -> Gone:
        """Wait for its end."""

    @abstractmethod
    async def watch(self, tally: Tally) -> Reason | None:
        """Measure until it must be ended for something, or for ever."""

    def reckon(self, tally: Tally) -> None:  # noqa: B027 - an engine that tells more has nothing to add
        """Add what can be said of its use without asking, now that it has ended or is about to be removed."""

    @abstractmethod
    async def remove(self) -> None:
        """Kill it if it runs, and remove it; return once the engine says that it is gone."""


async def carry_out(
    container: Container, limits: Limits, on_output: OnOutput, level: Level, on_usage: OnUsage | None = None
) -> Ended:
    """Run a container to its end. However this is left, the container is gone before it returns.

    An engine is asked for the use while the container runs: of one that is removed, what it said last is all there is.
    """
    began = time.monotonic()
    usage: Usage | None = None
    tally = Tally()
    written = 0

    async def listen() -> Reason | None:
        nonlocal written
        async for stream, data in container.output():
            written += len(data)
            if written > limits.output:
                return "output"
            answer = on_output(stream, data)
            if inspect.isawaitable(answer):
                await answer
        return None

    def used() -> Usage:
        container.reckon(tally)
        return Usage(
            seconds=time.monotonic() - began,
            cpu_seconds=tally.cpu_seconds,
            peak_memory=tally.peak,
            memory_byte_seconds=tally.byte_seconds,
        )

    started = False
    tasks: dict[str, asyncio.Task[Reason | Gone | None]] = {}
    try:
        tasks["listen"] = asyncio.create_task(listen())
        await container.start()
        started = True
        tasks["wait"] = asyncio.create_task(container.wait())
        tasks["watch"] = asyncio.create_task(container.watch(tally))
        reason: Reason | None = None
        gone: Gone | None = None
        waiting = set(tasks.values())
        until = began + limits.seconds
        while gone is None and reason is None:
            done, waiting = await asyncio.wait(
                waiting, timeout=max(0.0, until - time.monotonic()), return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                reason = "timeout"
            for task in done:
                result = task.result()
                if isinstance(result, Gone):
                    gone = result
                elif result is not None:
                    reason = result
        if gone is not None and not tasks["listen"].done():
            await asyncio.wait([tasks["listen"]], timeout=10)  # what it wrote last is still on its way
            if tasks["listen"].done() and tasks["listen"].result() == "output":
                reason = "output"
        if gone is not None and gone.out_of_memory:
            reason = reason or "memory"
        usage = used()
        code = gone.code if gone is not None and reason is None else None
        return Ended(exit_code=code, reason=reason or "exited", usage=usage, level=level)
    finally:
        if usage is None and started:
            usage = used()
        try:
            await _clear(container, list(tasks.values()))
        finally:
            if usage is not None and on_usage is not None:
                on_usage(usage)


async def _clear(container: Container, tasks: list[asyncio.Task[Reason | Gone | None]]) -> None:
    """Stop listening and remove the container, also if the caller is cancelled once more."""
    for task in tasks:
        task.cancel()

    async def clear() -> None:
        await asyncio.gather(*tasks, return_exceptions=True)
        await container.remove()

    clearing = asyncio.ensure_future(clear())
    cancelled = False
    while not clearing.done():
        try:
            await asyncio.shield(clearing)
        except asyncio.CancelledError:
            cancelled = not clearing.done() or cancelled
    with contextlib.suppress(asyncio.CancelledError):
        clearing.result()
    if cancelled:
        raise asyncio.CancelledError
