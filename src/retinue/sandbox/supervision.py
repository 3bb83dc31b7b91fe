"""A job that is under way: its output is passed on, its use is measured, and it is ended when it goes over."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import select
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, cast

from retinue.sandbox.children import Child
from retinue.sandbox.jobs import Ended, Limits, OnOutput, OnUsage, Reason, SandboxFailed, Stream, Usage
from retinue.sandbox.levels import Level

_CHUNK = 65536
_GRACE = 2.0
"""Seconds after which the process that waits for the first one inside is killed, too; it should have ended by now."""

_LAST_WORDS = 30.0
"""Seconds that a consumer has, once everything is dead, to take what was still in the pipes."""


class Meter(Protocol):
    """Measures a running job, and tells when it has gone over a limit."""

    interval: float

    async def sample(self) -> Reason | None:
        """Measure once; return what the job must be ended for, if anything."""
        ...

    def before_kill(self) -> None:
        """Measure what cannot be measured any more when every process is dead."""
        ...

    async def finish(self, told: float) -> Reason | None:
        """Measure for the last time, when every process is dead. ``told``: CPU seconds, as the kernel told of the tree.

        Those of processes that were killed are not among them.
        """
        ...

    def usage(self, seconds: float) -> Usage:
        """What was used."""
        ...


@dataclass(slots=True)
class Inside:
    """The first process inside the sandbox: when it is dead, the kernel has killed all the others."""

    pid: int
    pidfd: int
    by: signal.Signals = signal.SIGKILL

    @classmethod
    def of(cls, pid: int, by: signal.Signals = signal.SIGKILL) -> Inside:
        """Hold on to a process. ``by``: the signal that ends it and all others. ``ProcessLookupError``: it has gone."""
        return cls(pid, os.pidfd_open(pid), by)

    def kill(self) -> None:
        """Kill it, and with it everything that came of it."""
        if self.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, self.by)

    async def gone(self) -> None:
        """Kill it, and wait until it is dead: then the kernel has killed and reaped all that came of it."""
        while not select.select([self.pidfd], [], [], 0)[0]:
            self.kill()
            await asyncio.sleep(0.005)

    def close(self) -> None:
        """Let go of the handle."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


class Supervision:
    """Watches over one started job until nothing of it is alive."""

    def __init__(
        self,
        child: Child,
        inside: Inside,
        limits: Limits,
        meter: Meter,
        level: Level,
        *,
        began: Callable[[], bool],
        clean_up: Callable[[], Awaitable[None]],
    ) -> None:
        self.child = child
        self._inside = inside
        self._limits = limits
        self._meter = meter
        self._level = level
        self._began = began
        self._clean_up = clean_up
        self.first_errors = b""
        self._started = time.monotonic()
        self._verdict: Reason | None = None
        self._written = 0
        self._usage: Usage | None = None
        self._nothing_ran = False
        self._tasks: list[asyncio.Task[None]] = []

    def count(self, size: int) -> bool:
        """Count output; end the job if it is too much. Return whether it may be passed on."""
        self._written += size
        if self._written > self._limits.output:
            self.end("output")
            return False
        return True

    def end(self, reason: Reason) -> None:
        """Kill everything inside. The first reason given is the one that is told."""
        # What was written is counted after the end, too: a program may write too much and be gone before it is read.
        if self._verdict is None and (reason == "output" or not self.child.exit.done()):
            self._verdict = reason
        self.kill()

    def kill(self) -> None:
        """Kill the first process inside: the one that waits for it ends by itself, and tells what was used."""
        if not self.child.exit.done():
            self._meter.before_kill()
        self._inside.kill()

    async def complete(self, *pumps: asyncio.Task[None], on_usage: OnUsage | None = None) -> Ended:
        """Wait for the end; then measure, and tell. If a pump or the caller's wish stops this, everything is killed."""
        watch = asyncio.create_task(self._watch(), name="sandbox-watch")
        clock = asyncio.create_task(self._deadline(), name="sandbox-deadline")
        self._tasks = [watch, clock, *pumps]
        exit_ = self.child.exit
        try:
            waiting: set[asyncio.Future[object]] = {cast("asyncio.Future[object]", exit_), *self._futures()}
            while not exit_.done():
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for one in done:
                    if one is not exit_:
                        one.result()  # a pump whose consumer failed ends the job
            await self._inside.gone()  # at once, unless somebody killed the process that waits for it
            if pumps:
                done_pumps, late = await asyncio.wait(pumps, timeout=_LAST_WORDS)
                for pump in done_pumps:
                    pump.result()
                if late:
                    self._verdict = self._verdict or "output"
            late_verdict = await self._measure()
            return self._told(exit_.result().code, self._verdict or late_verdict)
        finally:
            try:
                await self._stop()
            finally:
                if on_usage is not None and self._usage is not None and not self._nothing_ran:
                    on_usage(self._usage)

    async def _measure(self) -> Reason | None:
        """Measure for the last time: every process is dead, and what counted them is still there."""
        seconds = time.monotonic() - self._started
        try:
            return await self._meter.finish(self.child.exit.result().cpu_seconds)
        finally:
            self._usage = self._meter.usage(seconds)

    def _told(self, code: int, verdict: Reason | None) -> Ended:
        if not self._began() and verdict is None and code > 0:
            self._nothing_ran = True
            said = self.first_errors.decode("utf-8", "replace").strip().removeprefix("bwrap: ").rstrip(".")
            raise SandboxFailed(f"The sandbox could not be built: {said or 'no reason was given'}.")
        if verdict is None and code < 0:
            verdict = "killed"  # somebody outside killed the process that waits
        assert self._usage is not None
        if verdict is not None:
            return Ended(exit_code=None, reason=verdict, usage=self._usage, level=self._level)
        return Ended(exit_code=code, reason="exited", usage=self._usage, level=self._level)

    def _futures(self) -> set[asyncio.Future[object]]:
        return {cast("asyncio.Future[object]", task) for task in self._tasks}

    async def _stop(self) -> None:
        """Kill what is alive and wait until it is dead, whatever happens to the task that waits for it."""
        self.kill()
        for task in self._tasks:
            task.cancel()
        stopping = asyncio.ensure_future(self._bury())
        cancelled = False
        while not stopping.done():
            try:
                await asyncio.shield(stopping)
            except asyncio.CancelledError:
                if stopping.done():
                    break
                cancelled = True
        if cancelled:
            raise asyncio.CancelledError

    async def _bury(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while not self.child.exit.done():
            # Again and again: the process that waits may not yet have known of the first process inside.
            self.kill()
            await asyncio.wait([self.child.exit], timeout=_GRACE)
            if not self.child.exit.done():
                self.child.kill()
        await self._inside.gone()
        if self._usage is None:
            with contextlib.suppress(OSError):  # what the samples told, then
                await self._measure()
        self.child.close()
        self._inside.close()
        await self._clean_up()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._meter.interval)
            reason = await self._meter.sample()
            if reason is not None:
                self.end(reason)
                return

    async def _deadline(self) -> None:
        await asyncio.sleep(self._limits.seconds)
        self.end("timeout")


async def pump(stream: Stream, source: asyncio.StreamReader, on_output: OnOutput, supervision: Supervision) -> None:
    """Pass a stream on, piece by piece, until it ends or is too much."""
    while data := await source.read(_CHUNK):
        if stream == "stderr" and len(supervision.first_errors) < _CHUNK:
            supervision.first_errors += data[:1000]
        if not supervision.count(len(data)):
            return
        answer = on_output(stream, data)
        if inspect.isawaitable(answer):
            await answer
