"""Starts bubblewrap, and holds the program back until its limits are set."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from retinue.sandbox.children import Child, memory_file, spawn
from retinue.sandbox.jobs import Job, SandboxFailed
from retinue.sandbox.supervision import Inside

_START_SECONDS = 30.0


@dataclass(slots=True)
class Held:
    """A sandbox whose walls stand and whose program waits for :meth:`release`."""

    child: Child
    inside: Inside
    hold: int
    told: int

    def release(self) -> None:
        """Let the program begin. BrokenPipeError if it has gone."""
        os.write(self.hold, b"1")
        os.close(self.hold)
        self.hold = -1

    async def abandon(self) -> None:
        """Kill it before it began."""
        self.inside.kill()
        self.inside.close()
        os.close(self.told)
        if self.hold >= 0:
            os.close(self.hold)
        await bury(self.child)


async def start(
    program: str, walls: Sequence[str], command: Sequence[str], job: Job, *, filters: bytes, talking: bool
) -> Held:
    """As :func:`_start`. Cancelled in the middle, it lets bubblewrap get to where it can be ended as a whole.

    Killed earlier, bubblewrap leaves its child behind: that one waits for a word of its dead parent, for ever.
    """
    starting = asyncio.ensure_future(_start(program, walls, command, job, filters=filters, talking=talking))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        while not starting.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([starting])
        if not starting.cancelled() and starting.exception() is None:
            await starting.result().abandon()
        raise


async def _start(
    program: str, walls: Sequence[str], command: Sequence[str], job: Job, *, filters: bytes, talking: bool
) -> Held:
    """Build the walls around ``command``; return once they stand. Raises SandboxFailed, with what bubblewrap said.

    Args:
        program: the path of bwrap.
        walls: its options, without those for descriptors.
        command: the first process inside.
        job: for its standard input.
        filters: the seccomp program.
        talking: the caller writes standard input.
    """
    with ExitStack() as undo:
        told, tell = _pipe()
        undo.callback(os.close, told)
        held, hold = _pipe()
        closing = ExitStack()
        undo.callback(os.close, hold)
        with closing:
            closing.callback(os.close, tell)
            closing.callback(os.close, held)
            filter_ = _kept(closing, memory_file("seccomp", filters))
            options = ["--json-status-fd", str(tell), "--block-fd", str(held), "--seccomp", str(filter_), *walls]
            # In a file, because every user of the machine can read a command line, and the environment is in these.
            listed = _kept(closing, memory_file("options", "".join(f"{one}\0" for one in options).encode()))
            stdin = None if talking else _kept(closing, job_input(job))
            argv = [program, "--args", str(listed), "--", *command]
            try:
                child = await spawn(argv, env={}, stdin=stdin, pass_fds=[listed, tell, held, filter_])
            except OSError as error:
                raise SandboxFailed(f"bubblewrap could not be started: {error.strerror}.") from error
        try:
            async with asyncio.timeout(_START_SECONDS):
                inside = await _first_process(told, child)
        except BaseException as error:
            await bury(child)
            if isinstance(error, TimeoutError):
                raise SandboxFailed("bubblewrap did not build the sandbox in time.") from error
            raise
        undo.pop_all()
    return Held(child, inside, hold, told)


def began(told: int) -> bool:
    """Tell, after the end, whether the first process inside was ever started."""
    os.set_blocking(told, False)
    try:
        return b"exit-code" in os.read(told, 65536)
    except BlockingIOError:
        return False


async def bury(child: Child) -> None:
    """Kill a process and wait until it is gone, also when the task that waits is cancelled."""
    child.kill()
    waiting = asyncio.ensure_future(asyncio.wait([child.exit]))
    try:
        await asyncio.shield(waiting)
    finally:
        if not waiting.done():
            await waiting
        child.close()


async def _first_process(told: int, child: Child) -> Inside:
    text = b""
    while b"}" not in text:
        piece = await _read(told)
        if not piece:
            raise await failure(child)
        text += piece
    try:
        return Inside.of(int(json.loads(text)["child-pid"]))
    except ProcessLookupError:  # a wall could not be built: it said so and ended
        raise await failure(child) from None


async def failure(child: Child) -> SandboxFailed:
    """Return what bubblewrap said before it ended; call it when something of it has gone."""
    said = await _complaint(child)
    return SandboxFailed(f"The sandbox could not be built: {said or 'no reason was given'}.")


async def _read(number: int) -> bytes:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def readable() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(number, readable)
    try:
        await ready
    finally:
        loop.remove_reader(number)
    return os.read(number, 4096)


async def _complaint(child: Child) -> str:
    with contextlib.suppress(TimeoutError):
        said = await asyncio.wait_for(child.stderr.read(), 2)  # it ends, so this does
        return said.decode("utf-8", "replace").strip().removeprefix("bwrap: ").rstrip(".")
    return ""


def job_input(job: Job) -> int:
    """Return a descriptor of what the program reads on standard input."""
    if job.stdin is None:
        return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    return memory_file("stdin", job.stdin)


def _pipe() -> tuple[int, int]:
    return os.pipe2(os.O_CLOEXEC)


def _kept(files: ExitStack, number: int) -> int:
    files.callback(os.close, number)
    return number
