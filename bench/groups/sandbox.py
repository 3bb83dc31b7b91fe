"""A program in the sandbox, from the order to its end, against the same program as a plain subprocess."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench.harness import Bench, median
from bench.rows import Goal, Group, Measured, Results, fixed, plus
from retinue.kernel import new_id
from retinue.sandbox import Bubblewrap, Job, Level, Limits, Sandbox
from retinue.sandbox.means import Means
from retinue.sandbox.volumes import Kind

_PROGRAM = "/bin/true"


async def _plain() -> None:
    process = await asyncio.create_subprocess_exec(
        _PROGRAM, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    await process.communicate()


async def _times(once: Callable[[], Awaitable[float]], count: int) -> list[float]:
    await once()
    return [await once() for _ in range(count)]


async def _timed(what: Awaitable[object]) -> float:
    began = time.perf_counter()
    await what
    return (time.perf_counter() - began) * 1000


async def _in_sandbox(sandbox: Sandbox, level: Level, *, whole: bool) -> float:
    """Run the program once; return milliseconds, with making and wiping the workspace if ``whole``."""
    began = time.perf_counter()
    limits, job_id = Limits(), str(new_id())
    workspace = await sandbox.prepare(job_id, limits)
    job = Job(job_id=job_id, argv=[_PROGRAM], workspace=workspace, limits=limits)
    run = time.perf_counter()
    ended = await sandbox.run(job, lambda _stream, _data: None)
    done = time.perf_counter()
    await sandbox.wipe(workspace)
    assert (ended.exit_code, ended.level) == (0, level), ended
    return ((time.perf_counter() - began) if whole else (done - run)) * 1000


async def _measure(bench: Bench) -> Results:
    count = 20 if bench.quick else 100
    folder: Path = bench.scratch("sandbox")
    watched, held = Bubblewrap(folder / "b", means=Means(None, Kind.FOLDER)), Bubblewrap(folder / "a")
    plain: list[float] = []
    started: list[float] = []
    for _ in range(count):  # by turns, so that both meet the same machine
        plain.append(await _timed(_plain()))
        started.append(await _in_sandbox(watched, Level.B, whole=False))
    whole = await _times(lambda: _in_sandbox(watched, Level.B, whole=True), count // 2)
    results = {
        "a program in the sandbox, level B": Measured(median(started), median(plain), "/bin/true, until its end"),
        "the same with its folders made and wiped": Measured(median(whole)),
    }
    best = (await held.probe()).level
    name = "the same at level A, with its volume"
    if best is Level.A:
        results[name] = Measured(median(await _times(lambda: _in_sandbox(held, Level.A, whole=True), count // 2)))
    else:
        results[name] = Measured(None, note=f"this machine reaches level {best}")
    return results


GROUP = Group(
    "sandbox",
    (
        Goal("a program in the sandbox, level B", "ms", plus(10), "plain subprocess + 10 ms"),
        Goal("the same with its folders made and wiped", "ms", fixed(50), "50 ms", needs_floor=False),
        Goal("the same at level A, with its volume", "ms", fixed(150), "150 ms", needs_floor=False),
    ),
    _measure,
)
